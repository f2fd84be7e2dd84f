"""DeLong's test against its O(mn) definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from mhim_core import metrics
from mhim_core.metrics import UndefinedMetricError, delong


def two_scores(seed: int, num: int = 40, decimals: int = 1):
    generator = np.random.default_rng(seed)
    truth = np.concatenate([[0, 0, 1, 1], generator.integers(0, 2, num - 4)])
    common = generator.normal(size=num)
    first = np.round(truth + common + generator.normal(size=num), decimals)
    second = np.round(0.5 * truth + common + generator.normal(size=num), decimals)
    return truth, first, second


def slow_delong(truth, first, second):
    """DeLong, DeLong and Clarke-Pearson (1988), every pair one by one."""
    positives, negatives = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    scores = (first, second)

    def won(score, i, j):
        return float(score[i] > score[j]) + 0.5 * float(score[i] == score[j])

    v10 = np.array([[np.mean([won(score, i, j) for j in negatives]) for i in positives] for score in scores])
    v01 = np.array([[np.mean([won(score, i, j) for i in positives]) for j in negatives] for score in scores])
    covariance = np.cov(v10) / len(positives) + np.cov(v01) / len(negatives)
    contrast = np.array([1, -1])
    return v10.mean(axis=1), contrast @ covariance @ contrast


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), decimals=st.integers(0, 3))
def test_delong_equals_the_slow_definition_with_ties(seed, decimals):
    truth, first, second = two_scores(seed, decimals=decimals)
    aucs, variance = slow_delong(truth, first, second)
    comparison = delong(truth, first, second)
    assert (comparison.auc_a, comparison.auc_b) == pytest.approx(tuple(aucs), abs=1e-12)
    assert comparison.difference == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
    if variance > 1e-12:
        half = norm.ppf(0.975) * np.sqrt(variance)
        assert (comparison.low, comparison.high) == pytest.approx(
            (comparison.difference - half, comparison.difference + half), abs=1e-9
        )
        assert comparison.p == pytest.approx(2 * norm.sf(abs(comparison.difference) / np.sqrt(variance)), rel=1e-7)


def test_its_aucs_are_the_aurocs():
    truth, first, second = two_scores(3)
    comparison = delong(truth, first, second)
    assert comparison.auc_a == pytest.approx(metrics.auroc(truth, first), abs=1e-12)
    assert comparison.auc_b == pytest.approx(metrics.auroc(truth, second), abs=1e-12)


def test_exchanging_the_scores_exchanges_the_sign_alone():
    truth, first, second = two_scores(5)
    forward, other = delong(truth, first, second), delong(truth, second, first)
    assert other.difference == -forward.difference
    assert (other.low, other.high, other.p) == pytest.approx((-forward.high, -forward.low, forward.p), abs=1e-15)


def test_the_order_of_slides_and_any_rising_scale_do_not_matter():
    truth, first, second = two_scores(6)
    order = np.random.default_rng(1).permutation(len(truth))
    assert delong(truth[order], first[order], np.exp(second[order])) == pytest.approx(delong(truth, first, second))


def test_equal_scores_have_no_difference_and_p_is_one():
    truth, first, _ = two_scores(7)
    assert delong(truth, first, first)[2:] == (0.0, 0.0, 0.0, 1.0)
    perfect = delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [1, 2, 3, 4])
    assert perfect == (1.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def test_a_wider_level_widens_the_interval():
    truth, first, second = two_scores(8)
    assert delong(truth, first, second, level=0.99).high > delong(truth, first, second).high


def test_its_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    generator = np.random.default_rng(0)
    truth = np.arange(80) % 2
    for _ in range(300):
        common = generator.normal(size=80) + truth
        comparison = delong(truth, common + generator.normal(size=80), common + generator.normal(size=80))
        covered += comparison.low <= 0 <= comparison.high  # both are equally good by construction
    assert 0.91 < covered / 300 < 0.99


def test_too_few_slides_are_undefined_and_wrong_shapes_refused():
    with pytest.raises(UndefinedMetricError, match="1 slides of class 1 and 2 of class 0"):
        delong([0, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    with pytest.raises(UndefinedMetricError, match="all 2 slides are of class 1"):
        delong([1, 1], [0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="two classes"):
        delong([0, 1, 2], np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="3 slides and the prediction 2"):
        delong([0, 1, 1], [0.1, 0.2, 0.3], [0.1, 0.2])
