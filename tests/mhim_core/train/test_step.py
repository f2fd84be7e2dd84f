"""The step: what moves, what stays, what it depends on."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.losses import consistency_loss
from mhim_core.mil.masking import mask_instances, split_recycled
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MhimOptions, TeacherMode
from mhim_core.task import ClassTarget, fit_task
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import Precision
from mhim_core.train.model_file import LoadedModel
from mhim_core.train.objective import make_label, task_loss
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, StepResult, train_step, view_as_student, view_as_teacher
from mhim_core.types import BagId

PlanOf = Callable[..., TrainPlan]
CPU = torch.device("cpu")


def setup_of(plan: TrainPlan, stage: Stage) -> FitSetup:
    return make_setup(plan, next(spec for spec in plan.fits if spec.stage is stage))


def start(plan: TrainPlan, stage: Stage = Stage.mhim) -> TrainState:
    setup = setup_of(plan, stage)
    if stage is Stage.plain:
        return start_state(setup, None, CPU)
    student = build_model(plan.d_in, plan.task.num_outputs, plan.model, seed="stage 1", dtype=setup.dtype)
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=0,
        d_in=plan.d_in,
        task=fit_task(plan.task, []),
        precision=plan.fit.precision,
        model=plan.model,
        mhim=None,
    )
    return start_state(setup, LoadedModel(card, student, None), CPU)


def bag(plan: TrainPlan, num: int = 20, seed: int = 0, label: int = 1) -> Bag:
    x = torch.randn(num, plan.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    dtype = torch.float64 if plan.fit.precision is Precision.float64 else torch.float32
    return Bag(BagId(f"bag {seed}"), make_label(ClassTarget(label), fit_task(plan.task, []), dtype), x.to(dtype))


def run(state: TrainState, *bags: Bag) -> StepResult:
    return train_step(state, bags, max(len(bags), 1), SingleProcess())


@pytest.mark.parametrize("precision", list(Precision))
def test_twenty_steps_give_bit_identical_losses_twice(plan_of: PlanOf, precision: Precision) -> None:
    plan = plan_of(precision=precision)

    def losses() -> list[float]:
        state = start(plan)
        return [float(run(state, bag(plan, 20 + step % 3, step % 5, step % 2)).task_B) for step in range(20)]

    assert losses() == losses()


@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_the_gradient_of_a_batch_is_that_of_its_bags_added_up(plan_of: PlanOf, aggregator: str) -> None:
    plan = plan_of(stage=Stage.plain, precision=Precision.float64)
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, aggregator=aggregator))
    bags = [bag(plan, 9 + 4 * number, number, number % 2) for number in range(3)]

    def gradients(*share: Bag) -> dict[str, torch.Tensor]:
        state = start(plan, Stage.plain)
        train_step(state, share, len(bags), SingleProcess())
        parameters = state.student.named_parameters()
        return {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}

    parts = [gradients(each) for each in bags]
    for name, gradient in gradients(*bags).items():
        expected = sum(part.get(name, torch.zeros(())) for part in parts)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("stage", list(Stage))
def test_the_smallest_bags_pass_through_a_step(plan_of: PlanOf, stage: Stage, num: int) -> None:
    plan = plan_of(mhim=MhimOptions(high_mask_ratio=0.9, random_mask_ratio=0.8, v1_random_mask_ratio=0.5))
    state = start(plan, stage)
    result = run(state, bag(plan, num))
    assert torch.isfinite(result.task_B + result.consistency_B).all()
    assert all(torch.isfinite(tensor).all() for tensor in state.models().values())


def test_the_order_of_instances_does_not_matter_without_masks_and_dropout(plan_of: PlanOf) -> None:
    plan = plan_of(precision=Precision.float64, mhim=MhimOptions(high_mask_ratio=0.1, random_mask_ratio=0.0))
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, dropout=0.0))
    state, shuffled = start(plan), start(plan)
    straight = bag(plan)
    first, second = run(state, straight), run(shuffled, straight._replace(x_NF=straight.x_NF.flip(0)))
    torch.testing.assert_close(first.task_B, second.task_B, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.consistency_B, second.consistency_B, rtol=1e-12, atol=0)


def test_with_everything_off_stage_two_is_stage_one(plan_of: PlanOf) -> None:
    off = MhimOptions(high_mask_ratio=0.0, random_mask_ratio=0.0, consistency_weight=0.0, full_view_weight=0.0)
    plan = plan_of(precision=Precision.float64, mhim=off)
    plain, masked = start(plan, Stage.plain), start(plan)
    masked.student.load_state_dict(plain.student.state_dict())
    for step in range(3):
        run(plain, bag(plan, seed=step))
        run(masked, bag(plan, seed=step))
    for name, tensor in plain.student.state_dict().items():
        torch.testing.assert_close(masked.student.state_dict()[name], tensor, rtol=1e-12, atol=1e-14)


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.student.named_parameters() if p.grad is not None}


def two_views(plan_of: PlanOf, weight: float, aggregator: str = "abmil") -> TrainPlan:
    """Without dropout, so that a view of the same instances is the same whoever else looks at them."""
    mhim = MhimOptions(high_mask_ratio=0.2, random_mask_ratio=0.3, recycle_dropout=0.0, full_view_weight=weight)
    plan = plan_of(precision=Precision.float64, mhim=mhim)
    model = dataclasses.replace(plan.model, dropout=0.0, transmil_dropout=0.0, aggregator=aggregator)
    return dataclasses.replace(plan, model=model)


@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil", "clam-sb", "clam-mb"])
def test_the_gradient_of_two_views_is_the_weighted_sum_of_theirs(plan_of: PlanOf, aggregator: str) -> None:
    plan = two_views(plan_of, 0.4, aggregator)
    both, masked = start(plan), start(two_views(plan_of, 0.0, aggregator))
    whole = start(plan, Stage.plain)
    whole.student.load_state_dict(both.student.state_dict(), strict=False)
    single_bag = bag(plan)
    result, of_masked, of_whole = (run(state, single_bag) for state in (both, masked, whole))
    torch.testing.assert_close(result.task_B, 0.6 * of_masked.task_B + 0.4 * of_whole.task_B)
    torch.testing.assert_close(result.consistency_B, of_masked.consistency_B)
    expected = {name: 0.6 * grad for name, grad in gradients(masked).items()}
    for name, grad in gradients(whole).items():
        expected[name] = expected.get(name, 0) + 0.4 * grad
    gradient = gradients(both)
    assert gradient.keys() == expected.keys()
    for name, grad in gradient.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)


def test_without_a_weight_the_student_sees_no_whole_bag_and_its_bits_are_those_of_the_masked_view_alone(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(mhim=MhimOptions(high_mask_ratio=0.1, random_mask_ratio=0.3, full_view_weight=0.0))
    seen: list[int] = []
    state = start(plan)
    embed = state.student._embed
    monkeypatch.setattr(
        state.student, "_embed", lambda x_NF, plan, draws: (seen.append(len(plan.rows)), embed(x_NF, plan, draws))[1]
    )
    single_bag = bag(plan)
    result = run(state, single_bag)
    assert seen == [18]  # 2 of 20 are hidden
    label, mhim = single_bag.label, plan.mhim
    again = start(plan)
    draws = Draws(again.setup.seed, 0, single_bag.bag_id)
    target = view_as_teacher(again.teacher, single_bag.x_NF, mhim, draws)
    kept = mask_instances(target.score_HN, mhim.high_mask_ratio, mhim, draws).kept
    view = view_as_student(
        again.student, single_bag.x_NF, split_recycled(kept, mhim.random_mask_ratio, draws, mhim.token_order), draws
    )
    task = task_loss(plan.task.kind, view.output.logits_C, label)
    consistency = consistency_loss(target.feature_D, view.output.feature_D, mhim.temperature)
    (label.weight * task + mhim.consistency_weight * consistency).backward()
    assert torch.equal(result.task_B[0], task.detach())
    assert all(torch.equal(grad, gradients(again)[name]) for name, grad in gradients(state).items())


def test_with_a_whole_view_what_is_masked_still_moves_the_student(plan_of: PlanOf) -> None:
    """A feature that only the teacher's favourites have: the masked view alone gives its weights no gradient."""

    def reach(weight: float) -> float:
        plan = two_views(plan_of, weight)
        plan = dataclasses.replace(plan, mhim=dataclasses.replace(plan.mhim, random_mask_ratio=0.0))
        state, single_bag = start(plan), bag(plan)
        single_bag.x_NF[:, 0] = 0.0
        score_HN = view_as_teacher(state.teacher, single_bag.x_NF, plan.mhim, Draws(0, 0, single_bag.bag_id)).score_HN
        single_bag.x_NF[score_HN[0].argmax(), 0] = 1e-3  # too little to change the ranking
        run(state, single_bag)
        return float(state.student.embed.weight.grad[:, 0].abs().sum())

    assert reach(0.0) == 0.0
    assert reach(0.5) > 0.0


