"""What the viewer says of a step is what the step does."""

from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.masking import RecycleSplit
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions, Score, StepSchedule
from mhim_core.task import ClassTarget, FittedTask, Task, TaskKind, fit_task
from mhim_core.train import step as step_module
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.inference import Voter
from mhim_core.train.model_file import LoadedModel, predict_bag
from mhim_core.train.objective import make_label
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId
from mhim_core.view.bag_looks import look_at_bag, outputs_without
from mhim_core.view.mined import TileFate, Turn, mine_bag

D_IN, NUM = 6, 40
TASK = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
OPTIONS = ModelOptions(embed_dim=8)
BY_LABEL = ModelOptions(embed_dim=8, aggregator="mdmil")
"""Whose attention scores by the bag's class."""


@pytest.fixture
def teacher() -> MilModel:
    return build_model(D_IN, 2, OPTIONS, seed="teacher").requires_grad_(False)


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUM, D_IN)).astype(np.float16)


def fitted() -> FittedTask:
    return fit_task(TASK, [])


@pytest.mark.parametrize(
    ("mhim", "options"),
    [
        (MhimOptions(high_mask_ratio=0.2, random_mask_ratio=0.5), OPTIONS),
        (MhimOptions(high_mask_ratio=0.3, high_mask_schedule=StepSchedule.cosine, random_mask_ratio=0.8), OPTIONS),
        (
            MhimOptions(high_mask_ratio=0.1, v1_low_mask_ratio=0.1, v1_random_mask_ratio=0.2, random_mask_ratio=0.0),
            OPTIONS,
        ),
        (MhimOptions(high_mask_ratio=0.2, random_mask_ratio=0.5, score=Score.attention), BY_LABEL),
    ],
    ids=["v2", "cosine", "v1", "by-label"],
)
def test_the_masks_are_those_of_the_training_step(
    features: np.ndarray, mhim: MhimOptions, options: ModelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = build_model(D_IN, 2, options, seed="teacher").requires_grad_(False)
    seen: list[RecycleSplit] = []
    view = step_module.view_as_student

    def spy(student: Any, x: Any, split: Any, *rest: Any, **named: Any) -> Any:
        seen.append(split)
        return view(student, x, split, *rest, **named)

    monkeypatch.setattr(step_module, "view_as_student", spy)
    bags = tuple(LabelledBag(BagId(f"b{i}"), ClassTarget(i % 2)) for i in range(4))
    setup = FitSetup(
        stage=Stage.mhim,
        seed=7,
        d_in=D_IN,
        task=fitted(),
        model=options,
        mhim=mhim,
        fit=FitOptions(epochs=5),
        train=bags,
    )
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=7,
        d_in=D_IN,
        task=fitted(),
        precision=FitOptions().precision,
        model=options,
        mhim=None,
    )
    state = start_state(setup, LoadedModel(card, teacher, None), torch.device("cpu"))
    state.epoch, state.step = 3, 14
    label = make_label(ClassTarget(1), fitted(), torch.float32)
    x = torch.from_numpy(features).to(torch.float32)
    train_step(state, [Bag(BagId("b1"), label, x)], 1, SingleProcess())

    found = mine_bag(teacher, features, mhim, Turn(7, 3, BagId("b1"), 14, setup.total_steps, 0), 1)
    (split,) = seen
    entering, recycled = split.rows[: split.num_entering], split.rows[split.num_entering :]
    assert set(np.flatnonzero(found.fate_N == TileFate.entered)) == set(entering.tolist())
    assert set(np.flatnonzero(found.fate_N == TileFate.recycled)) == set(recycled.tolist())
    assert (found.fate_N != TileFate.not_drawn).all()


def test_of_a_large_bag_the_rest_of_the_subsample_is_named(teacher: MilModel, features: np.ndarray) -> None:
    found = mine_bag(teacher, features, MhimOptions(), Turn(7, 0, BagId("b"), 0, 10, 25), 1)
    drawn = Draws(7, 0, BagId("b")).sample("subsample", NUM, 25).sort().values.tolist()
    assert set(np.flatnonzero(found.fate_N != TileFate.not_drawn)) == set(drawn)
    assert np.isfinite(found.score_N).sum() == 25


def test_another_epoch_masks_others(teacher: MilModel, features: np.ndarray) -> None:
    mhim = MhimOptions(high_mask_ratio=0.2, random_mask_ratio=0.5)
    fates = [mine_bag(teacher, features, mhim, Turn(7, epoch, BagId("b"), 0, 10, 0), 1).fate_N for epoch in (0, 1)]
    assert (fates[0] != fates[1]).any()


def test_a_look_is_the_prediction_of_evaluate_and_leaves_one_tile_out(teacher: MilModel, features: np.ndarray) -> None:
    voter = Voter(teacher, False, fitted())
    look = look_at_bag(voter, features)
    output = predict_bag(teacher, torch.from_numpy(features))
    assert np.array_equal(look.attention_N, output.attention_N.numpy())
    assert look.outputs == pytest.approx(output.logits_C.double().softmax(0).numpy())
    assert look.evidence_NC is not None
    bias = teacher.aggregator.head.bias.numpy()
    assert look.evidence_NC.sum(axis=0) + bias == pytest.approx(output.logits_C.numpy(), abs=1e-5)
    without = outputs_without(voter, features, [3])
    assert without is not None
    assert np.array_equal(without, look_at_bag(voter, np.delete(features, 3, axis=0)).outputs)
    assert outputs_without(voter, features[:1], [0]) is None
