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


def nll(truth, logits_NC, temperature):
    scaled = logits_NC / temperature
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), sharpness=st.sampled_from([0.2, 1.0, 6.0]))
def test_no_temperature_on_a_fine_grid_is_better(seed, sharpness):
    truth, logits_NC = logits(seed, sharpness=sharpness)
    fitted = fit_temperature(truth, logits_NC)
    assert TEMPERATURE_RANGE[0] - 1e-9 <= fitted.value <= TEMPERATURE_RANGE[1] + 1e-9
    assert fitted.nll_before == pytest.approx(nll(truth, logits_NC, 1.0), abs=1e-12)
    assert fitted.nll_after == pytest.approx(nll(truth, logits_NC, fitted.value), abs=1e-12)
    assert fitted.nll_after <= fitted.nll_before
    grid = np.geomspace(*TEMPERATURE_RANGE, 400)
    assert fitted.nll_after <= min(nll(truth, logits_NC, temperature) for temperature in grid) + 1e-12


def test_scaling_the_logits_scales_the_temperature_by_as_much():
    truth, logits_NC = logits(3)
    assert fit_temperature(truth, 3 * logits_NC).value == pytest.approx(
        3 * fit_temperature(truth, logits_NC).value, rel=1e-6
    )


def test_a_validation_set_without_error_stays_within_bounds():
    fitted = fit_temperature([0, 1], [[1.0, -1.0], [-1.0, 1.0]])
    assert fitted.value == pytest.approx(TEMPERATURE_RANGE[0])


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
    chosen = choose_threshold(truth, score)

    def youden(threshold):
        predicted = score >= threshold
        return predicted[truth == 1].mean() - predicted[truth == 0].mean()

    assert youden(chosen.value) == pytest.approx(chosen.youden, abs=1e-12)
    inner = (np.unique(score)[1:] + np.unique(score)[:-1]) / 2
    best = max(youden(cut) for cut in [*inner, 0.5])
    assert chosen.youden == pytest.approx(best, abs=1e-12)
    equal = [cut for cut in [*inner, 0.5] if abs(youden(cut) - best) < 1e-12]
    assert abs(chosen.value - 0.5) == pytest.approx(min(abs(cut - 0.5) for cut in equal), abs=1e-12)


def test_a_half_is_kept_where_nothing_is_better():
    assert choose_threshold([0, 1], [0.2, 0.9]) == (0.5, 1.0, "")
    assert choose_threshold([0, 0, 1], [0.1, 0.2, 0.3]).value == pytest.approx(0.25)


def test_a_validation_of_one_class_has_no_threshold_and_says_why():
    assert choose_threshold([1, 1], [0.2, 0.9]) == (None, None, "all 2 validation bags are of class 1")
    assert choose_threshold([], []).value is None


def test_each_fit_gets_its_own(make):
    data = make("binary", seeds=2)
    fitted = temperatures(data.validation)
    assert [tuple(fit) for fit in fitted] == [(seed, fold) for seed in range(2) for fold in range(3)]
    assert len({temperature.value for temperature in fitted.values()}) == 6
    assert len(thresholds(data.validation)) == 6
    row = data.test[0]
    cool = calibrated_probabilities([row], {row.fit: fitted[row.fit]})
    expected = class_probabilities([row], fitted[row.fit].value)
    np.testing.assert_array_equal(cool, expected)
    np.testing.assert_array_equal(calibrated_probabilities([row], {}), class_probabilities([row]))
