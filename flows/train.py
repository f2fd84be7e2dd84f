"""mhim train cohort=my.csv store=./features out=runs/first: bags → one model per fold, in one or two stages.

Inputs: the cohort table's labels, the store's features (the manifest's version is pinned at the first start). Outputs:
the run's folder (`flows.run_folder`). Cost: 12 s for the workers, then folds × stages × epochs passes over the bags;
finished fits are adopted, interrupted ones go on from their last checkpoint, and a finished run does not start Ray.
Exit code: 0, 2, 5 (the folder holds a run of another configuration), 6.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cluster.session import check_address, ray_session
from cluster.storage import open_storage
from flows.config import Method, TrainConfig, part
from flows.inputs import load_cohort
from flows.progress import FitProgress
from flows.result import FlowResult
from flows.run_folder import Run, pinned_manifest, start_run
from mhim_core.cohort.options import SplitOptions
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.table import Cohort, CohortRow
from mhim_core.errors import CohortError, InputError, SlideError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json
from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.slides.identity import source_identity
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set
from mhim_core.store.manifest import Manifest, newest_version, read_manifest
from mhim_core.store.matching import sha256_matches
from mhim_core.store.record import CommitRecord
from mhim_core.train.options import FitExecution, FitOptions
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.types import BagId, SlideId, Status


def run(config: TrainConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray_address)
    config.check_room()
    loaded = load_cohort(config.cohort, with_files=False)
    cohort = loaded.cohort
    for line in (*cohort.notes, *(f"warning: {finding}" for finding in loaded.warnings)):
        print(line)
    feature_set = _choose(config)
    given = open_run(config, cohort, feature_set, _manifest(config, feature_set))
    _say_if_newer(given)
    plan = train_plan(given, config)
    if all_finished(given, plan):
        print(f"{given.storage.uri}: all {len(plan.fits)} fits are finished; nothing to do")
        return FlowResult(outputs={"run": given.storage.uri}, recomputed=False)
    results = fit_all(given, plan, config)
    for result in results:
        metric = "undefined" if result.metric is None else f"{result.metric:.3f}"
        print(f"{result.name}: validation AUROC {metric} at epoch {result.best_epoch}")
    print(f"run: {given.storage.uri}")
    return FlowResult(outputs={"run": given.storage.uri})


def open_run(config: TrainConfig, cohort: Cohort, feature_set: FeatureSet, manifest: Manifest) -> Run:
    """Found the run or resume it: labelled slides with tiles, their splits, the pinned manifest."""
    slides = _trainable(cohort, manifest)
    _check_sources(slides, manifest)
    classes = cohort.classes()  # of the whole table: a class whose slides all failed must not vanish unnoticed
    splits = make_splits(slides, classes, part(config, SplitOptions), config.seed)
    identity: dict[str, Any] = {
        "method": config.method,
        "model": part(config, ModelOptions),
        "fit": part(config, FitOptions),
        "splits": part(config, SplitOptions),
        "feature_set": feature_set.fingerprint,
    }
    if config.method is Method.mhim:
        identity["mhim"] = part(config, MhimOptions)
    record = {
        "identity": identity,
        "classes": classes,
        "store": open_storage(config.store).uri,
        "manifest": {"version": manifest.ref.version, "sha256": manifest.ref.sha256},
        "encoder": feature_set.encoder,
        "tiling": feature_set.tiling,
        "cohort_name": cohort.name,
        "excluded": _excluded(cohort, manifest),
        "config": dataclasses.asdict(config),  # as it was resolved at the first start, for people
    }
    return start_run(open_storage(config.out), _plain(record), slides, splits)


def train_plan(given: Run, config: TrainConfig) -> TrainPlan:
    """Folds × stages. A teacher precedes its student; one worker group runs them all."""
    index = {label: position for position, label in enumerate(given.classes)}
    label_of = {slide.slide_id: index[slide.label] for slide in given.slides if slide.label is not None}

    def bags(slide_ids: tuple[SlideId, ...]) -> tuple[LabelledBag, ...]:
        return tuple(LabelledBag(BagId(slide_id), label_of[slide_id]) for slide_id in slide_ids)

    folds = [FoldBags(split.fold, bags(split.train), bags(split.validation)) for split in given.splits]
    stage = Stage.mhim if config.method is Method.mhim else Stage.plain
    return TrainPlan(
        fits=plan_fits(folds, stage, len(given.classes), config.seed),
        d_in=given.feature_set.dim,
        classes=given.classes,
        model=part(config, ModelOptions),
        mhim=part(config, MhimOptions),
        fit=part(config, FitOptions),
        provenance={
            "feature_set": given.feature_set.fingerprint,
            "encoder": given.feature_set.encoder_fingerprint,
            "manifest_sha256": given.record["manifest"]["sha256"],
        },
        execution=part(config, FitExecution),
    )


def all_finished(given: Run, plan: TrainPlan) -> bool:
    """Is every fit's result there? Whether each is the plan's own was settled by the run's fingerprint."""
    present = {entry.key for entry in given.storage.list("fits")}
    return all(f"fits/{fit.name}/result.json" in present for fit in plan.fits)


class FitPayload(NamedTuple):
    """What every worker gets: addresses and plain data, no open connection."""

    plan: TrainPlan
    entries: dict[SlideId, CommitRecord]
    store_uri: str
    run_uri: str
    cache_gib: float


