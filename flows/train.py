"""mhim train cohort=my.csv store=./features out=runs/first: trains one model per fold and seed, in one or two stages.

Inputs: the cohort table's targets and the store's features (the version of the manifest is pinned at the first start).
Outputs: the run's folder (`flows.runs.folder`). Cost: 12 s to start the workers, then seeds × folds × stages × epochs
passes over the bags. Finished fits are kept, interrupted ones resume from their last checkpoint, and a finished run
does not start Ray. Exit code: 0, 2, 5 (the folder holds a run of another configuration), 6 (also if a feature file that
it would read is missing or truncated, before Ray is started, or of other bytes, within the first fit).
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cluster.s3 import process_retries
from cluster.session import check_address, ray_session
from cluster.storage import open_storage, require_put_if_absent
from flows.config.commands import TrainConfig
from flows.config.files import write_resolved
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_run
from flows.runs.as_begun import as_begun
from flows.runs.bag_caching import CachePlan, cached_bags, plan_caching, print_reads
from flows.runs.folder import PinnedFeatures, Run
from flows.runs.progress import METRIC_TITLES, FitProgress
from flows.runs.storage_retries import print_retries, retries_told
from flows.runs.training_data import (
    check_contents,
    check_files,
    check_places,
    choose_features,
    choose_manifest,
    training_data,
)
from flows.runs.training_places import open_places
from flows.runs.training_runs import (
    all_finished,
    new_start,
    open_run,
    read_cohort,
    take_teachers,
    train_plan,
    try_plugin,
    unread_at_first,
    used_bags,
    used_entries,
    with_sampling,
)
from flows.runs.warm_start import take_start
from mhim_core.store.manifest import newest_version
from mhim_core.store.record import CommitRecord
from mhim_core.train.fit_options import FitExecution
from mhim_core.train.plan import TrainPlan
from mhim_core.types import BagId, SlideId

if TYPE_CHECKING:  # torch, which a command that has nothing to do need not load
    from mhim_core.train.device_bags import CountedBags


def run(config: TrainConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray.ray_address)
    config.execution.check_room(config.ray)
    cohort = read_cohort(config)
    places = open_places(config)
    config = as_begun(config, places.record)
    feature_set = choose_features(config, places)
    manifest = choose_manifest(places, feature_set)
    data = with_sampling(config, training_data(config, cohort, manifest), manifest, places.out, places.record)
    for note in data.notes:
        print(note)
    try_plugin(config, data)
    if config.model.needs_places:
        check_places(places.store, manifest, data, config.model.aggregator)
    require_put_if_absent(places.out)
    start = new_start(config, places)
    trained_run = open_run(config, places, cohort, PinnedFeatures(places.store, feature_set, manifest), data, start)
    _say_if_newer(trained_run)
    plan = train_plan(trained_run, config)
    if all_finished(trained_run, plan):
        print(f"{trained_run.storage.uri}: all {len(plan.fits)} fits are finished; nothing to do")
        mirror_run(trained_run, config.tracking)
        return FlowResult(outputs={"run": trained_run.storage.uri}, recomputed=False)
    check_files(trained_run.feature_store, used_entries(trained_run, plan), trained_run.manifest)
    write_resolved(trained_run.storage, config, "train")
    if config.protocol.teacher:
        take_teachers(trained_run, places)
    if config.warm_start:
        take_start(trained_run, config, start)
    for result in fit_all(trained_run, plan, config):
        print(f"{result.name}: validation {_judged(result)} at epoch {result.best_epoch}")
    mirror_run(trained_run, config.tracking)
    print(f"run: {trained_run.storage.uri}")
    return FlowResult(outputs={"run": trained_run.storage.uri})


class WorkerBags(NamedTuple):
    """The bags that workers read, as addresses and plain data: no open connection."""

    entries: dict[SlideId, CommitRecord]
    members: dict[BagId, tuple[SlideId, ...]]
    plugin: tuple[bytes, str] | None
    store_uri: str
    caching: CachePlan


class HasBags(Protocol):
    """What is sent to every worker, whatever it does with the bags."""

    @property
    def bags(self) -> WorkerBags: ...


class FitPayload(NamedTuple):
    """What is sent to every worker."""

    plan: TrainPlan
    bags: WorkerBags
    run_uri: str


def fit_all(trained_run: Run, plan: TrainPlan, config: TrainConfig) -> Any:
    """Start the workers and run every fit on them; returns the results."""
    run_uri = trained_run.storage.uri
    payload = FitPayload(plan, worker_bags(trained_run, plan, config), run_uri)
    beside = functools.partial(check_contents, trained_run.feature_store, unread_at_first(trained_run, plan))
    return on_workers(fit_on_worker, payload, config, f"{run_uri}/ray", FitProgress(len(plan.fits)), beside)


def worker_bags(
    trained_run: Run, plan: TrainPlan, config: TrainConfig, *, with_layouts: bool | None = None
) -> WorkerBags:
    """The bags that the plan's fits read. `with_layouts`: whether an aggregator asks for places; None: the config's."""
    plugin, entries = config.plugin.plugin(), used_entries(trained_run, plan)
    return WorkerBags(
        entries,
        used_bags(trained_run, plan),
        None if plugin is None else plugin.arguments,
        trained_run.store_uri,
        plan_caching(
            config.execution,
            entries.values(),
            with_layouts=config.model.needs_places if with_layouts is None else with_layouts,
        ),
    )


def on_workers(
    work: Callable[..., Any],
    payload: HasBags,
    config: TrainConfig,
    scratch_uri: str,
    progress: FitProgress,
    beside: Callable[[threading.Event], None],
) -> Any:
    """Start Ray and one group of workers for `work`; its value. What they tell goes to `progress`."""
    from cluster.training import WorkerSpec, run_workers

    print(payload.bags.caching.sentence())
    execution = config.execution
    fewest, most = execution.num_workers()
    grow_every_s = grow_interval_s(execution.checkpoints)
    spec = WorkerSpec(most, execution.gpus_per_worker, execution.threads_per_worker, fewest, grow_every_s)
    retries_before = process_retries()
    with ray_session(config.ray.ray_address, config.ray.local_cpus) as cluster, progress:
        value = run_workers(work, payload, spec, cluster, scratch_uri, progress.update, beside)
    print_reads(progress.reads)
    print_retries(process_retries() - retries_before + progress.num_repeated)
    return value


def grow_interval_s(checkpoints: FitExecution) -> float:
    """Seconds until a group of workers may grow: a checkpoint by time comes before, however long its start took."""
    return 60 * max(15.0, 1.5 * checkpoints.checkpoint_every_min)


def fit_on_worker(payload: FitPayload, context: Any, tell: Callable[[Any], None]) -> Any:
    """Runs on every worker: opens the store and the run, then enters the core's loop."""
    from mhim_core.train.loop import run_fits

    with bags_on_worker(payload.bags, context, tell) as (bags, tell_all):
        return run_fits(payload.plan, bags, open_storage(payload.run_uri), context, tell_all)


