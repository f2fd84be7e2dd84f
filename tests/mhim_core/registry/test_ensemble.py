"""The one row of a model with several members says what the mean over the members says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mhim_core.evaluation.held_out import HeldOut, risks
from mhim_core.metrics.outputs import softmax
from mhim_core.registry.ensemble import calibrated_probabilities, decide, pooled_logits
from mhim_core.task import TaskKind

RNG = np.random.default_rng(1)


def row(logits: tuple[float, ...], target: Any = None) -> HeldOut:
    return HeldOut("x", 0, 0, "s", "p", None, target, logits)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_pooled_logits_give_the_mean_probabilities(num_classes: int) -> None:
    logits_MC = RNG.normal(0, 3, (5, num_classes))
    pooled = row(pooled_logits(logits_MC, TaskKind.classification)).probabilities
    assert pooled == pytest.approx(softmax(logits_MC).mean(axis=0))


def test_pooled_hazards_give_the_mean_risk() -> None:
    logits_MC = RNG.normal(0, 2, (5, 4))
    mean_risk = np.mean([risks([row(tuple(logits))])[0] for logits in logits_MC])
    assert row(pooled_logits(logits_MC, TaskKind.survival)).risk == pytest.approx(mean_risk)


def test_pooled_numbers_are_their_mean() -> None:
    assert pooled_logits(np.array([[1.0], [4.0]]), TaskKind.regression) == (2.5,)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_one_member_is_left_as_it_is(kind: TaskKind) -> None:
    assert pooled_logits(np.array([[0.1, -2.0]]), kind) == (0.1, -2.0)


@pytest.mark.parametrize("kind", [TaskKind.classification, TaskKind.survival])
def test_certain_members_give_finite_logits_and_one_that_is_no_number_makes_none(kind: TaskKind) -> None:
    certain = pooled_logits(np.array([[800.0, -800.0], [900.0, -900.0]]), kind)
    assert np.isfinite(certain).all()
    assert not np.isfinite(pooled_logits(np.array([[np.nan, 0.0], [0.0, 0.0]]), kind)).all()


def test_each_member_is_calibrated_at_its_own_temperature(made: Callable[..., Any]) -> None:
    card = made(b"one", b"two").card
    first, second = card.members
    members = (replace(first, temperature=2.0), replace(second, temperature=None))
    logits_MC = np.array([[0.0, 4.0], [0.0, 1.0]])
    expected = np.mean([softmax(logits_MC[:1] / 2)[0], softmax(logits_MC[1:])[0]], axis=0)
    assert calibrated_probabilities(logits_MC, members) == pytest.approx(expected)


def test_two_classes_are_decided_by_the_threshold_more_by_the_highest(made: Callable[..., Any]) -> None:
    card = made(threshold=0.3).card
    assert [decide([1 - p, p], card) for p in (0.29, 0.3, 0.9)] == [0, 1, 1]
    three = replace(card, task=replace(card.task, classes=("a", "b", "c")))
    assert decide([0.3, 0.36, 0.34], three) == 1
