"""mhim sweep cohort=my.csv store=./features out=sweeps/first vary="high_mask_ratio=.01,.03 random_mask_ratio=.1,.8"

Trains under every combination of some keys' values, on the same folds and seeds, and ranks the combinations on
validation. Inputs: as `mhim train`. Outputs, in out: a run a configuration below `runs/`, as `mhim train` makes it;
`leaderboard.html`, `.csv` and `.parquet`; `winner.json`, with the winner's test figures (`flows.sweeps.records`).
Cost: 12 s to start the workers, then the fits of all configurations, where those that share stage 1 train it once.
Finished fits are kept, interrupted ones resume. Exit code: 0, 2, 3 (some configurations failed; they are rows with the
reason), 4 (all failed), 5 (the folder holds another sweep), 6.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cluster.session import check_address
from cluster.storage import open_storage, require_put_if_absent
from flows.config.files import write_resolved
from flows.config.sweep import SweepConfig
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_run
from flows.runs.folder import PinnedFeatures
from flows.runs.training_data import (
    check_contents,
    check_files,
    check_places,
    choose_features,
    choose_manifest,
    training_data,
)
from flows.runs.training_places import open_places
from flows.runs.training_runs import all_finished, read_cohort, unread_at_first, used_entries, with_sampling
from flows.sweeps.board import PAGE, print_board, write_board
from flows.sweeps.configurations import configurations_of, run_folder
from flows.sweeps.contenders import Contender, open_contenders, sort_out
from flows.sweeps.progress import SweepProgress
from flows.sweeps.records import OUTCOMES, Costs, SweepResult, pinned_features, read_result, start_sweep
from flows.sweeps.winner import judge, say_configurations
from flows.train import WorkerBags, bags_on_worker, on_workers, worker_bags
from mhim_core.fingerprint import canonical_json
from mhim_core.storage import Storage
from mhim_core.train.halving import rungs_of
from mhim_core.train.leaderboard import build_leaderboard, winner
from mhim_core.train.plan import Stage
from mhim_core.train.sweep_grid import Setting
from mhim_core.train.sweep_plan import SweepPlan, TrialOutcome, TrialStatus, reported_stage
from mhim_core.types import ExitCode


def run(config: SweepConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray.ray_address)
    config.execution.check_room(config.ray)
    sweep = open_sweep(config)
    storage, result = sweep.storage, read_result(sweep.storage, sweep.fingerprint)
    recomputed = result is None or not sweep.is_complete(result)
    if result is None or recomputed:
        result = train(sweep, config)
        storage.put(OUTCOMES, canonical_json(result))
    else:
        print(f"{storage.uri}: all fits are finished; nothing to train")
    costs = Costs(storage)
    rows = build_leaderboard(
        result.outcomes, sweep.settings, result.metric_name, sweep.own_seconds(costs), sweep.stage_one_seconds(costs)
    )
    first, best, kind = winner(rows), None, sweep.contenders[0].run.task.kind
    if first is not None:
        contender = next(contender for contender in sweep.contenders if contender.name == first.outcome.name)
        best = judge(first, rows, result.metric_name, contender.run, run_folder(contender.name))
    write_board(storage, rows, best, result.metric_name, kind)
    print_board(storage, rows, best, result.metric_name, kind, config.top)
    for contender in sweep.contenders:
        mirror_run(contender.run, config.tracking)
    outputs = {"leaderboard": storage.locate(PAGE)} | ({} if best is None else {"run": storage.locate(best.run)})
    return FlowResult(exit_code=_exit_code(result.outcomes), outputs=outputs, recomputed=recomputed)


class Sweep(NamedTuple):
    """A sweep with the runs of its configurations."""

    storage: Storage
    fingerprint: str
    settings: dict[str, Setting]
    """By configuration, in the order of the grid."""
    contenders: list[Contender]
    refused: list[TrialOutcome]
    """The configurations that cannot be trained."""
    plan: SweepPlan

    def is_complete(self, result: SweepResult) -> bool:
        """Whether the fits that a finished result speaks of are still there."""
        finished = {outcome.name for outcome in result.outcomes if outcome.status is TrialStatus.finished}
        return all(all_finished(each.run, each.plan) for each in self.contenders if each.name in finished)

    def own_seconds(self, costs: Costs) -> dict[str, float]:
        """By configuration, of the fits that are compared; 0 where another's were taken."""
        return {name: costs.of(name, reported_stage(plan)) for name, plan in self.plan.plans.items()}

    def stage_one_seconds(self, costs: Costs) -> dict[str, float]:
        """By configuration with a teacher, of the stage 1 that it shares with others."""
        return {name: costs.of(owner, Stage.plain) for name, owner in self.plan.stage_one_owners.items()}