def fit_all(given: Run, plan: TrainPlan, config: TrainConfig) -> Any:
    """Start the workers and run every fit on them; the fits' results."""
    from cluster.training import WorkerSpec, run_workers

    used = {bag.bag_id for fit in plan.fits for bag in (*fit.train, *fit.validation)}
    entries = {key: one for key, one in given.manifest().entries.items() if key in used}
    payload = FitPayload(plan, entries, given.store_uri, given.storage.uri, config.cache_gib)
    spec = WorkerSpec(config.workers, config.gpus_per_worker, config.threads_per_worker)
    progress = FitProgress(len(plan.fits))
    with ray_session(config.ray_address, config.local_cpus) as cluster:
        return run_workers(fit_on_worker, payload, spec, cluster, f"{given.storage.uri}/ray", progress.update)


def fit_on_worker(payload: FitPayload, context: Any, tell: Callable[[Any], None]) -> Any:
    """Runs on every worker: its own view of the store, then the core's loop."""
    from mhim_core.store.bags import ParquetBags
    from mhim_core.train.loop import run_fits

    bags = ParquetBags(open_storage(payload.store_uri), payload.entries, payload.cache_gib)
    return run_fits(payload.plan, bags, open_storage(payload.run_uri), context, tell)


def _choose(config: TrainConfig) -> FeatureSet:
    keys = ("target_mpp", "tile_px", "overlap_px", "min_tissue")
    tiling = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    store = open_storage(config.store)
    wanted = config.feature_set
    if wanted is None and config.encoder is None and not tiling:
        pin = pinned_manifest(open_storage(config.out))
        wanted = None if pin is None else pin.feature_set  # the open choice was made when the run was started
    return choose_feature_set(store, encoder_id=config.encoder, tiling=tiling, fingerprint=wanted)


def _manifest(config: TrainConfig, feature_set: FeatureSet) -> Manifest:
    """The version that the run was started with, or at the first start the newest."""
    store = open_storage(config.store)
    pin = pinned_manifest(open_storage(config.out))
    if pin is None or pin.feature_set != feature_set.fingerprint:  # another set is refused when the run is opened
        return read_manifest(store, feature_set.fingerprint)
    return read_manifest(store, pin.feature_set, pin.version, pin.sha256)


def _check_sources(slides: Sequence[CohortRow], manifest: Manifest) -> None:
    """CohortError where features are not of the table's slides: twins under two ids, another file, another mpp."""
    ids_of: dict[SourceIdentity, list[str]] = {}
    strangers = []
    for slide in slides:
        entry = manifest.entries[slide.slide_id]
        ids_of.setdefault(entry.source, []).append(slide.slide_id)
        if slide.mpp is not None and (entry.mpp.x, entry.mpp.y) != (slide.mpp, slide.mpp):
            strangers.append(f"{slide.slide_id} (embedded at {entry.mpp.x:g} µm/px, the table says {slide.mpp:g})")
        elif not sha256_matches(entry.source_sha256, slide.sha256):
            strangers.append(f"{slide.slide_id} (no embedding is verified to be of the sha256 that the table names)")
        elif slide.uri != entry.hint.uri and _is_another_file(slide.uri, entry.source):
            strangers.append(f"{slide.slide_id} (embedded from another file than {slide.uri})")
    twins = [ids for ids in ids_of.values() if len(ids) > 1]
    if twins:
        listed = "; ".join(" = ".join(ids) for ids in twins[:20])
        raise CohortError(f"one slide file under several ids, by content: {listed}; keep one id of each")
    if strangers:
        listed = "; ".join(strangers[:20])
        raise CohortError(f"the store's features are not of this table's slides: {listed}; run `mhim embed` with it")


def _is_another_file(uri: str, source: SourceIdentity) -> bool:
    """True only if the file can be seen and differs: a cohort's slides may be offline when it trains."""
    try:
        return "://" not in uri and source_identity(uri) != source
    except SlideError:
        return False


def _trainable(cohort: Cohort, manifest: Manifest) -> tuple[CohortRow, ...]:
    with_tiles = manifest.bags()
    slides = tuple(row for row in cohort.rows if row.label is not None and row.slide_id in with_tiles)
    excluded = _excluded(cohort, manifest)
    if any(excluded.values()):
        print(
            f"{len(slides)} slides to train on; left out: " + ", ".join(f"{n} {what}" for what, n in excluded.items())
        )
    if not slides:
        raise InputError(
            f"no slide of {cohort.name} is both labelled and embedded with tiles; run `mhim embed` with the same table"
        )
    return slides


def _excluded(cohort: Cohort, manifest: Manifest) -> dict[str, int]:
    entries = manifest.entries
    return {
        "unlabelled": sum(row.label is None for row in cohort.rows),
        "not embedded": sum(row.label is not None and row.slide_id not in entries for row in cohort.rows),
        "without tissue": sum(
            row.label is not None and row.slide_id in entries and entries[row.slide_id].status is Status.EMPTY
            for row in cohort.rows
        ),
    }


def _say_if_newer(given: Run) -> None:
    pinned = given.record["manifest"]["version"]
    newest = newest_version(given.feature_store, given.identity["feature_set"])
    if newest is not None and newest > pinned:
        print(
            f"the run stays with manifest version {pinned}, pinned at its start; the store has version {newest} by now"
        )


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """As it will read back from JSON, so that identities compare alike at the first start and later."""
    plain: dict[str, Any] = json.loads(canonical_json(record))
    return plain
