"""The resumable state, to bytes and back."""

from collections.abc import Callable

import pytest
import torch

from mhim_core.errors import IntegrityError
from mhim_core.mil.model import build_model
from mhim_core.task import fit_task
from mhim_core.train.context import SingleProcess
from mhim_core.train.feed import BagFeed
from mhim_core.train.loop import run_epoch
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.state import FitSetup, TrainState

CPU = torch.device("cpu")


def trained(plan: TrainPlan, bags, epochs: int = 2) -> TrainState:  # type: ignore[no-untyped-def]
    spec = plan.fits[0]
    state = start_state(make_setup(plan, spec), None, CPU)
    for _ in range(epochs):
        run_epoch(state, spec, BagFeed(bags, state.setup, CPU), SingleProcess())
    return state


def test_a_state_survives_bytes_bit_for_bit_and_trains_on_alike(plan_of: Callable[..., TrainPlan], bags) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    state = trained(plan, bags)
    data = state.to_bytes()
    copy = start_state(state.setup, None, CPU)
    copy.load_bytes(data)
    assert copy.to_bytes() == data
    for each in (state, copy):
        run_epoch(each, plan.fits[0], BagFeed(bags, state.setup, CPU), SingleProcess())
    assert copy.to_bytes() == state.to_bytes() != data


def test_the_state_of_another_model_is_refused(plan_of: Callable[..., TrainPlan], bags) -> None:  # type: ignore[no-untyped-def]
    data = trained(plan_of(), bags, epochs=1).to_bytes()
    other = start_state(make_setup(plan_of(), plan_of().fits[1]), None, CPU)
    with pytest.raises(IntegrityError):
        other.load_bytes(data)


@pytest.mark.parametrize("cut", [0, 5, 100, -50])
@pytest.mark.fault(33)
def test_damaged_bytes_are_refused(plan_of: Callable[..., TrainPlan], bags, cut: int) -> None:  # type: ignore[no-untyped-def]
    state = trained(plan_of(), bags, epochs=1)
    with pytest.raises(IntegrityError):
        state.load_bytes(state.to_bytes()[:cut])


def test_the_learning_rate_falls_by_a_cosine_over_the_epochs(plan_of: Callable[..., TrainPlan]) -> None:
    plan = plan_of(epochs=10, learning_rate=1e-3, min_learning_rate=1e-5)
    setup: FitSetup = make_setup(plan, plan.fits[0])
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-5)
    for epoch in range(10):
        assert setup.learning_rate_at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_schedules_run_over_epochs_times_steps(plan_of: Callable[..., TrainPlan]) -> None:
    plan = plan_of(epochs=5, global_batch=3)
    assert make_setup(plan, plan.fits[0]).total_steps == 5 * 6  # 16 bags in steps of 3


def test_a_student_starts_as_asked(plan_of: Callable[..., TrainPlan]) -> None:
    from mhim_core.mil.model_options import MhimOptions, StudentInit
    from mhim_core.train.card import ModelCard
    from mhim_core.train.model_file import LoadedModel

    shared = {}
    for init in StudentInit:
        plan = plan_of(mhim=MhimOptions(student_init=init))
        learned = build_model(plan.d_in, 2, plan.model, seed="learned")
        card = ModelCard(
            stage=Stage.plain, fold=0, seed=0, d_in=plan.d_in, task=fit_task(plan.task, []),
            precision=plan.fit.precision,
            model=plan.model, mhim=None,
        )  # fmt: skip
        state = start_state(make_setup(plan, plan.fits[1]), LoadedModel(card, learned, None), CPU)
        assert state.teacher is not None
        for name, tensor in learned.state_dict().items():
            assert torch.equal(state.teacher.state_dict()[name], tensor)
        for name, tensor in state.student.state_dict().items():
            if name.startswith("recycle."):
                assert torch.equal(state.teacher.state_dict()[name], tensor)
        ours = state.student.state_dict()
        shared[init] = {name for name, tensor in learned.state_dict().items() if torch.equal(ours[name], tensor)}
    zeros = {"embed.bias", "aggregator.head.bias"}
    assert shared[StudentInit.fresh] == zeros
    assert shared[StudentInit.embed] == zeros | {"embed.weight"}
    assert shared[StudentInit.all] == set(learned.state_dict())
