"""What logits say to a person."""

import numpy as np
import pytest

from mhim_core.metrics.outputs import softmax, survival_curve, survival_risk


def test_probabilities_sum_to_one_at_any_size_of_logits_and_flatten_with_temperature() -> None:
    logits_NC = np.array([[1000.0, 0.0, -1000.0], [0.3, 0.1, 0.2]])
    for temperature in (1.0, 0.5, np.array([4.0, 2.0])):
        assert softmax(logits_NC, temperature).sum(axis=1) == pytest.approx(1)
    assert softmax(logits_NC)[0].tolist() == [1.0, 0.0, 0.0]
    assert softmax(logits_NC, 10.0)[1].max() < softmax(logits_NC)[1].max()


def test_the_curve_is_the_product_of_what_each_bin_leaves() -> None:
    logits_C = np.array([-1.0, 0.5, 2.0])
    stay_C = 1 - 1 / (1 + np.exp(-logits_C))
    np.testing.assert_allclose(survival_curve(logits_C), np.cumprod(stay_C), rtol=1e-14)
    assert survival_risk(logits_C) == pytest.approx(-np.cumprod(stay_C).sum())


def test_the_risk_rises_with_every_hazard() -> None:
    logits_NC = np.random.default_rng(5).standard_normal((3, 4))
    assert survival_risk(logits_NC).shape == (3,)
    for time_bin in range(4):
        raised = logits_NC.copy()
        raised[:, time_bin] += 0.5
        assert (survival_risk(raised) > survival_risk(logits_NC)).all()
