"""Choices made on validation and never on test: the temperature of the probabilities, and the threshold.

Shapes: V validation bags, C classes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.evaluation.held_out import (
    FitId,
    Rows,
    by_fit,
    class_probabilities,
    class_targets,
    logits_of,
)
from mhim_core.metrics.arrays import Floats
from mhim_core.metrics.outputs import softmax

TEMPERATURE_RANGE = (0.1, 10.0)
"""On a perfectly separated validation set the best temperature would be 0, which claims certainty."""
_SETTLED = (TEMPERATURE_RANGE[0] * 1.001, TEMPERATURE_RANGE[1] / 1.001)
_NUM_HALVINGS = 60
_NO_ROWS = "there is no validation prediction of this fit"


class Temperature(NamedTuple):
    """Divides the logits; None with the reason where it cannot be chosen."""

    value: float | None
    nll_before: float | None = None
    """Mean negative log-likelihood on validation, at temperature 1."""
    nll_after: float | None = None
    """At `value`: never above `nll_before`."""
    reason: str = ""


class Threshold(NamedTuple):
    """Predict class 1 from this probability on; None with the reason where it cannot be chosen."""

    value: float | None
    youden: float | None = None
    """Sensitivity + specificity − 1 on validation."""
    reason: str = ""


def fit_temperature(class_index: ArrayLike, logits: ArrayLike) -> Temperature:
    """The temperature of least negative log-likelihood (Guo 2017) within TEMPERATURE_RANGE.

    `class_index` (V,), `logits` (V, C). The likelihood is convex in 1/T, so bisection finds the zero of its slope: the
    same input gives the same number everywhere.
    """
    truth_V, logits_VC = np.asarray(class_index, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if not len(truth_V):
        return Temperature(None, reason=_NO_ROWS)
    lowest, highest = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    for _ in range(_NUM_HALVINGS):
        middle = (lowest * highest) ** 0.5
        if _slope(truth_V, logits_VC, middle) > 0:
            highest = middle
        else:
            lowest = middle
    before = _nll(truth_V, logits_VC, 1.0)
    inverse = min((1.0, lowest, highest), key=lambda candidate: _nll(truth_V, logits_VC, candidate))
    return Temperature(1 / inverse, before, _nll(truth_V, logits_VC, inverse))


def is_at_limit(temperature: float | None) -> bool:
    """Whether the likelihood would go on beyond TEMPERATURE_RANGE: validation did not settle the temperature."""
    return temperature is not None and not np.isclose(temperature, np.clip(temperature, *_SETTLED), rtol=0)


def choose_threshold(y_true: ArrayLike, y_score: ArrayLike) -> Threshold:
    """The threshold of highest Youden's J: sensitivity + specificity − 1.

    `y_true` (V,) 0 or 1, `y_score` (V,) probabilities of class 1. Candidates are 0.5 and the midpoints between
    neighbouring scores; of equally good ones the nearest to 0.5 counts, then the lower. None if a class is missing.
    """
    truth_V, score_V = np.asarray(y_true, dtype=np.int64), np.asarray(y_score, dtype=np.float64)
    if not len(truth_V):
        return Threshold(None, reason=_NO_ROWS)
    if truth_V.min() == truth_V.max():
        return Threshold(None, reason=f"all {len(truth_V)} validation bags are of class {truth_V[0]}")
    distinct = np.unique(score_V)
    candidates = np.append((distinct[1:] + distinct[:-1]) / 2, 0.5)
    positive, negative = np.sort(score_V[truth_V == 1]), np.sort(score_V[truth_V == 0])
    # whole numbers, so that equally good thresholds compare equal
    true_positives = len(positive) - np.searchsorted(positive, candidates)
    true_negatives = np.searchsorted(negative, candidates)
    quality = true_positives * len(negative) + true_negatives * len(positive)
    best = min(range(len(candidates)), key=lambda i: (-quality[i], abs(candidates[i] - 0.5), candidates[i]))
    youden = quality[best] / (len(positive) * len(negative)) - 1
    return Threshold(float(candidates[best]), float(youden))


class Choices(NamedTuple):
    """What validation chose for one model."""

    temperature: Temperature
    threshold: Threshold
    """None where there are not two classes."""


def choose(class_index: ArrayLike, logits: ArrayLike) -> Choices:
    """Temperature and, of two classes, threshold. `class_index` (V,), `logits` (V, C)."""
    logits_VC = np.asarray(logits, dtype=np.float64)
    temperature = fit_temperature(class_index, logits_VC)
    if logits_VC.ndim < 2 or logits_VC.shape[1] != 2:
        return Choices(temperature, Threshold(None))
    return Choices(temperature, choose_threshold(class_index, softmax(logits_VC)[:, 1]))


def temperatures(validation_rows: Rows) -> dict[FitId, Temperature]:
    """Of each fit of one model."""
    return {fit: fit_temperature(class_targets(rows), logits_of(rows)) for fit, rows in by_fit(validation_rows).items()}


def thresholds(validation_rows: Rows) -> dict[FitId, Threshold]:
    """Of each fit of one model with two classes, for the probabilities at temperature 1."""
    return {
        fit: choose_threshold(class_targets(rows), class_probabilities(rows)[:, 1])
        for fit, rows in by_fit(validation_rows).items()
    }


def calibrated_probabilities(rows: Rows, chosen: Mapping[FitId, Temperature]) -> Floats:
    """(N, C), each row at its fit's temperature, at 1 where that has none."""
    values = [chosen.get(row.fit, Temperature(None)).value for row in rows]
    return class_probabilities(rows, np.array([1.0 if value is None else value for value in values]))


def _slope(truth_V: "np.ndarray", logits_VC: Floats, inverse: float) -> float:
    """d NLL / d(1/T) = mean of (expected logit − the true class's)."""
    probability_VC = softmax(logits_VC, 1 / inverse)
    true_V = logits_VC[np.arange(len(truth_V)), truth_V]
    return float(((probability_VC * logits_VC).sum(axis=1) - true_V).mean())


def _nll(truth_V: "np.ndarray", logits_VC: Floats, inverse: float) -> float:
    scaled_VC = logits_VC * inverse
    peak_V = scaled_VC.max(axis=1)
    log_sum_V = np.log(np.exp(scaled_VC - peak_V[:, None]).sum(axis=1)) + peak_V
    return float((log_sum_V - scaled_VC[np.arange(len(truth_V)), truth_V]).mean())
