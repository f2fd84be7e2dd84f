"""Classification for slides with weights: (R, N) weights, (N,) truth, scores or classes → (R,) results.

R bootstrap replicates, N slides, C classes, T runs of tied scores, B bins. A plain metric is one row of ones, a
replicate counts how often each slide was drawn: thousands of them are a few matrix operations. NaN where a replicate
gives the metric no value. `classification` checks the inputs and is what callers use.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mhim_core.metrics.arrays import Bools, Floats, Ints, divide, group_sums, tie_groups

NUM_CALIBRATION_BINS = 15


def auroc(weights_RN: Floats, truth_N: Ints, score_NC: Floats) -> Floats:
    return _one_vs_rest(_binary_auroc, weights_RN, truth_N, score_NC)


def average_precision(weights_RN: Floats, truth_N: Ints, score_NC: Floats) -> Floats:
    return _one_vs_rest(_binary_average_precision, weights_RN, truth_N, score_NC)


def _one_vs_rest(
    binary: Callable[[Floats, Bools, Floats], Floats], weights_RN: Floats, truth_N: Ints, score_NC: Floats
) -> Floats:
    positives = [1] if score_NC.shape[1] == 2 else range(score_NC.shape[1])
    return np.mean([binary(weights_RN, truth_N == c, score_NC[:, c]) for c in positives], axis=0)


def _binary_auroc(weights_RN: Floats, positive_N: Bools, score_N: Floats) -> Floats:
    ends, order = tie_groups(score_N)
    sorted_RN, positive_N = weights_RN[:, order], positive_N[order]
    positive_RT = group_sums(sorted_RN * positive_N, ends)
    negative_RT = group_sums(sorted_RN * ~positive_N, ends)
    below_RT = np.cumsum(negative_RT, axis=1) - negative_RT
    won_R = (positive_RT * (below_RT + 0.5 * negative_RT)).sum(axis=1)
    return divide(won_R, positive_RT.sum(axis=1) * negative_RT.sum(axis=1))


def _binary_average_precision(weights_RN: Floats, positive_N: Bools, score_N: Floats) -> Floats:
    ends, order = tie_groups(-score_N)
    sorted_RN, positive_N = weights_RN[:, order], positive_N[order]
    positive_RT = group_sums(sorted_RN * positive_N, ends)
    all_RT = np.cumsum(group_sums(sorted_RN, ends), axis=1)
    hits_RT = np.cumsum(positive_RT, axis=1)
    precision_RT = np.divide(hits_RT, all_RT, out=np.zeros_like(hits_RT), where=all_RT > 0)
    found_R = hits_RT[:, -1]
    average_R = divide((positive_RT * precision_RT).sum(axis=1), found_R)
    # a replicate without negatives has no ranking to judge
    return np.where(all_RT[:, -1] > found_R, average_R, np.nan)


def accuracy(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    return divide(weights_RN @ (truth_N == predicted_N), weights_RN.sum(axis=1))


def balanced_accuracy(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    confusion_RCC = _confusion(weights_RN, truth_N, predicted_N)[:, np.unique(truth_N)]
    hits_RC = np.stack([confusion_RCC[:, row, c] for row, c in enumerate(np.unique(truth_N))], axis=1)
    recall_RC = divide(hits_RC, confusion_RCC.sum(axis=2))
    return recall_RC.mean(axis=1)  # NaN where a class was not drawn


def f1_macro(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    confusion_RCC = _confusion(weights_RN, truth_N, predicted_N)
    hits_RC = np.diagonal(confusion_RCC, axis1=1, axis2=2)
    either_RC = confusion_RCC.sum(axis=1) + confusion_RCC.sum(axis=2)
    f1_RC = np.divide(2 * hits_RC, either_RC, out=np.zeros_like(either_RC), where=either_RC > 0)
    return divide(f1_RC.sum(axis=1), (either_RC > 0).sum(axis=1).astype(np.float64))


def kappa(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    confusion_RCC = _confusion(weights_RN, truth_N, predicted_N)
    total_R = confusion_RCC.sum(axis=(1, 2))
    agreed_R = np.trace(confusion_RCC, axis1=1, axis2=2)
    by_chance_R = (confusion_RCC.sum(axis=1) * confusion_RCC.sum(axis=2)).sum(axis=1)
    return divide(total_R * agreed_R - by_chance_R, total_R**2 - by_chance_R)


def sensitivity(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    return _recall_of(1, weights_RN, truth_N, predicted_N)


def specificity(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    return _recall_of(0, weights_RN, truth_N, predicted_N)


def _recall_of(label: int, weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    members = truth_N == label
    return divide(weights_RN @ (members & (predicted_N == label)), weights_RN @ members.astype(np.float64))


def brier(weights_RN: Floats, truth_N: Ints, probability_NC: Floats) -> Floats:
    error_NC = (probability_NC - np.eye(probability_NC.shape[1])[truth_N]) ** 2
    error_N = error_NC[:, 1] if probability_NC.shape[1] == 2 else error_NC.sum(axis=1)
    return divide(weights_RN @ error_N, weights_RN.sum(axis=1))


def calibration_error(weights_RN: Floats, truth_N: Ints, probability_NC: Floats) -> Floats:
    confidence_N, correct_N, bins_N = calibration(truth_N, probability_NC, NUM_CALIBRATION_BINS)
    gap_NB = np.eye(NUM_CALIBRATION_BINS)[bins_N] * (correct_N - confidence_N)[:, None]
    return divide(np.abs(weights_RN @ gap_NB).sum(axis=1), weights_RN.sum(axis=1))


def _confusion(weights_RN: Floats, truth_N: Ints, predicted_N: Ints) -> Floats:
    """(R, C, C): weight of the slides of true class i predicted as j."""
    num_classes = int(max(truth_N.max(), predicted_N.max())) + 1
    cells_NC = np.eye(num_classes**2)[truth_N * num_classes + predicted_N]
    return (weights_RN @ cells_NC).reshape(-1, num_classes, num_classes)


class Calibration(NamedTuple):
    """(N,) each: the top class's probability, 1.0 where it is the true one, and its bin."""

    confidence: Floats
    correct: Floats
    bins: Ints


def calibration(truth_N: Ints, probability_NC: Floats, num_bins: int) -> Calibration:
    top = probability_NC.argmax(axis=1)
    confidence = probability_NC[np.arange(len(top)), top]
    # bins are (lower, upper]; 0 falls into the first
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return Calibration(confidence, (top == truth_N).astype(np.float64), bins)
