"""The fits of a sweep: shared stage 1, halving, failures, resuming; each configuration ends as it would alone."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mhim_core.mil.model_options import MhimOptions
from mhim_core.storage import LocalStorage
from mhim_core.train.context import SingleProcess
from mhim_core.train.events import FitEventKind
from mhim_core.train.halving import Rung, rungs_of
from mhim_core.train.loop import PausedFit, advance_fit, run_fits
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.results import FitResult
from mhim_core.train.sweep_events import TrialCost, TrialEnd, TrialEvent
from mhim_core.train.sweep_loop import run_sweep
from mhim_core.train.sweep_plan import SweepPlan, TrialOutcome, TrialStatus

PlanOf = Callable[..., TrainPlan]
DIVERGING = {"consistency_weight": 1e300}
"""An option of stage 2 alone."""


class StoppedError(Exception):
    pass


class Watcher:
    """Keeps the events; stops the sweep after an epoch of a configuration, as a kill would."""

    def __init__(self, stop: tuple[str, str, int] | None = None) -> None:
        self.events: list[Any] = []
        self.stop = stop

    def __call__(self, event: TrialEvent | TrialCost | TrialEnd) -> None:
        self.events.append(event)
        if not isinstance(event, TrialEvent) or event.event.kind is not FitEventKind.epoch:
            return
        record = event.event.record
        assert record is not None
        if (event.trial, event.event.fit.rpartition("/")[2], record.epoch) == self.stop:
            raise StoppedError

    def fits(self, *kinds: FitEventKind) -> list[tuple[str, str]]:
        """The configuration and stage of each event of these kinds."""
        events = [event for event in self.events if isinstance(event, TrialEvent) and event.event.kind in kinds]
        return [(event.trial, event.event.fit.rpartition("/")[2]) for event in events]


def plans(plan_of: PlanOf, **options: Mapping[str, Any]) -> dict[str, TrainPlan]:
    """By name, of options of MHIM (`fit_…`: of the fit; `plain`: of stage 1 alone)."""
    made = {}
    for name, own in options.items():
        fit = {key.removeprefix("fit_"): value for key, value in own.items() if key.startswith("fit_")}
        mhim = {key: value for key, value in own.items() if not key.startswith("fit_") and key != "plain"}
        stage = Stage.plain if own.get("plain") else Stage.mhim
        made[name] = plan_of(12, stage, mhim=MhimOptions(**{"high_mask_ratio": 0.1} | mhim), **{"epochs": 3} | fit)
    return made


def sweep(
    by_name: dict[str, TrainPlan],
    bags: Any,
    root: Path,
    *,
    rungs: tuple[Rung, ...] = (),
    watcher: Watcher | None = None,
) -> list[TrialOutcome]:
    plan = SweepPlan(plans=by_name, rungs=rungs or rungs_of(len(by_name), 3, 0))
    storages = {name: LocalStorage(root / name) for name in by_name}
    return run_sweep(plan, bags, storages, SingleProcess(), watcher or Watcher())


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def alone(plan: TrainPlan, bags: Any, root: Path) -> dict[str, bytes]:
    run_fits(plan, bags, LocalStorage(root), SingleProcess())
    return contents(root)


def test_stage_one_is_trained_once_for_all_that_share_it_and_every_run_is_as_it_would_be_alone(
    plan_of: PlanOf, bags: Any, tmp_path: Path
) -> None:
    by_name = plans(plan_of, baseline={"plain": True}, a={}, b={"high_mask_ratio": 0.3}, other={"fit_epochs": 2})
    watcher = Watcher()
    outcomes = sweep(by_name, bags, tmp_path / "sweep", watcher=watcher)
    assert Counter(watcher.fits(FitEventKind.finished)) == {
        **dict.fromkeys([("a", "plain"), ("a", "mhim"), ("b", "mhim"), ("other", "plain"), ("other", "mhim")], 1)
    }
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [
        (name, TrialStatus.finished) for name in by_name
    ]
    for name, plan in by_name.items():
        assert contents(tmp_path / "sweep" / name) == alone(plan, bags, tmp_path / "alone" / name)


def test_a_configuration_that_diverges_is_an_outcome_and_those_that_take_its_stage_one_go_on(
    plan_of: PlanOf, bags_of: Any, tmp_path: Path
) -> None:
    by_name = plans(
        plan_of,
        broken=DIVERGING,
        good={},
        wild={"fit_learning_rate": 1e30},
        wilder={"fit_learning_rate": 1e30, "high_mask_ratio": 0.3},
    )
    outcomes = {outcome.name: outcome for outcome in sweep(by_name, bags_of(12), tmp_path)}
    assert [outcomes[name].status for name in by_name] == ["failed", "finished", "failed", "failed"]
    assert "seed-2021/fold-0/mhim" in outcomes["broken"].reason
    assert "NaN" in outcomes["wild"].reason
    assert outcomes["wilder"].reason == outcomes["wild"].reason, "they share the stage 1 that diverged"
    assert (len(outcomes["broken"].fits), len(outcomes["good"].fits)) == (0, 1)


def test_an_owner_of_stage_one_that_is_out_still_trains_it_on_the_next_fold(
    plan_of: PlanOf, bags_of: Any, tmp_path: Path
) -> None:
    by_name = {
        name: dataclasses.replace(
            plan,
            fits=tuple(
                spec._replace(
                    name=spec.name.replace("fold-0", f"fold-{fold}"),
                    fold=fold,
                    teacher=spec.teacher and spec.teacher.replace("fold-0", f"fold-{fold}"),
                )
                for fold in (0, 1)
                for spec in plan.fits
            ),
        )
        for name, plan in plans(plan_of, broken=DIVERGING, good={}).items()
    }
    watcher = Watcher()
    outcomes = sweep(by_name, bags_of(12), tmp_path, watcher=watcher)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished"]
    assert [fit.fold for fit in outcomes[1].fits] == [0, 1]
    assert watcher.fits(FitEventKind.finished) == [
        *(("broken", "plain"), ("good", "mhim"), ("broken", "plain"), ("good", "mhim"))
    ]


def test_of_each_rung_only_the_best_go_on_and_the_last_ends_as_it_would_alone(
    plan_of: PlanOf, bags: Any, tmp_path: Path
) -> None:
    ratios = (0.0, 0.1, 0.3, 0.6)
    by_name = plans(plan_of, **{f"r{ratio}": {"high_mask_ratio": ratio, "fit_epochs": 6} for ratio in ratios})
    rungs = rungs_of(4, 6, 2)
    assert [rung.epochs for rung in rungs] == [2, 3, None]
    watcher = Watcher()
    outcomes = sweep(by_name, bags, tmp_path / "sweep", rungs=rungs, watcher=watcher)
    assert Counter((outcome.status.value, outcome.rung) for outcome in outcomes) == {
        ("cut", 2): 2,
        ("cut", 3): 1,
        ("finished", None): 1,
    }
    assert [outcome.fits[0].epochs for outcome in outcomes if outcome.status is TrialStatus.cut] == [
        outcome.rung for outcome in outcomes if outcome.status is TrialStatus.cut
    ]
    assert len(watcher.fits(FitEventKind.epoch)) == 6 + 4 * 2 + 2 * 1 + 1 * 3, (
        "stage 1 in full, then what the rungs leave"
    )
    (best,) = [outcome for outcome in outcomes if outcome.status is TrialStatus.finished]
    assert contents(tmp_path / "sweep" / best.name) == alone(by_name[best.name], bags, tmp_path / "alone")
    again = sweep(by_name, bags, tmp_path / "other", rungs=rungs)
    assert again == outcomes


@pytest.mark.parametrize(
    "stop", [("b", "mhim", 1), pytest.param(("b", "mhim", 4), marks=pytest.mark.thorough)], ids=str
)
@pytest.mark.fault(31)
def test_a_sweep_that_was_stopped_ends_as_if_it_had_not_been(
    plan_of: PlanOf, bags: Any, tmp_path: Path, stop: tuple[str, str, int]
) -> None:
    by_name = plans(plan_of, a={"fit_epochs": 6}, b={"high_mask_ratio": 0.5, "fit_epochs": 6})
    rungs = (Rung(3, 2), Rung(None, 2))
    whole = sweep(by_name, bags, tmp_path / "whole", rungs=rungs)
    with pytest.raises(StoppedError):
        sweep(by_name, bags, tmp_path / "cut", rungs=rungs, watcher=Watcher(stop))
    assert sweep(by_name, bags, tmp_path / "cut", rungs=rungs) == whole
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_fit_that_pauses_goes_on_to_the_bytes_of_one_that_does_not(
    plan_of: PlanOf, bags: Any, tmp_path: Path
) -> None:
    plan = plan_of(12, Stage.plain, epochs=5, checkpoint_every=0)
    (spec,) = plan.fits
    storage, context = LocalStorage(tmp_path / "paused"), SingleProcess()
    for until, epochs in ((2, 2), (4, 4), (1, 4)):  # what it has come to is kept
        paused = advance_fit(plan, spec, bags, storage, context, until=until)
        assert isinstance(paused, PausedFit)
        assert len(paused.history) == epochs
    assert isinstance(advance_fit(plan, spec, bags, storage, context, until=9), FitResult)
    assert contents(tmp_path / "paused") == alone(plan, bags, tmp_path / "alone")


@pytest.mark.thorough
@pytest.mark.fault(32)
def test_several_workers_cut_and_give_up_the_same_configurations_as_one(
    plan_of: PlanOf, bags: Any, tmp_path: Path, ranks: Callable[..., list[Any]]
) -> None:
    wild = {"fit_learning_rate": 1e30}
    by_name = plans(plan_of, a={}, broken=DIVERGING, wild=wild, b={"high_mask_ratio": 0.5})
    by_name = {
        name: dataclasses.replace(plan, fit=dataclasses.replace(plan.fit, global_batch=2))
        for name, plan in by_name.items()
    }
    plan = SweepPlan(plans=by_name, rungs=(Rung(1, 1), Rung(None, 4)))

    def work(context: Any) -> list[TrialOutcome]:
        storages = {name: LocalStorage(tmp_path / f"{context.world_size}" / name) for name in by_name}
        return run_sweep(plan, bags, storages, context)

    (alone,) = ranks(1, work)
    assert Counter(outcome.status for outcome in alone) == {"failed": 2, "cut": 1, "finished": 1}
    assert ranks(2, work) == [alone, alone]
