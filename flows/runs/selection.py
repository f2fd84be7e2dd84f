"""By what a share of each slide's tiles is chosen: a feature set of the store, and perhaps the models of a run.

Settled once, before anything starts; the choice itself is made where a slide is decoded (`cluster/tile_selection.py`).
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cluster.tile_selection import ScoringModel, TileSelection
from flows.config.keys import SelectionKeys
from flows.runs.fits import results_of
from flows.runs.folder import Run, known_before, read_run
from flows.runs.tiling import tiling_words
from mhim_core.cohort.rows import CohortRow
from mhim_core.embed.registry import ENCODER_NAMES, is_encoder_name
from mhim_core.errors import ConfigError, InputError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import fingerprint
from mhim_core.mil.registry import MINING_AGGREGATORS
from mhim_core.slides.spec import TileSpec, TissueMethod, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, is_registered, list_feature_sets
from mhim_core.store.manifest import newest_version, read_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.types import FailureReason, PatientId, SlideId, SlideTask, Status, StatusRow

SPREAD, ATTENTION = "spread", "attention"


@dataclass(frozen=True, kw_only=True)
class SettledSelection:
    """How tiles are chosen, with what each slide's choice is made by."""

    spec: TileSpec
    """The tiling, with all that names the choice."""
    selection: TileSelection
    records: Mapping[SlideId, CommitRecord]
    """The slides' features by which tiles are chosen."""
    voters: Mapping[SlideId, tuple[int, ...]]
    """Of slides that the run knows: the models that score them; of others all do."""
    source: str
    """The encoder of these features, for people."""

    def looked(self, task: SlideTask) -> SlideTask | StatusRow:
        """The task with what its tiles are chosen by, or its failure."""
        record = self.records.get(task.slide_id)
        if record is None:
            message = (
                f"the store has no features of {self.source} by which its tiles could be chosen; embed it with that"
            )
            return StatusRow(
                task.slide_id, Status.FAILED, FailureReason.NO_ANNOTATION, "plan", "SlideError", message, attempts=0
            )
        if record.status is Status.EMPTY:
            return task
        return task._replace(chosen_by=record.key, voters=self.voters.get(task.slide_id, ()))


def settled_selection(
    spec: TileSpec, keys: SelectionKeys, storage: Storage, rows: Sequence[CohortRow], *, fixed: bool = False
) -> SettledSelection | None:
    """The choice that the keys name; None: all tiles are embedded.

    `fixed`: the spec is a model's or a store's, and the keys must name the choice that it was made with. Raises
    ConfigError for keys that do not fit together, InputError where the store has no such features of any of the slides,
    or the run is not finished.
    """
    if not keys.is_set:
        if spec.selects:
            raise ConfigError(f"these tiles were chosen by {_named(spec)}; name it with {_key_of(spec)}=")
        if spec.select_share < 1:
            raise ConfigError(
                f"select_share={spec.select_share:g} needs select_by= or select_run=, which choose the tiles"
            )
        return None
    if fixed and not spec.selects:
        raise ConfigError(
            "the features that are needed are of all tiles, and none are to be chosen: leave out select_…="
        )
    if spec.select_share == 1:
        raise ConfigError("select_by= and select_run= need select_share=, such as 0.25")
    if spec.placed:
        raise ConfigError("coordinates= says which tiles there are; none are to be chosen of them")
    if keys.select_run:
        settled = _by_run(spec, read_run(keys.select_run, spare_store=storage.uri), storage, rows)
    else:
        settled = _by_features(spec, keys.select_by, storage)
    if fixed and settled.spec != spec:
        raise ConfigError(f"these tiles were chosen by {_named(spec)}; {_key_of(spec)}= names another choice")
    if not any(row.slide_id in settled.records for row in rows):
        raise InputError(
            f"{storage.uri} has no features of {settled.source} of any of these slides; {_advice(settled)}"
        )
    return settled


def _by_features(spec: TileSpec, name: str, storage: Storage) -> SettledSelection:
    wanted = _fitting(spec)
    named = [
        candidate
        for candidate in list_feature_sets(storage)
        if candidate.encoder_id == name or candidate.fingerprint.startswith(name)
    ]
    fitting = [candidate for candidate in named if candidate.tiling_fingerprint in wanted]
    if not named and not is_encoder_name(name):
        close = difflib.get_close_matches(name, ENCODER_NAMES, n=1)
        raise InputError(
            f"select_by={name} is neither an encoder nor the first digits of a feature set that {storage.uri} has"
            + (f"; did you mean select_by={close[0]}?" if close else "")
        )
    if not fitting:
        others = "".join(f"\n  {candidate.describe()}" for candidate in named)
        raise InputError(
            f"select_by={name}: {storage.uri} has no features of it of the same tiles; run mhim embed encoder={name} "
            f"first, with the same keys but for select_…=" + (f"; it has{others}" if named else "")
        )
    if len(fitting) > 1:
        listed = "".join(f"\n  {candidate.describe()}" for candidate in fitting)
        raise ConfigError(f"select_by={name} fits several feature sets; name one by its first digits:{listed}")
    return _settled(spec, wanted, fitting[0], storage, SPREAD)


