"""A training run's folder. What the run is made from is fixed at its first start and read by every later command.

run.json                what identifies the run, the pinned manifest, classes, versions (put-if-absent)
cohort-<sha256>.parquet the labelled slides with their part in every fold
fits/seed-2021/fold-0/plain/…  results and models (the core's layout)
sampling-<sha256>.json  with sampling_by_hardness: how often each fold draws each training bag
initial/…               with a warm start: the models it starts from, and the patients they were trained on
evaluation/…            held-out predictions, metrics, attention
report.html, MODEL_CARD.md
"""

import platform
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.storage import open_storage
from flows.runs.store_place import StorePlace, find_store, moved_file
from mhim_core.cohort.splits import Split
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import BagUnit
from mhim_core.cohort.tasks import BagMembers, make_bags
from mhim_core.errors import ConflictError, InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, neutral_values, sha256
from mhim_core.mil.model_options import MhimOptions
from mhim_core.records import field_names, parse_json, read_record
from mhim_core.registry.card import TrainedOn
from mhim_core.slides.spec import TileSpec, stored_spec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.layout import feature_set_key
from mhim_core.store.manifest import Manifest, read_manifest
from mhim_core.tables import read_parquet, write_parquet
from mhim_core.task import Task
from mhim_core.train.plan import Stage
from mhim_core.train.prediction import PredictOptions, PredictWith
from mhim_core.train.sections import flat, flat_options
from mhim_core.types import IMPORTED, PatientId, SlideId

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import PatientBags

RUN = "run.json"
SWEEP = "sweep.json"
"""Of a folder that many runs lie in (`flows/sweeps/records.py`)."""
_SCHEMA = 2
_PACKAGES = ("mhim", "torch", "ray", "numpy", "pyarrow", "openslide-python", "openslide-bin")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it was started. Read it with `read_run`."""

    storage: Storage
    record: dict[str, Any]
    slides: tuple[CohortRow, ...]
    splits: tuple[Split, ...]
    named_store: str = ""
    """The store that the command names for the run's features; empty: the one that the run recorded."""
    spare_store: str = ""
    """A store that the command names for another purpose; used if the run's own is not found."""
    features: "PinnedFeatures | None" = None
    """What the run is pinned to, where its command has opened and read it already; None: read when needed."""
    named_predict_with: PredictWith | None = None
    """Which of its models the command wants to predict; None: the one that the run was started with."""

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the run's result."""
        identity: dict[str, Any] = self.record["identity"]
        return identity

    @cached_property
    def task(self) -> Task:
        """What is predicted."""
        return read_record(Task, self.identity["task"], self.storage.locate(RUN))

    @property
    def classes(self) -> tuple[str, ...]:
        """Empty where the task has none."""
        return self.task.classes

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with which every fold is trained; the first also drew the folds."""
        return tuple(self.identity["seeds"])

    @cached_property
    def bags(self) -> tuple[BagMembers, ...]:
        """The bags that are trained on and predicted: slides, or all slides of a patient."""
        return make_bags(self.slides, self.task, BagUnit(self.identity["target"]["bags"]))

    @cached_property
    def store_place(self) -> StorePlace:
        """Where the run's features are now. Raises InputError if they are not found."""
        if self.features is not None:
            return StorePlace(self.features.store, True)
        return find_store(self.storage, self.record, self.named_store, self.spare_store)

    @property
    def store_uri(self) -> str:
        """Of `feature_store`."""
        return self.store_place.uri

    def slide_uri(self, slide: CohortRow) -> str:
        """Where the slide's file is: moved along with the run, if it exists there."""
        return moved_file(slide.uri, self.storage, self.record)

    @property
    def method(self) -> str:
        """mhim or plain."""
        return str(self.identity["method"])

    @cached_property
    def predict_with(self) -> PredictWith:
        """Which of a fold's models is the reported one, and predicts; student where the run has stage 1 alone."""
        return self.named_predict_with or self.started_with

    @cached_property
    def started_with(self) -> PredictWith:
        """The same, as the run was started."""
        raw = self.identity.get("prediction", {})
        return read_record(PredictOptions, raw, self.storage.locate(RUN)).predict_with

    @property
    def feature_store(self) -> Storage:
        """The store of the run's features. Raises InputError if they are not found."""
        return self.store_place.storage

    @cached_property
    def feature_set(self) -> FeatureSet:
        """Tiling and encoder of the run's features. Raises as `feature_store`."""
        if self.features is not None:
            return self.features.feature_set
        return FeatureSet.from_json(self.feature_store.get(feature_set_key(self.identity["feature_set"])))

    def bag_source(self) -> "PatientBags":
        """The run's bags over the pinned features."""
        from mhim_core.store.bags import ParquetBags, PatientBags

        slides = ParquetBags(self.feature_store, self.manifest.bags())
        return PatientBags(slides, {bag.bag_id: bag.slide_ids for bag in self.bags})

    @cached_property
    def manifest(self) -> Manifest:
        """The pinned manifest, decoded once. Raises IntegrityError if the store has another under its name."""
        if self.features is not None:
            return self.features.manifest
        pin = self.record["manifest"]
        return read_manifest(self.feature_store, self.identity["feature_set"], pin["version"], pin["sha256"])


