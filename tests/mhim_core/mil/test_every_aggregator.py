"""What holds for every aggregator, a plug-in's included, through the step that trains. See test_model for one bag."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mhim_core.bags import Beside
from mhim_core.errors import IntegrityError
from mhim_core.mil.layout import Layout
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.plugins import load_plugin
from mhim_core.mil.registry import AGGREGATOR_NAMES, MINING_AGGREGATORS
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, FittedTask, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model, save_model
from mhim_core.train.objective import make_label
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, StepResult, train_step
from mhim_core.types import BagId

PLUGIN = b"""
from torch import nn
from mhim_core.mil.aggregator import BagOutput, register_aggregator

@register_aggregator("plugged")
class Plugged(nn.Module):
    def __init__(self, num_classes, options):
        super().__init__()
        self.energy = nn.Linear(options.embed_dim, 2)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(options.embed_dim, num_classes)

    def forward(self, h_ND):
        values_ND = self.dropout(h_ND)
        attention_HN = self.energy(h_ND).T.softmax(dim=1)
        feature_D = (attention_HN @ values_ND).mean(dim=0)
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=values_ND)
"""
load_plugin(PLUGIN, "plugged.py")

D_IN = 10
CLASSES = FittedTask(kind=TaskKind.classification, classes=("a", "b", "c"))
SURVIVAL = FittedTask(kind=TaskKind.survival, inner_edges=(1.0, 2.0, 3.0))
VALUE = FittedTask(kind=TaskKind.regression, target_mean=2.0, target_deviation=3.0)
TARGET_OF: dict[TaskKind, tuple[Target, ...]] = {
    TaskKind.classification: (ClassTarget(2), ClassTarget(0)),
    TaskKind.survival: (SurvivalTarget(2.5, True), SurvivalTarget(0.5, False)),
    TaskKind.regression: (ValueTarget(-1.0), ValueTarget(4.0)),
}
PLAIN_AND_MINING = [(name, Stage.plain) for name in (*AGGREGATOR_NAMES, "plugged")] + [
    (name, Stage.mhim) for name in (*MINING_AGGREGATORS, "plugged")
]
MINING = (*MINING_AGGREGATORS, "plugged")


def start(
    aggregator: str, stage: Stage, task: FittedTask = CLASSES, mhim: MhimOptions | None = None, seed: str = "s"
) -> TrainState:
    """The state before the first step, everything drawn from `seed`."""
    setup = FitSetup(
        stage=stage,
        seed=0,
        d_in=D_IN,
        task=task,
        model=ModelOptions(aggregator=aggregator, embed_dim=16),
        mhim=mhim or MhimOptions(high_mask_ratio=0.3, random_mask_ratio=0.3),
        fit=FitOptions(precision=Precision.float64, learning_rate=4e-3),
        train=(LabelledBag(BagId("0"), TARGET_OF[task.kind][0]),),
    )

    def build(start_seed: str):  # type: ignore[no-untyped-def]
        own = setup.mhim if stage is Stage.mhim else None
        return build_model(D_IN, task.num_outputs, setup.model, own, seed=start_seed, dtype=torch.float64)

    teacher = build(f"{seed} teacher") if stage is Stage.mhim else None
    return TrainState.start(setup, build(seed), teacher, torch.device("cpu"))


def bag(num: int, task: FittedTask = CLASSES) -> Bag:
    x = torch.randn(num, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(num))
    return Bag(BagId(str(num)), make_label(TARGET_OF[task.kind][num % 2], task, torch.float64), x)


def step(state: TrainState, *bags: Bag) -> StepResult:
    return train_step(state, bags, len(bags), SingleProcess())


@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
def test_a_bag_gives_among_others_what_it_gives_alone(aggregator: str, stage: Stage) -> None:
    """Bags are never padded to one length, so the others' lengths cannot matter."""
    bags = [bag(num) for num in (5, 60, 1, 23)]
    together = step(start(aggregator, stage), *bags)
    for index, single_bag in enumerate(bags):
        alone = step(start(aggregator, stage), single_bag)
        for name in ("logits_BC", "task_B", "consistency_B"):
            assert torch.equal(getattr(together, name)[index], getattr(alone, name)[0]), (name, index)


@pytest.mark.parametrize("task", [SURVIVAL, VALUE], ids=lambda task: str(task.kind))
@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
@pytest.mark.fault(30)
def test_bags_of_one_to_seven_instances_are_trained_for_every_task(
    aggregator: str, stage: Stage, task: FittedTask
) -> None:
    """Classification: tests of the train package."""
    state = start(aggregator, stage, task, MhimOptions(high_mask_ratio=0.9, random_mask_ratio=0.8))
    for num in range(1, 8):
        result = step(state, bag(num, task))
        assert result.logits_BC.shape == (1, task.num_outputs)
        assert torch.isfinite(result.task_B + result.consistency_B).all()
    assert all(torch.isfinite(tensor).all() for tensor in state.models().values())


