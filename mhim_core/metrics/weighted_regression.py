"""Regression for slides with weights: (R, N) weights, (N,) true and predicted values → (R,) results.

R bootstrap replicates, N slides. A weight says how often the slide occurs. NaN where there is no value.
"""

import numpy as np

from mhim_core.metrics.arrays import Floats, divide, weighted_midranks


def mae(weights_RN: Floats, truth_N: Floats, predicted_N: Floats) -> Floats:
    return divide(weights_RN @ np.abs(truth_N - predicted_N), weights_RN.sum(axis=1))


def rmse(weights_RN: Floats, truth_N: Floats, predicted_N: Floats) -> Floats:
    return np.sqrt(divide(weights_RN @ (truth_N - predicted_N) ** 2, weights_RN.sum(axis=1)))


def r2(weights_RN: Floats, truth_N: Floats, predicted_N: Floats) -> Floats:
    mean_R1 = divide(weights_RN @ truth_N, weights_RN.sum(axis=1))[:, None]
    # a replicate of one value has no spread, whatever rounding makes of it
    spread_R = np.where(_is_constant(weights_RN, truth_N), 0.0, (weights_RN * (truth_N - mean_R1) ** 2).sum(axis=1))
    return 1 - divide(weights_RN @ (truth_N - predicted_N) ** 2, spread_R)


def spearman(weights_RN: Floats, truth_N: Floats, predicted_N: Floats) -> Floats:
    total_R1 = weights_RN.sum(axis=1, keepdims=True)
    # mean ranks are (total + 1) / 2 exactly, so constant columns have a spread of exactly 0
    x_RN = weighted_midranks(weights_RN, truth_N) - (total_R1 + 1) / 2
    y_RN = weighted_midranks(weights_RN, predicted_N) - (total_R1 + 1) / 2
    variance_R = (weights_RN * x_RN**2).sum(axis=1) * (weights_RN * y_RN**2).sum(axis=1)
    return divide((weights_RN * x_RN * y_RN).sum(axis=1), np.sqrt(variance_R))


def _is_constant(weights_RN: Floats, values_N: Floats) -> np.ndarray:
    """(R,): are all values that occur in the replicate equal?"""
    drawn_RN = weights_RN > 0
    low_R = np.where(drawn_RN, values_N, np.inf).min(axis=1)
    high_R = np.where(drawn_RN, values_N, -np.inf).max(axis=1)
    return np.asarray(low_R >= high_R)
