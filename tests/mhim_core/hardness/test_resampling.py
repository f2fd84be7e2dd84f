"""What sampling by type would do: counts, and a cheap head in cross-validation."""

import numpy as np
import pytest

from mhim_core.hardness.cheap_head import HeadFold, fold_logits
from mhim_core.hardness.hardness_type import HardnessType, TypeWeights
from mhim_core.hardness.resampling import TypedFold, count_draws, effects_of
from mhim_core.metrics import auroc

SAFE, OUTLIER = HardnessType.safe, HardnessType.outlier
CLASSES = ("no", "yes")


def fold(seed: int, num_flipped: int = 0) -> TypedFold:
    """Two classes along one of six features; of the training points some have the other label and are outliers."""
    random = np.random.default_rng(seed)
    label_N = np.arange(60) % 2
    x_ND = random.normal(size=(60, 6))
    x_ND[:, 0] += 2.0 * label_N
    given, types = label_N[:40].copy(), [SAFE] * 40
    for row in range(num_flipped):
        given[row], types[row] = 1 - given[row], OUTLIER
    return TypedFold(HeadFold(x_ND[:40], given, x_ND[40:]), types, label_N[40:], [f"{seed}-{row}" for row in range(20)])


def test_draws_follow_the_weights_and_add_up_to_an_epoch() -> None:
    labels, types = ["no", "no", "yes", "yes"], [SAFE, OUTLIER, SAFE, SAFE]
    counts = {(each.label, each.type): each for each in count_draws(labels, types, TypeWeights(outlier=3.0), CLASSES)}
    assert len(counts) == 8
    assert counts["no", OUTLIER].draws == 2.0
    assert counts["yes", SAFE].draws == pytest.approx(4 / 3)
    assert sum(each.draws for each in counts.values()) == 4
    assert counts["yes", OUTLIER] == ("yes", OUTLIER, 0, 0.0)


def test_the_head_finds_what_separates_the_classes() -> None:
    made = fold(0)
    logits = fold_logits(made.points, np.ones(40), 2)
    assert np.exp(logits).sum(axis=1) == pytest.approx(np.ones(20))
    assert auroc(made.label_test_Q, logits[:, 1] - logits[:, 0]) > 0.85


def test_a_weight_of_two_is_the_point_twice_and_a_weight_of_none_leaves_it_out() -> None:
    """Up to what standardisation and components see, which is all points whatever they weigh."""
    x = np.eye(3)[[0, 1, 2, 0, 1, 2, 1, 2]]
    labels, even = np.array([0, 1, 0, 1, 1, 0, 1, 0]), np.ones(8)
    points = HeadFold(x, labels, x)
    twice = fold_logits(points, np.where(np.arange(8) == 3, 2.0, 1.0), 2)
    assert twice[0, 1] > fold_logits(points, even, 2)[0, 1]
    other = labels.copy()
    other[3] = 0
    without = np.where(np.arange(8) == 3, 0.0, 1.0)
    changed = fold_logits(HeadFold(x, other, x), without, 2)
    assert fold_logits(points, without, 2) == pytest.approx(changed)


def test_leaving_flipped_labels_out_helps_and_the_interval_says_how_surely() -> None:
    folds = [fold(seed, num_flipped=16) for seed in range(3)]
    (row,) = [
        row
        for row in effects_of(folds, "head", [TypeWeights(outlier=0.0)], CLASSES, replicates=200)
        if row.metric == "brier"
    ]
    assert row.num_left_out == 48
    assert row.even is not None
    assert row.weighted is not None
    assert row.difference == pytest.approx(row.weighted - row.even)
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.difference < row.high < 0


def test_weights_that_take_all_of_a_class_are_said_to_be_impossible() -> None:
    made = fold(0)
    types = [OUTLIER if label else SAFE for label in made.points.label_train_N]
    rows = effects_of([made._replace(types_train=types)], "head", [TypeWeights(outlier=0.0)], CLASSES, replicates=0)
    assert all(row.difference is None and "yes" in row.reason for row in rows)
