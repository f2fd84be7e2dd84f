"""Regression metrics against scikit-learn and SciPy, undefined cases, intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core import metrics
from mhim_core.metrics import REGRESSION_METRICS, UndefinedMetricError


def values(seed: int, num: int = 40):
    generator = np.random.default_rng(seed)
    truth = np.round(generator.normal(50, 20, num))
    truth[0] += 1
    predicted = np.round(truth + generator.normal(0, 15, num))
    predicted[0] += 1.5
    return truth, predicted


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num=st.integers(4, 60))
def test_regression_metrics_equal_scikit_learn_and_scipy_with_ties(seed, num):
    from scipy.stats import spearmanr
    from sklearn import metrics as reference

    truth, predicted = values(seed, num)
    assert metrics.mae(truth, predicted) == pytest.approx(reference.mean_absolute_error(truth, predicted), abs=1e-9)
    expected = reference.root_mean_squared_error(truth, predicted)
    assert metrics.rmse(truth, predicted) == pytest.approx(expected, abs=1e-9)
    assert metrics.r2(truth, predicted) == pytest.approx(reference.r2_score(truth, predicted), abs=1e-9)
    assert metrics.spearman(truth, predicted) == pytest.approx(spearmanr(truth, predicted).statistic, abs=1e-9)


def test_a_replicate_equals_the_metric_of_the_repeated_slides():
    truth, predicted = values(3, 12)
    drawn = np.concatenate(list(metrics.replicate_weights([str(i // 2) for i in range(12)], 40, seed=2)))
    for name, bound in metrics.bind_regression(truth, predicted).items():
        for value, counts in zip(bound.kernel(drawn), drawn.astype(int), strict=True):
            again = metrics.bind_regression(truth.repeat(counts), predicted.repeat(counts))[name].metric.value
            assert (np.nan if again is None else again) == pytest.approx(value, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("constant", [7.0, 0.1])
def test_a_replicate_of_one_value_has_no_r2_and_no_rank_correlation(constant):
    truth, predicted = np.array([constant] * 7 + [2.0]), np.arange(8.0)
    one_value = np.array([[1.0] * 7 + [0.0]])
    for name in ("r2", "spearman"):
        assert np.isnan(metrics.bind_regression(truth, predicted)[name].kernel(one_value)).all()


def test_equal_targets_or_predictions_leave_undefined_what_needs_spread():
    with pytest.raises(UndefinedMetricError, match="target is the same on all 3"):
        metrics.r2([0.1, 0.1, 0.1], [1, 2, 3])
    with pytest.raises(UndefinedMetricError, match="prediction is the same"):
        metrics.spearman([1, 2, 3], [0.3, 0.3, 0.3])
    assert metrics.mae([1, 1, 1], [1, 2, 3]) == 1.0
    with pytest.raises(UndefinedMetricError, match="no slides"):
        metrics.rmse([], [])


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [([1, np.nan], [1, 2], "NaN"), ([1, 2], [1], "2 slides and the prediction 1"), ([[1.0]], [1], "shape")],
)
def test_wrong_input_is_refused(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        metrics.mae(truth, predicted)


def test_intervals_hold_the_values():
    truth, predicted = values(9, 80)
    estimates = metrics.evaluate_regression(truth, predicted, [str(i) for i in range(80)], replicates=300)
    assert list(estimates) == list(REGRESSION_METRICS)
    assert all(estimate.low < estimate.value < estimate.high for estimate in estimates.values())