class OpenBags(NamedTuple):
    """On a worker."""

    source: "CountedBags"
    tell: Callable[[Any], None]
    """Tells the driver what happens, requests that had to be repeated included."""


@contextmanager
def bags_on_worker(bags: WorkerBags, context: Any, tell: Callable[[Any], None]) -> Iterator[OpenBags]:
    """The bags, read from the store and kept as their keys say until the block ends; the user's own aggregators are
    loaded."""
    from mhim_core.mil.plugins import load_plugin
    from mhim_core.train.events import FitEvent, FitEventKind

    if bags.plugin is not None:
        load_plugin(*bags.plugin)

    def warn(message: str) -> None:
        tell(FitEvent(FitEventKind.warning, "cache", message))

    store = open_storage(bags.store_uri)
    with (
        retries_told(tell) as tell_all,
        cached_bags(store, bags.entries, bags.members, bags.caching, context, warn) as source,
    ):
        yield OpenBags(source, tell_all)
        tell(source.reads)


def _judged(result: Any) -> str:
    if result.metric_name not in METRIC_TITLES:
        return f"loss {result.validation_loss:.4f}"
    title = METRIC_TITLES[result.metric_name]
    return f"{title} undefined" if result.metric is None else f"{title} {result.metric:.3f}"


def _say_if_newer(trained_run: Run) -> None:
    pinned = trained_run.record["manifest"]["version"]
    newest = newest_version(trained_run.feature_store, trained_run.identity["feature_set"])
    if newest is not None and newest > pinned:
        print(
            f"the run stays with manifest version {pinned}, pinned at its start; the store has version {newest} by now"
        )