class PinnedFeatures(NamedTuple):
    """A store with the feature set and the manifest that a run is pinned to."""

    store: Storage
    feature_set: FeatureSet
    manifest: Manifest


def start_run(
    storage: Storage,
    record: dict[str, Any],
    slides: tuple[CohortRow, ...],
    splits: tuple[Split, ...],
    teachers: dict[str, str] | None = None,
    present: dict[str, Any] | None = None,
) -> Run:
    """Open the run in its folder or create it. A second command with the same identity uses what the first pinned.

    `teachers`: the sha256 of each stage-1 model that is taken from another run, by fit; None: the run trains its own.
    `present`: the folder's record, where it has been read; None: it is read, or created.

    Raises ConflictError (5) if the folder holds a sweep, or a run of another configuration, naming what differs.
    """
    table = _cohort_rows(slides, splits)
    identity = record["identity"] | {"cohort": cohort_identity(slides, splits)}
    if teachers is not None:
        identity["teachers"] = teachers
    record = record | {"schema": _SCHEMA, "identity": identity, "fingerprint": fingerprint(identity)}
    present = maybe_record(storage) if present is None else present
    if present is None:
        _check_no_sweep(storage)
        data = write_parquet(table)
        record |= {"cohort_sha256": sha256(data), "versions": package_versions()}
        # named by its content: of two starts at once, each has its own table and run.json names the winner's
        storage.put_if_absent(_cohort_key(record), data)
        storage.put_if_absent(RUN, canonical_json(record))
        present = maybe_record(storage)
        assert present is not None
    if present["fingerprint"] != record["fingerprint"]:
        raise ConflictError(
            f"{storage.uri} holds a run of another configuration ({_difference(present, record)}); "
            "choose another out=, or give the same keys to resume it"
        )
    return _load(storage, present)


def _check_no_sweep(storage: Storage) -> None:
    with suppress(NotFoundError):
        storage.get(SWEEP)
        raise ConflictError(f"{storage.uri} holds a sweep; its trainings lie below runs/, choose another out=")


def cohort_identity(slides: tuple[CohortRow, ...], splits: tuple[Split, ...]) -> str:
    """Digest of slides, targets and folds, without the slides' places: a moved cohort resumes its run."""
    table = _cohort_rows(slides, splits)
    return fingerprint([{key: value for key, value in row.items() if key not in ("uri", "mpp")} for row in table])


class Pin(NamedTuple):
    """A manifest's version and the sha256 it must have."""

    feature_set: str
    version: int
    sha256: str


def pinned_manifest(record: dict[str, Any] | None) -> Pin | None:
    """What the run with this record was started with; None where there is no run yet."""
    if record is None:
        return None
    pin = record["manifest"]
    return Pin(record["identity"]["feature_set"], pin["version"], pin["sha256"])


