"""DeLong's test for two correlated AUROCs (DeLong 1988), by midranks (Sun and Xu 2014): O(n log n), ties exact."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics.arrays import Floats, weighted_midranks
from mhim_core.metrics.classification import check_class_inputs, missing_class
from mhim_core.metrics.results import UndefinedMetricError


class DeLong(NamedTuple):
    """Two AUROCs of the same slides."""

    auc_a: float
    auc_b: float
    difference: float
    """auc_a − auc_b."""
    low: float
    """Of the difference's interval; it is not cut at ±1."""
    high: float
    p: float
    """Two-sided, of no difference. Without variance (say, both separate the classes): 1 if they are equal, else 0."""


def delong(y_true: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, *, level: float = 0.95) -> DeLong:
    """Are two scores of the same N slides equally good?

    `y_true` (N,) 0 or 1; `score_a`, `score_b` (N,) of class 1, or (N, 2), of which the second column counts. The slides
    are taken as independent: one a patient. `level`: of the difference's interval.
    Raises UndefinedMetricError with fewer than two slides of either class, ValueError for wrong shapes.
    """
    truth_N, first_NC = check_class_inputs("auroc", y_true, score_a)
    second_NC = check_class_inputs("auroc", y_true, score_b).values
    if first_NC.shape[1] > 2 or second_NC.shape[1] > 2:
        raise ValueError("DeLong's test is of two classes")
    positive_N = truth_N == 1
    counts = (int(positive_N.sum()), int((~positive_N).sum()))
    if min(counts) < 2:
        counted = f"{counts[0]} slides of class 1 and {counts[1]} of class 0"
        raise UndefinedMetricError(missing_class(truth_N, 2) or f"a variance needs two slides of each class: {counted}")
    a, b = _components(first_NC[:, 1], positive_N), _components(second_NC[:, 1], positive_N)
    difference = a.auc - b.auc
    variance = _variance_of_mean(a.of_positives - b.of_positives) + _variance_of_mean(a.of_negatives - b.of_negatives)
    if variance == 0:
        return DeLong(a.auc, b.auc, difference, difference, difference, float(difference == 0))
    error = math.sqrt(variance)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    p = math.erfc(abs(difference) / error / math.sqrt(2))
    return DeLong(a.auc, b.auc, difference, difference - half, difference + half, p)


class _Components(NamedTuple):
    auc: float
    of_positives: Floats
    """(P,): the share of negatives below each positive, ties half."""
    of_negatives: Floats
    """(M,): the share of positives above each negative, ties half."""


def _components(score_N: Floats, positive_N: np.ndarray) -> _Components:
    positive, negative = score_N[positive_N], score_N[~positive_N]
    rank_N = _midranks(score_N)
    below_P = rank_N[positive_N] - _midranks(positive)
    above_M = len(positive) - (rank_N[~positive_N] - _midranks(negative))
    auc = float(below_P.sum() / (len(positive) * len(negative)))  # a sum of halves: exact
    return _Components(auc, below_P / len(negative), above_M / len(positive))


def _midranks(values: Floats) -> Floats:
    return weighted_midranks(np.ones((1, len(values))), values)[0]


def _variance_of_mean(values: Floats) -> float:
    if (values == values[0]).all():
        return 0.0  # rounding in the mean must not make a variance
    return float(values.var(ddof=1) / len(values))