def open_sweep(config: SweepConfig) -> Sweep:
    """Create the sweep with the runs of its configurations, or open them."""
    points = configurations_of(config)
    cohort = read_cohort(config)
    places = open_places(config)
    places = dataclasses.replace(places, pinned=pinned_features(places.out))
    feature_set = choose_features(config, places)
    features = PinnedFeatures(places.store, feature_set, choose_manifest(places, feature_set))
    data = with_sampling(config, training_data(config, cohort, features.manifest), features.manifest, places.out)
    for note in data.notes:
        print(note)
    trainable, refused = sort_out(points, data)
    placed = {own.model.aggregator for _, own in trainable if own.model.needs_places}
    if placed:
        check_places(places.store, features.manifest, data, min(placed))
    epochs = max(own.fit.epochs for _, own in trainable)
    rungs = rungs_of(len(trainable), epochs, config.halving, config.rung_epochs)
    require_put_if_absent(places.out)
    fingerprint = start_sweep(places.out, config, points, features)
    contenders, mismatched = open_contenders(trainable, places, cohort, features, data)
    return Sweep(
        places.out,
        fingerprint,
        {point.name: point.setting for point in points},
        contenders,
        [*refused, *mismatched],
        SweepPlan(plans={contender.name: contender.plan for contender in contenders}, rungs=rungs),
    )


class SweepPayload(NamedTuple):
    """What is sent to every worker."""

    plan: SweepPlan
    bags: WorkerBags
    run_uris: dict[str, str]
    """By configuration."""


class WorkerOutcomes(NamedTuple):
    """What comes back."""

    metric_name: str
    outcomes: list[TrialOutcome]


def train(sweep: Sweep, config: SweepConfig) -> SweepResult:
    """Start one group of workers and train all configurations on it."""
    pending = [each for each in sweep.contenders if not all_finished(each.run, each.plan)]
    first = (pending or sweep.contenders)[0]  # all read the same bags
    store = first.run.feature_store
    check_files(store, used_entries(first.run, first.plan), first.run.manifest)
    write_resolved(sweep.storage, config, "sweep", names=None if "*" in config.asked else config.asked)
    for contender in sweep.contenders:
        contender.prepare()
    print(f"{say_configurations(len(sweep.settings))}, {sweep.plan.num_fits} fits at most")
    uri = sweep.storage.uri
    with_layouts = any(each.plan.model.needs_places for each in sweep.contenders)
    payload = SweepPayload(
        sweep.plan,
        worker_bags(first.run, first.plan, config, with_layouts=with_layouts),
        {contender.name: contender.run.storage.uri for contender in sweep.contenders},
    )
    unread = unread_at_first(first.run, first.plan) if pending else []
    beside = functools.partial(check_contents, store, unread)
    progress = SweepProgress(sweep.plan.num_fits, Costs(sweep.storage))
    found: WorkerOutcomes = on_workers(sweep_on_worker, payload, config, f"{uri}/ray", progress, beside)
    by_name = {outcome.name: outcome for outcome in (*found.outcomes, *sweep.refused)}
    outcomes = tuple(by_name[name] for name in sweep.settings)
    return SweepResult(sweep=sweep.fingerprint, metric_name=found.metric_name, outcomes=outcomes)


def sweep_on_worker(payload: SweepPayload, context: Any, tell: Callable[[Any], None]) -> WorkerOutcomes:
    """Runs on every worker: opens the store and the runs, then enters the core's loop."""
    from mhim_core.train.sweep_loop import run_sweep
    from mhim_core.train.validation import METRIC_OF

    storages = {name: open_storage(uri) for name, uri in payload.run_uris.items()}
    with bags_on_worker(payload.bags, context, tell) as (bags, tell_all):
        outcomes = run_sweep(payload.plan, bags, storages, context, tell_all)
    kind = next(iter(payload.plan.plans.values())).task.kind
    return WorkerOutcomes(METRIC_OF[kind], outcomes)


def _exit_code(outcomes: Sequence[TrialOutcome]) -> ExitCode:
    statuses = {outcome.status for outcome in outcomes}
    if TrialStatus.failed not in statuses:
        return ExitCode.OK
    return ExitCode.PARTIAL if TrialStatus.finished in statuses else ExitCode.TOO_MANY_FAILED
