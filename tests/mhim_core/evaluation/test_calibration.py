"""Temperature and threshold: chosen on validation, never worse there than doing nothing, the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.evaluation.calibration import (
    TEMPERATURE_RANGE,
    calibrated_probabilities,
    choose_threshold,
    fit_temperature,
    temperatures,
    thresholds,
)
from mhim_core.evaluation.held_out import class_probabilities


def logits(seed: int, num: int = 60, classes: int = 3, sharpness: float = 1.0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, num)
    return truth, sharpness * (generator.normal(size=(num, classes)) + np.eye(classes)[truth])


def nll(truth, given, temperature):
    scaled = given / temperature
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), sharpness=st.sampled_from([0.2, 1.0, 6.0]))
def test_no_temperature_on_a_fine_grid_is_better(seed, sharpness):
    truth, given = logits(seed, sharpness=sharpness)
    found = fit_temperature(truth, given)
    assert TEMPERATURE_RANGE[0] - 1e-9 <= found.value <= TEMPERATURE_RANGE[1] + 1e-9
    assert found.nll_before == pytest.approx(nll(truth, given, 1.0), abs=1e-12)
    assert found.nll_after == pytest.approx(nll(truth, given, found.value), abs=1e-12)
    assert found.nll_after <= found.nll_before
    grid = np.geomspace(*TEMPERATURE_RANGE, 400)
    assert found.nll_after <= min(nll(truth, given, one) for one in grid) + 1e-12


def test_scaling_the_logits_scales_the_temperature_by_as_much():
    truth, given = logits(3)
    assert fit_temperature(truth, 3 * given).value == pytest.approx(3 * fit_temperature(truth, given).value, rel=1e-6)


def test_a_validation_set_without_error_stays_within_bounds():
    found = fit_temperature([0, 1], [[1.0, -1.0], [-1.0, 1.0]])
    assert found.value == pytest.approx(TEMPERATURE_RANGE[0])


def test_logits_that_say_nothing_and_an_empty_validation_leave_the_temperature():
    assert fit_temperature([0, 1], np.zeros((2, 2))).value == 1.0
    assert fit_temperature([], np.zeros((0, 2))) == (
        None,
        None,
        None,
        "there is no validation prediction of this fit",
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num=st.integers(2, 30))
def test_no_threshold_has_a_higher_youden_index(seed, num):
    generator = np.random.default_rng(seed)
    truth = np.append([0, 1], generator.integers(0, 2, num - 2)) if num > 2 else np.array([0, 1])
    score = np.round(generator.random(num), 1)
    found = choose_threshold(truth, score)

    def youden(threshold):
        predicted = score >= threshold
        return predicted[truth == 1].mean() - predicted[truth == 0].mean()

    assert youden(found.value) == pytest.approx(found.youden, abs=1e-12)
    inner = (np.unique(score)[1:] + np.unique(score)[:-1]) / 2
    best = max(youden(one) for one in [*inner, 0.5])
    assert found.youden == pytest.approx(best, abs=1e-12)
    equal = [one for one in [*inner, 0.5] if abs(youden(one) - best) < 1e-12]
    assert abs(found.value - 0.5) == pytest.approx(min(abs(one - 0.5) for one in equal), abs=1e-12)


def test_a_half_is_kept_where_nothing_is_better():
    assert choose_threshold([0, 1], [0.2, 0.9]) == (0.5, 1.0, "")
    assert choose_threshold([0, 0, 1], [0.1, 0.2, 0.3]).value == pytest.approx(0.25)


def test_a_validation_of_one_class_has_no_threshold_and_says_why():
    assert choose_threshold([1, 1], [0.2, 0.9]) == (None, None, "all 2 validation bags are of class 1")
    assert choose_threshold([], []).value is None


def test_each_fit_gets_its_own(make):
    given = make("binary", seeds=2)
    found = temperatures(given.validation)
    assert [tuple(fit) for fit in found] == [(seed, fold) for seed in range(2) for fold in range(3)]
    assert len({one.value for one in found.values()}) == 6
    assert len(thresholds(given.validation)) == 6
    row = given.test[0]
    cool = calibrated_probabilities([row], {row.fit: found[row.fit]})
    expected = class_probabilities([row], found[row.fit].value)
    np.testing.assert_array_equal(cool, expected)
    np.testing.assert_array_equal(calibrated_probabilities([row], {}), class_probabilities([row]))
