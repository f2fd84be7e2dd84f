"""Slides with the attention that an evaluation or a prediction kept, and the models that it is of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.storage import open_storage
from flows.commands import read_words
from flows.config.files import RESOLVED
from flows.config.keys import ChosenModel, PluginFile
from flows.config.slide_exports import AttendedKeys
from flows.prediction.panels import why_no_heat_map
from flows.prediction.predictor import Predictor, predictor_of_model, predictor_of_run
from flows.runs.cohort import load_cohort
from flows.runs.evaluation import attention_folds, attention_key, ensure_evaluated
from flows.runs.fits import load_fold, model_names, results_of
from flows.runs.folder import Run, read_run, run_tiling
from flows.runs.signed_registry import open_registry
from mhim_core.cohort.task_options import BagUnit
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError, NotFoundError, SlideError
from mhim_core.features import MppUsed
from mhim_core.printable import first_of
from mhim_core.records import parse_object
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import list_feature_sets
from mhim_core.store.manifest import read_manifest
from mhim_core.tables import read_parquet
from mhim_core.task import Task
from mhim_core.types import BagId, FailureReason, SlideId

if TYPE_CHECKING:  # torch: what only names slides must not load it
    from mhim_core.store.attention import AttentionTable
    from mhim_core.store.bags import PatientBags
    from mhim_core.store.schema import FeatureTable
    from mhim_core.train.inference import Voter


class AttendedBag(NamedTuple):
    """A slide, or the slides of a patient, whose attention is kept."""

    bag_id: BagId
    slide_ids: tuple[SlideId, ...]
    """Those of its slides that are wanted; of a run, those whose attention is of `fold`."""
    fold: int | None
    """Of a run the fold that holds it out; None: predictions of all models."""


class AttendedSlide(NamedTuple):
    """One slide of a bag. N tiles."""

    table: "FeatureTable"
    attention: "AttentionTable"

    @property
    def mpp(self) -> MppUsed | None:
        """None: its features were imported without it."""
        x, y = self.table.metadata["mpp"]
        return MppUsed(x, y, "features") if x and y else None

    @property
    def tile_size_l0_px(self) -> tuple[int, int]:
        width, height = self.table.metadata["tile_size_l0_px"]
        return int(width), int(height)

    @property
    def size_l0_px(self) -> tuple[int, int]:
        """(0, 0) where the features do not say."""
        return int(self.table.metadata["width_l0_px"]), int(self.table.metadata["height_l0_px"])


@dataclass(frozen=True, kw_only=True)
class AttendedSource:
    """What a run's evaluation, or a prediction, kept of its slides."""

    task: Task
    spec: TileSpec | None
    """None: another tool cut the tiles."""
    bags: tuple[AttendedBag, ...]
    uri_of: Callable[[SlideId], str | None]
    """Where a slide's file is; None: the cohort table does not have it any more."""
    origin: Mapping[str, str]
    """Whose attention it is, as predictions say it."""
    tables: "PatientBags"
    read_attention: Callable[[SlideId], bytes]
    voters_of: "Callable[[int | None], Sequence[Voter]]"
    """The models of a fold, or of the prediction."""

    def slides(self, bag: AttendedBag) -> "Iterator[AttendedSlide]":
        """The bag's wanted slides. Raises SlideError where the attention is not of the features that are there, or the
        features do not say where tiles lie."""
        from mhim_core.store.attention import decode_attention

        for table in self.tables.read_tables(bag.bag_id):
            if table.slide_id in bag.slide_ids:
                attention = decode_attention(self.read_attention(table.slide_id))
                _check_same_tiles(table, attention)
                yield AttendedSlide(table, attention)

    def evidence(self, bag: AttendedBag) -> "Mapping[SlideId, Any] | None":
        """By slide the evidence (N, C) of its tiles for each output; None where the aggregator has none."""
        from mhim_core.train.evidence import instance_evidence

        tables = self.tables.read_tables(bag.bag_id)
        parts = instance_evidence(tables, self.voters_of(bag.fold))
        return None if parts is None else {table.slide_id: part for table, part in zip(tables, parts, strict=True)}


def attended_source(keys: AttendedKeys, chosen: ChosenModel, plugin: PluginFile) -> AttendedSource:
    """Raises InputError for what is no finished run and no prediction, and for slides that are not in it."""
    keys.check_source()
    source = _of_predictions(keys, chosen, plugin) if keys.predictions else _of_run(keys, chosen)
    return source if not keys.slide_ids else _only(source, keys.slide_ids)


def _only(source: AttendedSource, slide_ids: tuple[str, ...]) -> AttendedSource:
    known = {slide_id for bag in source.bags for slide_id in bag.slide_ids}
    if strangers := sorted(set(slide_ids) - known):
        raise InputError(f"slides= names {first_of(strangers, 5)}, of which no attention is kept")
    kept = [bag._replace(slide_ids=tuple(each for each in bag.slide_ids if each in slide_ids)) for bag in source.bags]
    return replace(source, bags=tuple(bag for bag in kept if bag.slide_ids))


