"""Every aggregator through the step, plain and under MHIM."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from mhim_core.errors import ConfigError
from mhim_core.mil.layout import Layout
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import (
    AGGREGATOR_NAMES,
    MINING_AGGREGATORS,
    MhimOptions,
    ModelOptions,
    Score,
    TeacherMode,
    TokenOrder,
)
from mhim_core.task import ClassTarget, FittedTask, Task, TaskKind, fit_task
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import Precision
from mhim_core.train.model_file import LoadedModel, load_model, save_model
from mhim_core.train.objective import make_label
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.state import TrainState
from mhim_core.train.step import Bag, StepResult, train_step
from mhim_core.types import BagId

PlanFor = Callable[..., TrainPlan]
CPU = torch.device("cpu")
PLAIN_AND_MINING = [(name, Stage.plain) for name in AGGREGATOR_NAMES] + [
    (name, Stage.mhim) for name in MINING_AGGREGATORS
]


@pytest.fixture
def plan_for(plan_of: PlanFor) -> PlanFor:
    def make(aggregator: str, stage: Stage = Stage.mhim, **options: object) -> TrainPlan:
        plan = plan_of(stage=Stage.plain, precision=Precision.float64, **options)
        model = ModelOptions(aggregator=aggregator, embed_dim=16)
        fits = plan_of(stage=stage).fits
        return dataclasses.replace(plan, model=model, fits=fits)

    return make


def card_of(plan: TrainPlan, mhim: MhimOptions | None = None) -> ModelCard:
    return ModelCard(
        stage=Stage.plain if mhim is None else Stage.mhim,
        fold=0,
        seed=0,
        d_in=plan.d_in,
        task=FittedTask(kind=plan.task.kind, classes=plan.task.classes),
        precision=plan.fit.precision,
        model=plan.model,
        mhim=mhim,
    )


def start(plan: TrainPlan, stage: Stage) -> TrainState:
    setup = make_setup(plan, next(spec for spec in plan.fits if spec.stage is stage))
    if stage is Stage.plain:
        return start_state(setup, None, CPU)
    taught = build_model(plan.d_in, plan.task.num_outputs, plan.model, seed="stage 1", dtype=setup.dtype)
    return start_state(setup, LoadedModel(card_of(plan), taught, None), CPU)


def bag(plan: TrainPlan, num: int = 20, seed: int = 0) -> Bag:
    x = torch.randn(num, plan.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Bag(BagId(f"bag {seed}"), make_label(ClassTarget(seed % 2), fit_task(plan.task, []), x.dtype), x)


def run(state: TrainState, *bags: Bag) -> StepResult:
    return train_step(state, bags, len(bags), SingleProcess())


@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 6, 7])
def test_the_smallest_bags_pass_through_a_step(plan_for: PlanFor, aggregator: str, stage: Stage, num: int) -> None:
    mhim = MhimOptions(high_mask_ratio=0.9, random_mask_ratio=0.8, v1_random_mask_ratio=0.5)
    plan = plan_for(aggregator, stage, mhim=mhim)
    state = start(plan, stage)
    result = run(state, bag(plan, num))
    assert torch.isfinite(result.task_B + result.consistency_B).all()
    assert all(torch.isfinite(tensor).all() for tensor in state.models().values())


@pytest.mark.parametrize("aggregator", MINING_AGGREGATORS)
def test_with_everything_off_stage_two_is_stage_one(plan_for: PlanFor, aggregator: str) -> None:
    off = MhimOptions(high_mask_ratio=0.0, random_mask_ratio=0.0, consistency_weight=0.0, full_view_weight=0.0)
    plan = plan_for(aggregator, mhim=off)
    plain, masked = start(plan, Stage.plain), start(plan, Stage.mhim)
    masked.student.load_state_dict(plain.student.state_dict())
    for step in range(3):
        run(plain, bag(plan, seed=step))
        run(masked, bag(plan, seed=step))
    for name, tensor in plain.student.state_dict().items():
        torch.testing.assert_close(masked.student.state_dict()[name], tensor, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "aggregator",
    [name if name == "abmil" else pytest.param(name, marks=pytest.mark.thorough) for name in MINING_AGGREGATORS],
)
@pytest.mark.parametrize("score", list(Score))
@pytest.mark.parametrize("mode", list(TeacherMode))
def test_every_score_and_teacher_mode_makes_the_student_learn_one_bag(
    plan_for: PlanFor, aggregator: str, score: Score, mode: TeacherMode
) -> None:
    plan = plan_for(aggregator, mhim=MhimOptions(score=score, teacher_mode=mode, random_mask_ratio=0.3))
    state = start(plan, Stage.mhim)
    straight = bag(plan, 40)
    mistaken = straight._replace(label=straight.label._replace(category=state.student(straight.x_NF).logits_C.argmin()))
    losses = [float(run(state, mistaken).task_B) for _ in range(30)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("stage", list(Stage))
def test_dsmils_unused_head_stays_as_it_was(plan_for: PlanFor, stage: Stage) -> None:
    plan = plan_for("dsmil", weight_decay=0.1)
    state = start(plan, stage)
    before = {name: tensor.clone() for name, tensor in state.student.state_dict().items()}
    run(state, bag(plan), bag(plan, seed=1))
    after = state.student.state_dict()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert {"aggregator.head.weight", "aggregator.head.bias"} <= same
    assert "aggregator.bag_head.weight" not in same


def test_the_order_of_tokens_matters_to_transmil_alone(plan_for: PlanFor) -> None:
    for aggregator in MINING_AGGREGATORS:
        logits = []
        for order in TokenOrder:
            plan = plan_for(aggregator, mhim=MhimOptions(random_mask_ratio=0.3, token_order=order))
            own = {"mammil_dropout": 0.0} if aggregator == "mammil" else {}
            model = dataclasses.replace(plan.model, dropout=0.0, transmil_dropout=0.0, **own)
            logits.append(run(start(dataclasses.replace(plan, model=model), Stage.mhim), bag(plan, 30)).logits_BC)
        differs = float((logits[0] - logits[1]).abs().max()) > 1e-9
        assert differs is (aggregator == "transmil")


@pytest.mark.parametrize("aggregator", ["mean", "max"])
def test_a_plan_refuses_mining_without_weighed_instances(plan_for: PlanFor, aggregator: str) -> None:
    plan_for(aggregator, Stage.plain)
    with pytest.raises(ConfigError, match="method=mhim needs"):
        plan_for(aggregator, Stage.mhim)


def test_a_plan_refuses_an_aggregator_that_needs_classes_where_there_are_none(plan_for: PlanFor) -> None:
    plan = plan_for("mdmil", Stage.plain)
    survival = Task(kind=TaskKind.survival)
    with pytest.raises(ConfigError, match="mdmil needs classes"):
        dataclasses.replace(plan, task=survival)
    dataclasses.replace(plan, task=survival, model=ModelOptions())


@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_model_files_bring_every_aggregator_back(plan_for: PlanFor, aggregator: str) -> None:
    plan = plan_for(aggregator, Stage.plain)
    mhim = MhimOptions(token_order=TokenOrder.sorted)
    card = card_of(plan, mhim)
    student = build_model(plan.d_in, plan.task.num_outputs, plan.model, mhim, seed="s", dtype=torch.float64)
    loaded = load_model(save_model(card, student.state_dict()))
    assert loaded.card == card
    x = bag(plan).x_NF
    assert torch.equal(loaded.student(x, layout=Layout.path(len(x), CPU)).logits_C, student(x).logits_C)


@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
def test_a_state_goes_on_bit_for_bit_after_loading(plan_for: PlanFor, aggregator: str, stage: Stage) -> None:
    plan = plan_for(aggregator, stage)
    straight, stopped = start(plan, stage), start(plan, stage)
    for state in (straight, stopped):
        run(state, bag(plan))
    resumed = start(plan, stage)
    resumed.load_bytes(stopped.to_bytes())
    assert resumed.to_bytes() == stopped.to_bytes()
    for state in (straight, resumed):
        run(state, bag(plan, seed=1))
    assert resumed.to_bytes() == straight.to_bytes()
