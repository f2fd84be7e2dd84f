"""Packs: a step on several bags at once is the step on one at a time."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mhim_core.mil import recycle
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import (
    AGGREGATOR_NAMES,
    MINING_AGGREGATORS,
    MhimOptions,
    ModelOptions,
    Score,
    StepSchedule,
    TeacherMode,
    TokenOrder,
)
from mhim_core.mil.plugins import load_plugin
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, FittedTask, SurvivalTarget, Target, TaskKind, ValueTarget
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions, Precision
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import LoadedModel, predict_bag, predict_pack
from mhim_core.train.objective import Label, make_label
from mhim_core.train.packed_step import packed_step, packs_of
from mhim_core.train.plan import LabelledBag, Stage, TrainPlan
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, StepResult, train_step
from mhim_core.types import BagId

D_IN, DIM = 12, 16
CLASSES = FittedTask(kind=TaskKind.classification, classes=("a", "b", "c"))
RECIPES = {
    "mhim": MhimOptions(high_mask_ratio=0.1, random_mask_ratio=0.3, recycle_momentum=0.9, ema_momentum="0.9"),
    "two-views": MhimOptions(
        high_mask_ratio=0.2,
        high_mask_subsample=0.5,
        random_mask_ratio=0.8,
        full_view_weight=0.4,
        recycle_momentum=0.9,
        ema_momentum="0.9",
        teacher_mode=TeacherMode.train,
        token_order=TokenOrder.sorted,
    ),
    "v1": MhimOptions(
        high_mask_ratio=0.3,
        high_mask_subsample=0.5,
        high_mask_schedule=StepSchedule.cosine,
        random_mask_ratio=0.0,
        v1_random_mask_ratio=0.3,
        v1_low_mask_ratio=0.2,
        score=Score.attention,
        ema_momentum="0.9",
    ),
    "all-hidden": MhimOptions(high_mask_ratio=0.9, random_mask_ratio=0.5, v1_random_mask_ratio=0.9),
}
CASES = [(name, "plain") for name in AGGREGATOR_NAMES] + [
    (name, recipe) for name in MINING_AGGREGATORS for recipe in RECIPES
]


PLUGIN = b"""
from torch import nn
from mhim_core.mil.aggregator import BagOutput, register_aggregator

@register_aggregator("centred")
class Centred(nn.Module):
    def __init__(self, num_classes, options):
        super().__init__()
        self.energy, self.head = nn.Linear(options.embed_dim, 1), nn.Linear(options.embed_dim, num_classes)
        self.dropout = nn.Dropout(0.3)

    def forward(self, h_ND):
        attention_HN = self.energy(self.dropout(h_ND)).T.softmax(dim=1)
        feature_D = (attention_HN @ h_ND)[0]
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=h_ND)

    def instance_logits(self, h_ND, output):
        return self.head(h_ND - h_ND.mean(dim=0))