def test_the_teacher_follows_and_takes_no_gradient(plan_of: PlanOf) -> None:
    plan = plan_of(mhim=MhimOptions(ema_momentum="0.9"))
    state = start(plan)
    assert state.teacher is not None
    before = {name: tensor.clone() for name, tensor in state.teacher.state_dict().items()}
    run(state, bag(plan))
    assert all(parameter.grad is None for parameter in state.teacher.parameters())
    for name, tensor in state.teacher.state_dict().items():
        torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * state.student.state_dict()[name])


def test_dropout_reaches_the_teacher_only_in_train_mode(plan_of: PlanOf) -> None:
    def consistency(mode: TeacherMode, dropout: float) -> float:
        plan = plan_of(mhim=MhimOptions(high_mask_ratio=0.0, random_mask_ratio=0.0, teacher_mode=mode))
        plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, dropout=dropout))
        return float(run(start(plan), bag(plan)).consistency_B)

    assert consistency(TeacherMode.eval, 0.0) == consistency(TeacherMode.train, 0.0)
    assert consistency(TeacherMode.eval, 0.25) != consistency(TeacherMode.train, 0.25)


def test_a_step_in_which_nothing_is_recycled_leaves_queries_and_recycle_weights(plan_of: PlanOf) -> None:
    plan = plan_of(mhim=MhimOptions(random_mask_ratio=0.9, recycle_momentum=0.5))
    state = start(plan)
    assert state.student.recycle is not None
    before = {name: tensor.clone() for name, tensor in state.student.recycle.state_dict().items()}
    run(state, bag(plan, num=5))  # the kept share is less than one instance: all enter
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.student.recycle.state_dict().items())
    run(state, bag(plan, num=30))
    assert not any(torch.equal(tensor, before[name]) for name, tensor in state.student.recycle.state_dict().items())