def pinned_teachers(record: dict[str, Any] | None, teacher: str) -> dict[str, str] | None:
    """The stage-1 models that the run with this record took from `teacher` when it was created; None: it took none."""
    if record is None or record["config"].get("teacher") != teacher:
        return None
    teachers: dict[str, str] | None = record["identity"].get("teachers")
    return teachers


def read_run(uri: str, *, store: str = "", spare_store: str = "", predict_with: PredictWith | None = None) -> Run:
    """The run at a folder or `s3://` URI, with its features in `store` and other than its own `predict_with` (see
    `Run`).

    Raises InputError if there is none, or if it has no such model, IntegrityError if it is damaged.
    """
    storage = open_storage(uri)
    record = maybe_record(storage)
    if record is None:
        raise InputError(f"run={uri} holds no run ({RUN} is not there); it is the out= of mhim train")
    run = _load(storage, record)
    if predict_with is not None and not has_model(run.method, predict_with):
        raise InputError(
            f"predict_with={predict_with}: {uri} was trained with method={run.method}, which has one model a fold"
        )
    return replace(run, named_store=store, spare_store=spare_store, named_predict_with=predict_with)


def has_model(method: str, predict_with: PredictWith) -> bool:
    """Whether a fold has that model: without MHIM there is the stage-1 model alone."""
    return method == Stage.mhim or predict_with in (PredictWith.student, PredictWith.plain)


def pinned_start(record: dict[str, Any] | None, warm_start: str) -> dict[str, Any] | None:
    """What the run with this record fixed of its `warm_start` when it was created; None: it started from scratch."""
    if record is None or record["config"].get("warm_start") != warm_start:
        return None
    start: dict[str, Any] | None = record["identity"].get("warm_start")
    return start


def known_before(run: Run) -> TrainedOn | None:
    """The patients of the model that the run started from; None without a warm start. Raises IntegrityError."""
    start = run.identity.get("warm_start")
    if start is None:
        return None
    key = known_key(start["trained_on"])
    try:
        known = read_record(TrainedOn, parse_json(run.storage.get(key)), run.storage.locate(key))
    except (NotFoundError, ValueError) as error:
        raise IntegrityError(f"{run.storage.locate(key)} is gone or damaged; run mhim train again") from error
    if fingerprint(known) != start["trained_on"]:
        raise IntegrityError(f"{run.storage.locate(key)} is not what {RUN} names")
    return known


def known_key(digest: str) -> str:
    """The key in the run of the `TrainedOn` with this fingerprint, that of the model it started from."""
    return f"initial/known-{digest[:16]}.json"


def run_tiling(run: Run) -> TileSpec | None:
    """The run's tile spec; None: another tool cut the tiles. Raises InputError if this version cuts them otherwise."""
    if IMPORTED in run.record["tiling"]:
        return None
    return stored_spec(run.record["tiling"], "the run's slides")


def package_versions() -> dict[str, str]:
    """Versions of the packages on which the result depends."""
    version_of = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            version_of[name] = version(name)
        except PackageNotFoundError:
            continue
    return version_of


def maybe_record(storage: Storage) -> dict[str, Any] | None:
    """The record of the run in this folder; None: it holds no run. Raises IntegrityError for a damaged record."""
    try:
        record = parse_json(storage.get(RUN))
    except NotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{storage.locate(RUN)} is damaged: {error}") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != _SCHEMA:
        raise IntegrityError(f"{storage.locate(RUN)} has schema {schema}; this mhim reads {_SCHEMA}")
    document: dict[str, Any] = record
    return document


def _cohort_key(record: dict[str, Any]) -> str:
    return f"cohort-{record['cohort_sha256'][:16]}.parquet"


