"""From the keys of `mhim view` to what is looked at."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.commands import PredictConfig
from flows.config.files import RESOLVED, read_keys
from flows.config.flat import keys_of
from flows.config.view import ViewConfig
from flows.runs.evaluation import bag_unit
from flows.runs.folder import Run, read_run
from flows.viewing.cohort_rows import CohortPlaces, read_places
from flows.viewing.predictions_source import PredictionsSource
from flows.viewing.run_models import RunModels
from flows.viewing.run_source import RunSource
from flows.viewing.source import Source
from flows.viewing.store_source import StoreSource
from mhim_core.cohort.task_options import BagUnit
from mhim_core.errors import ConfigError, InputError, MhimError, NotFoundError
from mhim_core.evaluation.prediction_table import new_bags_schema, read_lines
from mhim_core.fingerprint import neutral_values
from mhim_core.records import parse_object
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set, list_feature_sets
from mhim_core.store.manifest import Manifest, newest_version, read_manifest
from mhim_core.tables import read_parquet
from mhim_core.task import Task, TaskKind
from mhim_core.types import SlideId

_SUMMARY, _TABLE = "summary.json", "predictions.parquet"


def open_source(config: ViewConfig) -> Source:
    """Raises ConfigError, InputError where there is nothing of the kind, CohortError, IntegrityError, StorageError."""
    config.check_source()
    cohort = read_places(config.cohort, config.table)
    if config.predictions:
        return _predictions(config, cohort)
    if config.run:
        run = read_run(config.run, store=config.store, predict_with=config.chosen.predict_with)
        return RunSource(run, cohort)
    return _store(config, cohort)


def _store(config: ViewConfig, cohort: CohortPlaces | None) -> StoreSource:
    store, choice = open_storage(config.store), config.features
    feature_set = choose_feature_set(
        store,
        encoder_id=choice.encoder,
        tiling=choice.tiling,
        fingerprint=choice.feature_set,
        neutral=neutral_values(TileSpec),
    )
    return StoreSource(store, feature_set, read_manifest(store, feature_set.fingerprint), cohort)


def _predictions(config: ViewConfig, cohort: CohortPlaces | None) -> PredictionsSource:
    out = open_storage(config.predictions)
    try:
        summary = parse_object(out.get(_SUMMARY), out.locate(_SUMMARY))
    except NotFoundError:
        raise InputError(f"predictions={config.predictions} holds none; it is the out= of mhim predict") from None
    typed = _typed(out)
    run = _run_of(config, typed, summary)
    data = out.get(_TABLE)
    if run is not None:
        task, unit = run.task, bag_unit(run)
    else:
        task, unit = _task_of(data, out.locate(_TABLE))
    lines = read_lines(data, new_bags_schema(task, unit, tuple(summary["by"])), out.locate(_TABLE))
    slide_ids = {SlideId(slide_id) for line in lines for slide_id in _slides_of(line, unit)}
    held = _features(config, typed, out, run, slide_ids)
    models = None if run is None else RunModels(run)
    return PredictionsSource(
        out, lines, task, unit, held.feature_set, held.manifest.entries, held.store, cohort, models
    )


def _typed(out: Storage) -> Mapping[str, Any]:
    """The keys with which the predictions were made; empty: they are not known."""
    try:
        return read_keys(out.locate(RESOLVED), keys_of(PredictConfig), "predict")
    except ConfigError:
        return {}


def _run_of(config: ViewConfig, typed: Mapping[str, Any], summary: Mapping[str, Any]) -> Run | None:
    """The run whose models predicted; None: a registered model did, or the run is not where it was.

    Raises InputError where run= names another one.
    """
    fingerprint = summary["by"].get("run")
    uri = config.run or str(typed.get("run", ""))
    if not uri:
        return None
    try:
        run = read_run(uri, spare_store=config.store)
        run.bags  # noqa: B018 - what a damaged table raises is raised here
    except MhimError:
        if config.run:
            raise
        return None
    if run.record["fingerprint"] != fingerprint:
        if config.run:
            raise InputError(f"run={config.run} is not the run that made predictions={config.predictions}")
        return None
    return run


def _task_of(data: bytes, where: str) -> tuple[Task, BagUnit]:
    """What a table of predictions is of, by its columns."""
    names = list(read_parquet(data).column_names)
    unit = BagUnit.slide if "slide_id" in names else BagUnit.patient
    if "risk" in names:
        return Task(kind=TaskKind.survival, classes=()), unit
    if "prediction" in names:
        return Task(kind=TaskKind.regression, classes=()), unit
    prefix = "probability_"
    classes = tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    if not classes:
        raise InputError(f"{where} is no table of predictions")
    return Task(kind=TaskKind.classification, classes=classes), unit


def _slides_of(line: Mapping[str, Any], unit: BagUnit) -> list[str]:
    return [line["slide_id"]] if unit is BagUnit.slide else line["slide_ids"].split(";")


class _HeldFeatures(NamedTuple):
    """Where features are."""

    store: Storage
    feature_set: FeatureSet
    manifest: Manifest


def _features(
    config: ViewConfig, typed: Mapping[str, Any], out: Storage, run: Run | None, slide_ids: set[SlideId]
) -> _HeldFeatures:
    """The store and the feature set that hold these slides. Raises InputError where none of the known stores does."""
    places = [config.store] if config.store else [str(typed.get("store", "")), out.locate("features")]
    stores = [open_storage(place) for place in places if place]
    if run is not None and not config.store:
        stores.append(run.feature_store)
    for store in stores:
        for feature_set in list_feature_sets(store):
            if run is not None and feature_set.fingerprint != run.identity["feature_set"]:
                continue
            if newest_version(store, feature_set.fingerprint) is None:
                continue
            manifest = read_manifest(store, feature_set.fingerprint)
            if slide_ids <= manifest.entries.keys():
                return _HeldFeatures(store, feature_set, manifest)
    looked = ", ".join(store.uri for store in stores)
    raise InputError(f"the features of these predictions are not in {looked}; name their store with store=")
