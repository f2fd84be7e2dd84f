"""Survival and regression through the step; sampling and large bags; another run's teachers."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mhim_core.errors import ConfigError, ConflictError, InputError, SplitError
from mhim_core.mil.model_options import MINING_AGGREGATORS, MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget, fit_task
from mhim_core.train.context import SingleProcess
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model
from mhim_core.train.objective import make_label, task_loss
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.preparation import make_setup
from mhim_core.train.results import card_key, import_stage_one, read_model
from mhim_core.train.sampler import Sampled, global_batches
from mhim_core.types import BagId

PlanOf = Callable[..., TrainPlan]
SURVIVAL, REGRESSION = Task(kind=TaskKind.survival), Task(kind=TaskKind.regression)
NUM = 48


def task_plan(plan_of: PlanOf, task: Task, aggregator: str = "abmil", **fit: object) -> TrainPlan:
    """Odd bags (with shifted instances) die early, or have the larger number."""
    bags = []
    for index in range(NUM):
        bad = index % 2
        late = SurvivalTarget(10.0 + index % 7 / 5 - 8 * bad, event=bool(bad or index % 4))
        target = late if task.kind is TaskKind.survival else ValueTarget(100.0 + 40 * bad + index / 10)
        bags.append(LabelledBag(BagId(f"bag-{index:02d}"), target))
    cut = NUM * 2 // 3
    options = FitOptions(**{"epochs": 5, "learning_rate": 1e-2} | fit)  # type: ignore[arg-type]
    return dataclasses.replace(
        plan_of(),
        fits=plan_fits([FoldBags(0, tuple(bags[:cut]), tuple(bags[cut:]))], Stage.mhim, task, [7]),
        task=task,
        model=ModelOptions(aggregator=aggregator, embed_dim=16),
        mhim=MhimOptions(),
        fit=options,
    )


LEARNERS = [
    name if name == "abmil" else pytest.param(name, marks=pytest.mark.thorough)
    for name in MINING_AGGREGATORS
    if name != "mdmil"
]
"""Fits of many epochs: one aggregator stands for all in CI. MDMIL learns classes alone."""


def marked_bags(bags_of) -> object:  # type: ignore[no-untyped-def]
    """All instances of odd bags are moved a little, so that no aggregator has to find them first."""
    bags = bags_of(NUM, shift=0.0)
    for index in range(1, NUM, 2):
        bags.bags[BagId(f"bag-{index:02d}")][:, 1] += 3
    return bags


@pytest.mark.parametrize("aggregator", LEARNERS)
def test_survival_is_learnt_plain_and_masked(plan_of: PlanOf, bags_of, tmp_path: Path, aggregator: str) -> None:  # type: ignore[no-untyped-def]
    plan = task_plan(plan_of, SURVIVAL, aggregator)
    results = run_fits(plan, marked_bags(bags_of), LocalStorage(tmp_path), SingleProcess())
    assert [result.metric_name for result in results] == ["harrell_c", "harrell_c"]
    assert min(result.metric or 0 for result in results) > 0.7
    card = load_model(read_model(LocalStorage(tmp_path), results[1])).card
    assert len(card.task.inner_edges) == 3
    assert card.task == make_setup(plan, plan.fits[1]).task


@pytest.mark.parametrize("aggregator", LEARNERS)
def test_a_number_is_learnt_plain_and_masked(plan_of: PlanOf, bags_of, tmp_path: Path, aggregator: str) -> None:  # type: ignore[no-untyped-def]
    plan = task_plan(plan_of, REGRESSION, aggregator)
    results = run_fits(plan, marked_bags(bags_of), LocalStorage(tmp_path), SingleProcess())
    # in units of the training targets' deviation: guessing their mean costs 1
    assert max(result.validation_loss for result in results) < 0.6
    assert all(result.metric is None for result in results)
    card = load_model(read_model(LocalStorage(tmp_path), results[1])).card
    assert card.task.target_mean == pytest.approx(121.55)


def test_the_loss_of_each_task_is_its_definition() -> None:
    logits_C = torch.tensor([0.3, -0.2, 0.7, 0.1], dtype=torch.float64)
    bins = dataclasses.replace(fit_task(SURVIVAL, [SurvivalTarget(float(t), True) for t in range(9)]))
    hazard, outlived = logits_C.sigmoid(), (1 - logits_C.sigmoid()).cumprod(0)
    label = make_label(SurvivalTarget(4.5, True), bins, torch.float64)
    assert int(label.category) == 2
    expected = -(outlived[1] * hazard[2]).log()
    assert task_loss(TaskKind.survival, logits_C, label) == pytest.approx(float(expected))
    censored = make_label(SurvivalTarget(4.5, False), bins, torch.float64)
    assert task_loss(TaskKind.survival, logits_C, censored) == pytest.approx(-float(outlived[2].log()))
    scale = fit_task(REGRESSION, [ValueTarget(1.0), ValueTarget(5.0)])
    number = make_label(ValueTarget(7.0), scale, torch.float64)
    assert task_loss(TaskKind.regression, logits_C[:1], number) == pytest.approx((0.3 - 2.0) ** 2)
    assert scale.in_users_unit(scale.standardise(7.0)) == pytest.approx(7.0)


def test_options_that_need_classes_are_refused_elsewhere(plan_of: PlanOf) -> None:
    for name in ("class_weights", "balanced_sampling"):
        with pytest.raises(ConfigError, match=f"{name}=true needs classes"):
            task_plan(plan_of, SURVIVAL, **{name: True})


def test_targets_of_another_task_and_a_fold_without_events_are_refused() -> None:
    bags = tuple(LabelledBag(BagId(name), SurvivalTarget(3.0, False)) for name in "abc")
    with pytest.raises(SplitError, match="fold 0: no training bag has an event"):
        plan_fits([FoldBags(0, bags[:2], bags[2:])], Stage.plain, SURVIVAL, [1])
    with pytest.raises(SplitError, match=r"without a target of the task regression: a, b, c"):
        plan_fits([FoldBags(0, bags[:2], bags[2:])], Stage.plain, REGRESSION, [1])


def test_survival_stops_early_by_its_own_numbers() -> None:
    assert (
        FitOptions().resolved(TaskKind.survival).patience,
        FitOptions().resolved(TaskKind.classification).patience,
    ) == (15, 20)
    assert FitOptions(patience=3).resolved(TaskKind.survival).patience == 3


def test_balanced_epochs_hold_as_many_of_each_class_and_mask_each_turn_anew() -> None:
    bags = [LabelledBag(BagId(f"b{index}"), ClassTarget(int(index < 3))) for index in range(24)]
    turns = [turn for batch in global_batches(bags, 1, 0, 4, balanced=True) for turn in batch]
    assert turns == [turn for batch in global_batches(bags[::-1], 1, 0, 4, balanced=True) for turn in batch]
    assert Counter(turn.bag.target.class_index for turn in turns) == {0: 12, 1: 12}  # type: ignore[union-attr]
    rare = Counter(turn.bag.bag_id for turn in turns if turn.bag.target == ClassTarget(1))
    assert set(rare.values()) == {4}
    assert len({turn.draw_id for turn in turns}) == len(turns)
    common = [{t.bag.bag_id for b in global_batches(bags, 1, epoch, 4, True) for t in b} for epoch in range(6)]
    assert set.union(*common) == {bag.bag_id for bag in bags}


def test_large_bags_are_subsampled_in_training_alone_and_anew_each_epoch(plan_of: PlanOf, bags) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(max_instances=6)
    feed = BagFeed(bags, make_setup(plan, plan.fits[0]), torch.device("cpu"))
    turn = Sampled(LabelledBag(BagId("bag-03"), ClassTarget(1)))
    full = feed.read(turn.bag).x_NF
    first, again, later = feed.draw(turn, 0).x_NF, feed.draw(turn, 0).x_NF, feed.draw(turn, 1).x_NF
    assert len(full) == 26
    assert len(first) == 6
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    rows = [int((full == row).all(dim=1).nonzero()[0]) for row in first]
    assert rows == sorted(set(rows))
    small = Sampled(LabelledBag(BagId("bag-00"), ClassTarget(0)))
    assert torch.equal(feed.draw(small, 0).x_NF, feed.read(small.bag).x_NF)


def test_a_students_teacher_may_come_from_another_run(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    first, second = LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b")
    taught = run_fits(plan, bags, first, SingleProcess())
    digest = import_stage_one(first, second, plan.fits[0].name)
    assert digest == taught[0].model_sha256
    (student,) = run_fits(dataclasses.replace(plan, fits=plan.fits[1:]), bags, second, SingleProcess())
    assert student.model_sha256 == taught[1].model_sha256
    with pytest.raises(InputError, match="has no such fit"):
        import_stage_one(LocalStorage(tmp_path / "none"), second, plan.fits[0].name)
    other = LocalStorage(tmp_path / "c")
    run_fits(plan_of(num=21), bags, other, SingleProcess())
    with pytest.raises(ConflictError):
        import_stage_one(other, second, plan.fits[0].name)


def test_the_card_beside_a_model_names_data_metric_and_purpose(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = dataclasses.replace(plan_of(stage=Stage.plain), about={"versions": "mhim 1"}, provenance={"manifest": "m1"})
    storage = LocalStorage(tmp_path)
    (result,) = run_fits(plan, bags, storage, SingleProcess())
    card = json.loads(storage.get(card_key(result.name, result.model_sha256)))
    assert card["metrics"]["validation_metric"] == result.metric
    assert card["model_sha256"] == result.model_sha256
    assert (card["fold"], card["seed"], card["task"]["classes"]) == (0, 2021, ["class 0", "class 1"])
    assert card["provenance"] == {"manifest": "m1"}
    assert card["about"] == {"versions": "mhim 1"}
    assert "not for diagnosis" in card["intended_use"]


def test_a_fold_whose_times_give_no_bins_is_refused_before_the_first_is_trained() -> None:
    def bags(times: str) -> tuple[LabelledBag, ...]:
        return tuple(LabelledBag(BagId(f"{times}{i}"), SurvivalTarget(float(t), True)) for i, t in enumerate(times))

    folds = [FoldBags(0, bags("12345678"), bags("9")), FoldBags(1, bags("1112"), bags("3"))]
    with pytest.raises(SplitError, match=r"fold 1: .* too few distinct values for time_bins=4"):
        plan_fits(folds, Stage.plain, SURVIVAL, [1])


def test_targets_that_are_no_numbers_are_refused_and_equal_ones_have_deviation_one() -> None:
    bags = tuple(LabelledBag(BagId(name), ValueTarget(value)) for name, value in (("a", 1.0), ("b", float("nan"))))
    with pytest.raises(SplitError, match="not finite numbers: b"):
        plan_fits([FoldBags(0, bags[:1], bags[1:])], Stage.plain, REGRESSION, [1])
    assert fit_task(REGRESSION, [ValueTarget(0.1)] * 3).target_deviation == 1.0


def test_rare_classes_are_corrected_for_once() -> None:
    with pytest.raises(ConfigError, match="choose one of them"):
        FitOptions(class_weights=True, balanced_sampling=True)