def _of_run(keys: AttendedKeys, chosen: ChosenModel) -> AttendedSource:
    run = read_run(keys.run, store=keys.store, predict_with=chosen.predict_with)
    ensure_evaluated(run)
    keeper, bags = attention_folds(run), []
    for split in run.splits:
        for bag in bags_in(run.bags, split.test):
            own = tuple(slide_id for slide_id in bag.slide_ids if keeper[slide_id] == split.fold)
            if own:
                bags.append(AttendedBag(bag.bag_id, own, split.fold))
    origin = {"run": str(run.record["fingerprint"])}
    if run.predict_with is not run.started_with:
        origin["predict_with"] = str(run.predict_with)
    return AttendedSource(
        task=run.task,
        spec=run_tiling(run),
        bags=tuple(bags),
        uri_of={slide.slide_id: run.slide_uri(slide) for slide in run.slides}.get,
        origin=origin,
        tables=run.bag_source(),
        read_attention=lambda slide_id: run.storage.get(attention_key(slide_id)),
        voters_of=cache(lambda fold: _fold_voters(run, fold)),
    )


def _fold_voters(run: Run, fold: int | None) -> "list[Voter]":
    """The reported model of the first seed, whose attention the evaluation keeps."""
    [fits] = [fits for fits in results_of(run) if fits.fold == fold and fits.seed == run.seeds[0]]
    return [load_fold(run, fits).voters[model_names(run)[0]]]


def _of_predictions(keys: AttendedKeys, chosen: ChosenModel, plugin: PluginFile) -> AttendedSource:
    from mhim_core.store.bags import ParquetBags, PatientBags

    out = open_storage(keys.predictions)
    by = _summary(out)["by"]
    words = [f"config={out.locate(RESOLVED)}"]
    words += [f"{name}={value}" for name in ("run", "store", "registry", "cohort") if (value := getattr(keys, name))]
    if plugin.aggregator_file:  # which a file elsewhere may not name
        words.append(f"aggregator_file={plugin.aggregator_file}")
    config = read_words("predict", words)
    if config.run:
        wanted = chosen.predict_with or config.chosen.predict_with
        predictor = predictor_of_run(read_run(config.run, spare_store=config.store, predict_with=wanted))
    else:
        predictor = predictor_of_model(open_registry(config.registry, config.trust), config.model)
    if predictor.origin != by:
        raise InputError(
            f"{out.uri} holds predictions by {by}, and the models that are there now are {predictor.words}"
        )
    store = open_storage(config.store) if config.store else predictor.store or open_storage(out.locate("features"))
    members = _members(out, predictor)
    entries = _entries(predictor, store, [slide_id for own in members.values() for slide_id in own])

    @cache
    def uris() -> dict[SlideId, str]:
        cohort = load_cohort(config.data.cohort, with_files=False, options=config.table).cohort
        return {row.slide_id: row.uri for row in cohort.rows}

    return AttendedSource(
        task=predictor.task,
        spec=None if predictor.is_imported else predictor.tile_spec(),
        bags=tuple(AttendedBag(bag_id, own, None) for bag_id, own in members.items()),
        uri_of=lambda slide_id: uris().get(slide_id),
        origin=predictor.origin,
        tables=PatientBags(ParquetBags(store, entries), members),
        read_attention=lambda slide_id: out.get(f"attention/{slide_id}.parquet"),
        voters_of=lambda _: predictor.voters,
    )


def _summary(out: Storage) -> dict[str, Any]:
    try:
        return parse_object(out.get("summary.json"), out.locate("summary.json"))
    except NotFoundError:
        raise InputError(f"predictions={out.uri} holds no predictions; it is the out= of mhim predict") from None


def _members(out: Storage, predictor: Predictor) -> dict[BagId, tuple[SlideId, ...]]:
    """The slides of each predicted bag."""
    rows = read_parquet(out.get("predictions.parquet")).to_pylist()
    if predictor.unit is BagUnit.slide:
        return {BagId(row["slide_id"]): (SlideId(row["slide_id"]),) for row in rows}
    return {BagId(row["patient_id"]): tuple(map(SlideId, row["slide_ids"].split(";"))) for row in rows}


def _entries(predictor: Predictor, store: Storage, slide_ids: Sequence[SlideId]) -> dict[SlideId, Any]:
    """The slides' commits in the newest manifest of the predictor's features."""
    known = [
        each
        for each in list_feature_sets(store)
        if each.tiling == predictor.tiling and each.encoder_identity.items() <= predictor.encoder.items()
    ]
    if not known:
        raise InputError(f"{store.uri} holds no features of {predictor.words}; name the store with store=")
    # a card with an option more is another encoder; without it, its identity is a part of that card
    feature_set = max(known, key=lambda each: len(each.encoder_identity))
    entries = read_manifest(store, feature_set.fingerprint).entries
    if gone := sorted(set(slide_ids) - entries.keys()):
        raise InputError(f"{store.uri} has no features of {first_of(gone, 5)} any more; name the store with store=")
    return {slide_id: entries[slide_id] for slide_id in slide_ids}


def _check_same_tiles(table: "FeatureTable", attention: "AttentionTable") -> None:
    if reason := why_no_heat_map(table):
        raise SlideError(FailureReason.BAD_FEATURES, reason)
    if attention.coords_l0_px.shape != table.coords_l0_px.shape or (attention.coords_l0_px != table.coords_l0_px).any():
        raise SlideError(
            FailureReason.BAD_FEATURES,
            f"slide {table.slide_id}: its attention is of other tiles than its features are now; predict it again",
        )