@pytest.mark.thorough_for("transmil", "mammil", "mdmil", "clam-sb", "clam-mb")
@pytest.mark.parametrize(
    "task",
    [CLASSES, *(pytest.param(task, marks=pytest.mark.thorough) for task in (SURVIVAL, VALUE))],
    ids=lambda task: str(task.kind),
)
@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
def test_every_task_is_learned_on_two_bags(aggregator: str, stage: Stage, task: FittedTask) -> None:
    state = start(aggregator, stage, task, MhimOptions(random_mask_ratio=0.3))
    bags = [bag(20, task), bag(21, task)]
    losses = [float(step(state, *bags).task_B.mean()) for _ in range(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("aggregator", MINING)
def test_masks_of_ratio_zero_are_the_identity(aggregator: str) -> None:
    off = MhimOptions(high_mask_ratio=0.0, random_mask_ratio=0.0, consistency_weight=0.0, full_view_weight=0.0)
    plain, masked = start(aggregator, Stage.plain), start(aggregator, Stage.mhim, mhim=off)
    for num in (5, 40):
        assert torch.equal(step(plain, bag(num)).logits_BC, step(masked, bag(num)).logits_BC)


@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(aggregator: str, stage: Stage) -> None:
    first, again, other = start(aggregator, stage), start(aggregator, stage), start(aggregator, stage, seed="t")
    for state in (first, again, other):
        for num in (3, 30):
            step(state, bag(num))
    assert first.to_bytes() == again.to_bytes() != other.to_bytes()


@pytest.mark.parametrize("aggregator", [*AGGREGATOR_NAMES, "plugged"])
def test_float32_is_float64_to_its_own_precision(aggregator: str) -> None:
    options = ModelOptions(aggregator=aggregator, embed_dim=16)
    single, double = (build_model(D_IN, 3, options, seed="s", dtype=dtype) for dtype in (torch.float32, torch.float64))
    for num in (1, 50):
        x = bag(num).x_NF
        actual, expected = single(x.float()), double(x)
        assert actual.logits_C.dtype == torch.float32
        torch.testing.assert_close(actual.logits_C.double(), expected.logits_C, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(actual.attention_HN.double(), expected.attention_HN, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("aggregator", "stage"), PLAIN_AND_MINING)
def test_a_model_file_brings_the_model_back(aggregator: str, stage: Stage) -> None:
    state = start(aggregator, stage)
    setup = state.setup
    card = ModelCard(
        stage=stage,
        fold=0,
        seed=0,
        d_in=D_IN,
        task=setup.task,
        precision=Precision.float64,
        model=setup.model,
        mhim=setup.mhim if stage is Stage.mhim else None,
    )
    loaded = load_model(save_model(card, state.student.state_dict()))
    assert loaded.card == card
    path = Layout.path(9, torch.device("cpu"))
    assert torch.equal(loaded.student(bag(9).x_NF, layout=path).logits_C, state.student(bag(9).x_NF).logits_C)


@pytest.mark.parametrize("aggregator", [*AGGREGATOR_NAMES, "plugged"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_numbers_are_refused_by_the_loop_with_the_bags_name(
    aggregator: str, wrong: float, tmp_path: Path
) -> None:
    x = {BagId(f"bag-{index}"): torch.randn(6, D_IN) for index in range(6)}
    x[BagId("bag-1")][4, 2] = wrong

    class Bags:
        dim = D_IN

        def lengths(self) -> dict[BagId, int]:
            return {bag_id: len(features) for bag_id, features in x.items()}

        def read(self, bag_id: BagId) -> torch.Tensor:
            return x[bag_id]

        def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
            return [beside.make(x[bag_id].numpy(), np.zeros((6, 2)))]

    task = Task(kind=TaskKind.classification, classes=("a", "b"))
    bags = tuple(LabelledBag(bag_id, ClassTarget(index % 2)) for index, bag_id in enumerate(x))
    plan = TrainPlan(
        fits=plan_fits([FoldBags(0, bags[:4], bags[4:])], Stage.plain, task, [0]),
        d_in=D_IN,
        task=task,
        model=ModelOptions(aggregator=aggregator, embed_dim=16),
        mhim=MhimOptions(),
        fit=FitOptions(epochs=1),
    )
    with pytest.raises(IntegrityError, match=r"bag-1.*NaN or infinite"):
        run_fits(plan, Bags(), LocalStorage(tmp_path), SingleProcess())