def test_a_batch_is_the_mean_over_its_bags(plan_of: PlanOf) -> None:
    plan = plan_of(precision=Precision.float64)
    bags = [bag(plan, seed=seed) for seed in range(3)]
    together = start(plan)
    run(together, *bags)
    alone = [start(plan) for _ in bags]
    for state, single in zip(alone, bags, strict=True):
        run(state, single)
    for parts in zip(*(state.student.parameters() for state in (together, *alone)), strict=True):
        whole, *singles = (parameter.grad for parameter in parts)
        assert whole is not None
        mean = torch.stack([single for single in singles if single is not None]).sum(dim=0) / 3
        torch.testing.assert_close(whole, mean, rtol=1e-9, atol=1e-14)


def test_class_weights_have_mean_one_over_the_bags_and_scale_the_task_loss(plan_of: PlanOf, bags_of) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(num=18, num_classes=3, stage=Stage.plain, class_weights=True)
    lopsided = dataclasses.replace(setup_of(plan, Stage.plain), train=plan.fits[0].train[:7])
    feed = BagFeed(bags_of(18, 3), lopsided, CPU)
    weights = [float(feed.read(labelled).label.weight) for labelled in lopsided.train]
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert weights[:3] == pytest.approx([7 / 3 / count for count in (3, 2, 2)])
    light, heavy = (start_state(lopsided, None, CPU) for _ in range(2))
    single_bag = feed.read(lopsided.train[0])
    run(light, single_bag._replace(label=single_bag.label._replace(weight=torch.tensor(0.0))))
    run(heavy, single_bag)
    assert float(light.student.embed.weight.grad.abs().sum()) == 0
    assert float(heavy.student.embed.weight.grad.abs().sum()) > 0


def test_a_rank_without_bags_takes_the_step_all_the_same(plan_of: PlanOf) -> None:
    state = start(plan_of())
    result = run(state)
    assert len(result.task_B) == 0
    assert state.step == 1