def _load(storage: Storage, record: dict[str, Any]) -> Run:
    key = _cohort_key(record)
    try:
        data = storage.get(key)
    except NotFoundError as error:
        raise IntegrityError(f"the run's table of slides is gone: {error}") from error
    if sha256(data) != record["cohort_sha256"]:
        raise IntegrityError(f"{storage.locate(key)} is not the table that {RUN} names")
    rows = read_parquet(data).to_pylist()
    slides = tuple(
        CohortRow(
            SlideId(row["slide_id"]),
            row["uri"],
            PatientId(row["patient_id"]),
            row["label"],
            row["mpp"],
            site=row["site"],
            time=row["time"],
            event=row["event"],
        )
        for row in rows
    )
    splits = []
    for fold in sorted({fold for row in rows for fold in row["folds"]}):
        parts: dict[str, list[SlideId]] = {"train": [], "validation": [], "test": []}
        for row in rows:
            for own_fold, part in zip(row["folds"], row["parts"], strict=True):
                if own_fold == fold:
                    parts[part].append(SlideId(row["slide_id"]))
        splits.append(Split(fold, *(tuple(ids) for ids in parts.values())))
    return Run(storage=storage, record=record, slides=slides, splits=tuple(splits))


def _cohort_rows(slides: tuple[CohortRow, ...], splits: tuple[Split, ...]) -> list[dict[str, Any]]:
    places: dict[SlideId, list[tuple[int, str]]] = {}
    for split in splits:
        for part in ("train", "validation", "test"):
            for slide_id in getattr(split, part):
                places.setdefault(slide_id, []).append((split.fold, part))
    return [
        {
            "slide_id": slide.slide_id,
            "uri": slide.uri,
            "patient_id": slide.patient_id,
            "label": slide.label,
            "time": slide.time,
            "event": slide.event,
            "mpp": slide.mpp,
            "site": slide.site,
            "folds": [fold for fold, _ in places.get(slide.slide_id, [])],
            "parts": [part for _, part in places.get(slide.slide_id, [])],
        }
        for slide in sorted(slides, key=lambda row: row.slide_id)
    ]


def _difference(present: dict[str, Any], wanted: dict[str, Any]) -> str:
    """`epochs: 200 there, 20 here, …`, by the names of the keys."""
    stored, current = _settings(present), _settings(wanted)
    if present["identity"]["method"] != wanted["identity"]["method"]:  # a plain run has none of MHIM's keys
        stored, current = (
            {key: value for key, value in identity.items() if key not in _MHIM} for identity in (stored, current)
        )
    keys = [key for key in sorted({*stored, *current}) if stored.get(key) != current.get(key)]
    parts = [f"{key}: {stored.get(key, 'none')} there, {current.get(key, 'none')} here" for key in keys[:6]]
    if len(keys) > 6:
        parts.append(f"{len(keys) - 6} more keys")
    follows = {*flat(wanted["identity"]["splits"]), "seed"}  # these change the folds, and so the table, by themselves
    if present["identity"]["cohort"] != wanted["identity"]["cohort"] and not follows & {*keys}:
        parts.append("the slides, their labels, patients or folds")
    if present["identity"]["feature_set"] != wanted["identity"]["feature_set"] and not parts:
        parts.append("the features: another version of the encoder or of the tissue finder")
    if present["identity"].get("teachers") != wanted["identity"].get("teachers"):
        parts.append("the stage-1 models that are taken from another run")
    if present["identity"].get("warm_start") != wanted["identity"].get("warm_start"):
        parts.append("the model that it starts from")
    if present["identity"].get("sampling") != wanted["identity"].get("sampling"):
        parts.append("how often bags are drawn by their type (sampling_by_hardness=)")
    return ", ".join(parts)


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The run's identity as flat keys, without digests and the models of other runs, which are described in words."""
    identity = {key: value for key, value in record["identity"].items() if key not in _IN_WORDS}
    tiling = {**neutral_values(TileSpec), **flat(record["tiling"])}
    # a section that is left out as a whole states nothing to `flat_options`
    prediction = dict(neutral_values(PredictOptions))
    return {"encoder": record["encoder"].get("id")} | tiling | prediction | flat_options(identity)


_IN_WORDS = ("cohort", "feature_set", "teachers", "warm_start", "sampling")
_MHIM = field_names(MhimOptions)