def _by_run(spec: TileSpec, run: Run, storage: Storage, rows: Sequence[CohortRow]) -> SettledSelection:
    aggregator = run.identity["model"]["aggregator"]
    if aggregator not in MINING_AGGREGATORS:
        raise ConfigError(
            f"select_run={run.storage.uri}: aggregator={aggregator} does not weigh single tiles; choose a run of "
            f"{', '.join(MINING_AGGREGATORS)}"
        )
    wanted = _fitting(spec)
    feature_set = run.feature_set
    if feature_set.tiling_fingerprint not in wanted:
        raise ConfigError(
            f"select_run={run.storage.uri} was trained on {tiling_words(feature_set)}, and tiles are chosen of the "
            "same ones alone; give the keys of that tiling"
        )
    fits = results_of(run)
    results = [fold_fits.results[run.method] for fold_fits in fits]
    models = tuple(ScoringModel(run.storage.locate(result.model_key), result.model_sha256) for result in results)
    settled = _settled(spec, wanted, feature_set, storage, ATTENTION, models)
    return replace(settled, voters=_voters(run, [fold_fits.fold for fold_fits in fits], rows, settled.records))


def _settled(
    spec: TileSpec,
    wanted: Mapping[str, TissueMethod],
    feature_set: FeatureSet,
    storage: Storage,
    rule: str,
    models: tuple[ScoringModel, ...] = (),
) -> SettledSelection:
    digest = feature_set.fingerprint
    is_there = is_registered(storage, digest) and newest_version(storage, digest) is not None
    return SettledSelection(
        spec=replace(
            spec,
            tissue=wanted[feature_set.tiling_fingerprint],
            select_rule=rule,
            select_features=digest,
            select_models=fingerprint([model.sha256 for model in models]) if models else "",
        ),
        selection=TileSelection(storage.uri, feature_set.dim, spec.select_share, models),
        records=read_manifest(storage, digest).entries if is_there else {},
        voters={},
        source=feature_set.encoder_id,
    )


def _fitting(spec: TileSpec) -> dict[str, TissueMethod]:
    """Fingerprints of the tilings whose tiles are those to choose from, with the tissue finder of each."""
    whole = replace(spec, select_share=1.0, select_rule="", select_features="", select_models="")
    methods = [spec.tissue]
    if spec.tissue is TissueMethod.auto:
        knows_pen = spec.keep_pen or not spec.keep_fat
        methods = [TissueMethod.glass] if knows_pen else [TissueMethod.glass, TissueMethod.otsu]
    return {fingerprint(tiling_identity(replace(whole, tissue=method))): method for method in methods}


class _Known(NamedTuple):
    """Whom a run knows."""

    patient_of: Mapping[SourceIdentity, PatientId]
    seen_in: Mapping[PatientId, frozenset[int]]
    """The folds whose models were trained on a patient, or chosen by it."""


def _voters(
    run: Run, folds: Sequence[int], rows: Iterable[CohortRow], records: Mapping[SlideId, CommitRecord]
) -> dict[SlideId, tuple[int, ...]]:
    """Which of the models, one of each of `folds`, score a slide that the run knows: those that know nothing of it.

    Where all know it, all score it, which is told: their attention may know its label. `records`: of the store, which
    may hold a slide of the run under another id by now.
    """
    known, before = _known(run), known_before(run)
    voters: dict[SlideId, tuple[int, ...]] = {}
    num_seen = 0
    for row in rows:
        named = [entries[row.slide_id] for entries in (run.manifest.entries, records) if row.slide_id in entries]
        sources = {record.reading.source for record in named}
        patients = {row.patient_id} & known.seen_in.keys()
        patients |= {known.patient_of[source] for source in sources & known.patient_of.keys()}
        seen = frozenset[int]().union(*(known.seen_in[patient] for patient in patients))
        if before is not None and (before.knows_patient(row.patient_id) or any(map(before.knows_source, sources))):
            seen = frozenset(folds)  # by the model that all of them started from
        places = tuple(place for place, fold in enumerate(folds) if fold not in seen)
        if not places:
            num_seen += 1
        elif len(places) < len(folds):
            voters[row.slide_id] = places
    if num_seen:
        print(
            f"note: {num_seen} slides are of patients that every model of {run.storage.uri} was trained on, so the "
            "choice of their tiles knows their labels: test no model on them that is trained on these features"
        )
    return voters


def _known(run: Run) -> _Known:
    rows = {row.slide_id: row for row in run.slides}
    seen_in: dict[PatientId, frozenset[int]] = {row.patient_id: frozenset() for row in run.slides}
    for split in run.splits:
        for slide_id in (*split.train, *split.validation):
            patient = rows[slide_id].patient_id
            seen_in[patient] |= {split.fold}
    entries = run.manifest.entries
    patient_of = {entries[slide_id].reading.source: row.patient_id for slide_id, row in rows.items()}
    return _Known(patient_of, seen_in)


def _named(spec: TileSpec) -> str:
    features = f"features of the set {spec.select_features[:16]}"
    return f"the attention of a run's models on {features}" if spec.select_rule == ATTENTION else f"{features}, spread"


def _key_of(spec: TileSpec) -> str:
    return "select_run" if spec.select_rule == ATTENTION else "select_by"


def _advice(settled: SettledSelection) -> str:
    return f"run mhim embed encoder={settled.source} first, with the same keys but for select_…="
