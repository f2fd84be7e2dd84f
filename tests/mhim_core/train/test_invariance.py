"""The number of workers changes no bit of a result, in the middle of a fit neither."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mhim_core.errors import IntegrityError, StoppedError
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions
from mhim_core.storage import LocalStorage
from mhim_core.train import gradients
from mhim_core.train.checks import check_drift
from mhim_core.train.context import Notice, SingleProcess
from mhim_core.train.fit_options import Precision
from mhim_core.train.loop import run_fits
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.results import FitResult, card_key, read_model

PlanOf = Callable[..., TrainPlan]
Ranks = Callable[..., list[Any]]


def fitted(plan: TrainPlan, bags: Any, root: Path, ranks: Ranks, num_workers: int, make: Any = None) -> list[Any]:
    """The results on rank 0, which every rank has, or the error that every rank raised."""

    def work(context: Any) -> list[FitResult]:
        return run_fits(plan, bags, LocalStorage(root), context)

    outcomes = ranks(num_workers, work) if make is None else ranks(num_workers, work, make)
    if isinstance(outcomes[0], Exception):
        assert {str(error) for error in outcomes} == {str(outcomes[0])}
        raise outcomes[0]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


@pytest.mark.fault(32)
@pytest.mark.parametrize("precision", [pytest.param(Precision.float32, marks=pytest.mark.thorough), Precision.float64])
def test_invariance_of_fits_to_the_number_of_workers(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, ranks: Ranks, precision: Precision
) -> None:
    # 16 bags in steps of five: in the last one most workers have none
    plan = plan_of(global_batch=5, precision=precision, epochs=2)
    expected = run_fits(plan, bags, LocalStorage(tmp_path / "1"), SingleProcess())
    for num_workers in (2, 3, 4):
        root = tmp_path / str(num_workers)
        results = fitted(plan, bags, root, ranks, num_workers)
        assert results == expected, "the models' sha256 and every epoch's losses among them"
        for result in results:
            assert read_model(LocalStorage(root), result) == read_model(LocalStorage(tmp_path / "1"), result)
            card = json.loads((root / card_key(result.name, result.model_sha256)).read_bytes())
            assert card["steps_by_workers"] == {str(num_workers): 2 * 4}
    card = json.loads((tmp_path / "1" / card_key(expected[0].name, expected[0].model_sha256)).read_bytes())
    assert "steps_by_workers" not in card


@pytest.mark.parametrize("bytes_waiting", [1, 60_000])
def test_invariance_to_how_many_of_a_worker_s_gradients_wait(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch, bytes_waiting: int
) -> None:
    plan = plan_of(global_batch=11, epochs=1)
    expected = run_fits(plan, bags, LocalStorage(tmp_path / "one"), SingleProcess())
    monkeypatch.setattr(gradients, "MAX_BUFFER_BYTES", bytes_waiting)
    assert fitted(plan, bags, tmp_path / "two", ranks, 2) == expected


@pytest.mark.fault(30)
@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_invariance_of_every_aggregator_to_workers_on_the_smallest_bags(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, ranks: Ranks, aggregator: str
) -> None:
    for number, bag_id in enumerate(sorted(bags.bags)):
        bags.bags[bag_id] = bags.bags[bag_id].repeat(2, 1)[: 1 + number % 7]
    stage = Stage.mhim if aggregator in MINING_AGGREGATORS else Stage.plain
    plan = plan_of(stage=stage, global_batch=4, epochs=1, mhim=MhimOptions(high_mask_ratio=0.9, random_mask_ratio=0.8))
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, aggregator=aggregator))
    expected = run_fits(plan, bags, LocalStorage(tmp_path / "one"), SingleProcess())
    assert fitted(plan, bags, tmp_path / "two", ranks, 2) == expected
    assert all(torch.isfinite(torch.tensor(result.history[-1][1:4])).all() for result in expected)


@pytest.mark.fault(31, 32)
def test_invariance_to_workers_that_become_fewer_and_more(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, ranks: Ranks
) -> None:
    plan = plan_of(global_batch=4, epochs=3)  # 4 steps an epoch
    expected = run_fits(plan, bags, LocalStorage(tmp_path / "one"), SingleProcess())

    def stopped_after(num_steps: int, rank: int) -> Any:
        """A group in which that rank is told to end after that many steps."""

        def make(own: int, exchange: Any) -> Any:
            left = iter([Notice.none] * (num_steps - 1) + [Notice.stop] * 9)
            return type_of(own, exchange, (lambda: next(left)) if own == rank else (lambda: Notice.none))

        return make

    (context,) = ranks(1, lambda context: context)
    type_of = type(context)
    root = tmp_path / "elastic"
    for num_workers, num_steps in ((3, 5), (2, 2), (4, 7)):
        with pytest.raises(StoppedError):
            fitted(plan, bags, root, ranks, num_workers, stopped_after(num_steps, num_workers - 1))
    assert fitted(plan, bags, root, ranks, 1) == expected
    counts = [
        json.loads((root / card_key(result.name, result.model_sha256)).read_bytes())["steps_by_workers"]
        for result in expected
    ]
    assert counts == [{"2": 2, "3": 5, "4": 5}, {"1": 10, "4": 2}]


@pytest.mark.fault(32)
@pytest.mark.parametrize("name", ["student/embed.weight", "teacher/recycle.queries", "student/recycle.queries"])
def test_a_worker_that_drifts_by_one_bit_is_named_with_its_tensor(plan_of: PlanOf, ranks: Ranks, name: str) -> None:
    plan = plan_of()
    spec = plan.fits[1]

    def work(context: Any) -> None:
        state = start_state(make_setup(plan, spec), None, context.device)
        state.teacher = start_state(make_setup(plan, spec), None, context.device).student
        check_drift(state, spec, context)
        if context.rank == 2:
            tensor = state.models()[name]
            tensor.view(-1).view(torch.int32)[0] ^= 1
        check_drift(state, spec, context)

    outcomes = ranks(3, work)
    assert len({str(outcome) for outcome in outcomes}) == 1
    assert isinstance(outcomes[0], IntegrityError)
    assert f"1 of 3 workers hold other weights than rank 0, in {name};" in str(outcomes[0])


@pytest.mark.fault(32)
@pytest.mark.parametrize("execution", [{"drift_every": 3}, {"drift_every": 0, "checkpoint_every_steps": 3}])
def test_drift_among_workers_ends_the_fit_before_a_checkpoint_is_written(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, ranks: Ranks, execution: dict[str, int]
) -> None:
    def make(rank: int, exchange: Any) -> Any:
        context = type_of(rank, exchange)
        gather = context.all_gather
        if rank == 1:
            context.all_gather = lambda row_C: gather(row_C) + 1e-6
        return context

    (context,) = ranks(1, lambda context: context)
    type_of = type(context)
    with pytest.raises(IntegrityError, match=r"after step 3 \(epoch 1\) 1 of 2 workers .* in student/"):
        fitted(plan_of(global_batch=2, **execution), bags, tmp_path, ranks, 2, make)
    assert not list(tmp_path.rglob("*.safetensors"))