"""


class Outcome(NamedTuple):
    losses: StepResult
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


def start(aggregator: str, recipe: str, task: FittedTask = CLASSES, **model: object) -> TrainState:
    options = ModelOptions(aggregator=aggregator, embed_dim=DIM, clam_num_sampled=3, clam_subtyping=True, **model)
    setup = FitSetup(
        stage=Stage.plain if recipe == "plain" else Stage.mhim,
        seed=7,
        d_in=D_IN,
        task=task,
        model=options,
        mhim=RECIPES.get(recipe, MhimOptions()),
        fit=FitOptions(epochs=3, learning_rate=1e-3, global_batch=4, precision=Precision.float64),
        train=tuple(LabelledBag(BagId(f"bag {index}"), ClassTarget(index % 3)) for index in range(12)),
    )
    if recipe == "plain":
        return start_state(setup, None, torch.device("cpu"))
    taught = build_model(D_IN, task.num_outputs, options, seed="stage 1", dtype=torch.float64)
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=7,
        d_in=D_IN,
        task=task,
        precision=Precision.float64,
        model=options,
        mhim=None,
    )
    return start_state(setup, LoadedModel(card, taught, None), torch.device("cpu"))


def bags_of(lengths: list[int], task: FittedTask = CLASSES, seed: int = 0) -> list[Bag]:
    generator = torch.Generator().manual_seed(seed)
    bags = []
    for index, length in enumerate(lengths):
        x = torch.randn(length, D_IN, dtype=torch.float64, generator=generator)
        target: Target = ClassTarget(index % 3)
        if task.kind is TaskKind.survival:
            target = SurvivalTarget(float(index), index % 2 == 0)
        elif task.kind is TaskKind.regression:
            target = ValueTarget(index / 3)
        bags.append(Bag(BagId(f"bag {index}"), make_label(target, task, x.dtype, weight=0.5 + index % 3), x))
    return bags


def outcome(state: TrainState, bags: list[Bag], pack_instances: int) -> Outcome:
    """Of one step. `pack_instances` 0: one bag at a time."""
    if pack_instances:
        losses = packed_step(state, bags, len(bags) + 1, SingleProcess(), pack_instances)
    else:
        losses = train_step(state, bags, len(bags) + 1, SingleProcess())
    named = state.student.named_parameters()
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    return Outcome(losses, gradients, state.models())


def assert_same_steps(single: TrainState, packed: TrainState, steps: list[list[Bag]], pack_instances: int) -> None:
    """Losses, gradients and weights, step by step, each from the same weights: Adam blows rounding errors up."""
    for bags in steps:
        packed.load_bytes(single.to_bytes())
        expected = outcome(single, bags, 0)
        torch.testing.assert_close(outcome(packed, bags, pack_instances), expected, rtol=1e-9, atol=1e-9)
        single.epoch += 1


def some_lengths(seed: int) -> list[list[int]]:
    """Bags of 1 to 7, one large among small, and random ones."""
    draw = random.Random(seed)
    return [[*draw.sample(range(1, 8), 7), 211], [draw.randint(1, 40) for _ in range(5)]]


@pytest.mark.thorough_for("mammil", "mdmil")
@pytest.mark.parametrize(("aggregator", "recipe"), CASES)
def test_a_packed_step_is_the_step_on_its_bags_one_at_a_time(aggregator: str, recipe: str) -> None:
    steps = [bags_of(lengths, seed=seed) for seed, lengths in enumerate(some_lengths(len(aggregator + recipe)))]
    assert_same_steps(start(aggregator, recipe), start(aggregator, recipe), steps, 1000)


@pytest.mark.parametrize("task", [TaskKind.survival, TaskKind.regression])
@pytest.mark.parametrize("aggregator", ["abmil", "dsmil", "clam-sb"])
def test_every_task_has_the_losses_of_its_bags(aggregator: str, task: TaskKind) -> None:
    fitted = FittedTask(kind=task, inner_edges=(1.0, 2.0, 4.0), target_mean=1.0, target_deviation=2.0)
    steps = [bags_of([3, 20, 11, 6], fitted)]
    assert_same_steps(start(aggregator, "mhim", fitted), start(aggregator, "mhim", fitted), steps, 1000)


def test_gated_attention_packs() -> None:
    steps = [bags_of([3, 20, 11, 6])]
    assert_same_steps(start("abmil", "mhim", gated=True), start("abmil", "mhim", gated=True), steps, 1000)


@pytest.mark.parametrize("pack_instances", [1, 25, 60])
def test_how_the_bags_are_packed_changes_nothing(pack_instances: int) -> None:
    steps = [bags_of([3, 20, 40, 11, 6])]
    assert_same_steps(start("dsmil", "mhim"), start("dsmil", "mhim"), steps, pack_instances)


def test_the_tokens_of_large_packs_are_computed_bag_by_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recycle, "MOST_AT_ONCE", 0)
    steps = [bags_of([3, 20, 40, 11, 6])]
    assert_same_steps(start("abmil", "mhim"), start("abmil", "mhim"), steps, 1000)


@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
@pytest.mark.parametrize("append_recycled", [False, True])
def test_a_pack_is_predicted_as_its_bags_are(aggregator: str, append_recycled: bool) -> None:
    student = build_model(
        D_IN, 3, ModelOptions(aggregator=aggregator, embed_dim=DIM), MhimOptions(), seed="s", dtype=torch.float64
    )
    bags = [bag.x_NF for bag in bags_of([3, 1, 40, 11])]
    expected_BC = torch.stack([predict_bag(student, x_NF, append_recycled).logits_C for x_NF in bags])
    torch.testing.assert_close(predict_pack(student, bags, append_recycled), expected_BC, rtol=1e-9, atol=1e-9)


def test_a_fit_in_packs_is_the_fit_bag_by_bag(plan_of: Callable[..., TrainPlan], bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(precision=Precision.float64, global_batch=4, epochs=2)
    fits = []
    for pack_instances in (0, 60):
        execution = FitExecution(checkpoint_every=0, pack_instances=pack_instances)
        storage = LocalStorage(tmp_path / str(pack_instances))
        fits.append(run_fits(dataclasses.replace(plan, execution=execution), bags, storage, SingleProcess()))
    assert fits[0][0].identity == fits[1][0].identity
    for single, packed in zip(*fits, strict=True):
        torch.testing.assert_close(torch.tensor(packed.history), torch.tensor(single.history), rtol=1e-9, atol=1e-12)
        assert packed.model_sha256 != single.model_sha256  # by rounding, so that packs were made at all


def test_a_plugin_packs_bag_by_bag() -> None:
    """Nothing is known of its `instance_logits`: these look at the whole bag."""
    load_plugin(PLUGIN, "own.py")
    assert_same_steps(start("centred", "mhim"), start("centred", "mhim"), [bags_of([3, 20, 40])], 1000)


def test_packs_hold_as_much_as_they_may_in_order() -> None:
    bags = bags_of([3, 20, 40, 11, 6, 1])
    assert [[len(bag.x_NF) for bag in pack] for pack in packs_of(bags, 25)] == [[3, 20], [40], [11, 6, 1]]
    assert [len(pack) for pack in packs_of(bags, 81)] == [6]
    assert list(packs_of([], 25)) == []
    assert [len(pack) for pack in packs_of(bags_of([1] * 130), 1000)] == [64, 64, 2]


def test_a_rank_without_bags_takes_the_step_all_the_same() -> None:
    state = start("abmil", "mhim")
    result = packed_step(state, [], 2, SingleProcess(), 100)
    assert result.task_B.shape == (0,)
    assert result.logits_BC.shape == (0, 3)
    assert state.step == 1


@pytest.mark.parametrize(
    ("aggregator", "recipe"),
    [("abmil", "two-views"), ("dsmil", "two-views"), ("clam-mb", "two-views"), ("mean", "plain"), ("max", "plain")],
)
def test_nothing_in_a_packed_step_waits_for_the_device(aggregator: str, recipe: str) -> None:
    """Tensors on `meta` have no values: what asks for one raises."""
    state = start(aggregator, recipe)
    meta = TrainState.start(state.setup, state.student, state.teacher, torch.device("meta"))
    meta.optimizer = torch.optim.Adam(meta.student.parameters())  # the fused one does not know this device
    bags = [
        Bag(bag.bag_id, Label(*(part.to("meta") for part in bag.label)), bag.x_NF.to("meta"))
        for bag in bags_of([1, 6, 30, 5])
    ]
    result = packed_step(meta, bags, 4, SingleProcess("meta"), 100)
    assert result.logits_BC.shape == (4, 3)
    assert result.logits_BC.device.type == "meta"


def test_workers_with_packs_fit_what_one_worker_fits(
    plan_of: Callable[..., TrainPlan], bags, tmp_path: Path, ranks
) -> None:  # type: ignore[no-untyped-def]
    # 16 bags in steps of five: of three workers one has a bag, or none in the last step, where the others have more
    execution = FitExecution(checkpoint_every=0, pack_instances=60)
    plan = dataclasses.replace(plan_of(precision=Precision.float64, global_batch=5, epochs=2), execution=execution)
    expected = run_fits(plan, bags, LocalStorage(tmp_path / "one"), SingleProcess())
    several = ranks(3, lambda context: run_fits(plan, bags, LocalStorage(tmp_path / "three"), context))
    assert several[0] == several[1] == several[2]
    for fit, single in zip(several[0], expected, strict=True):
        torch.testing.assert_close(torch.tensor(fit.history), torch.tensor(single.history), rtol=1e-9, atol=1e-12)
