"""The points behind the ROC curve and the reliability diagram."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics import weighted_classification
from mhim_core.metrics.arrays import Floats, Ints, tie_groups
from mhim_core.metrics.classification import check_class_inputs, missing_class
from mhim_core.metrics.results import UndefinedMetricError
from mhim_core.metrics.weighted_classification import NUM_CALIBRATION_BINS


class RocCurve(NamedTuple):
    """(T,) each, from (0, 0) to (1, 1); `thresholds` fall from inf to the lowest score."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats


class ReliabilityCurve(NamedTuple):
    """(bins,) each: of the slides whose top class has a probability in the bin. NaN in empty bins."""

    confidence: Floats
    accuracy: Floats
    num_slides: Ints


def roc_curve(y_true: ArrayLike, y_score: ArrayLike) -> RocCurve:
    """The ROC curve of class 1 against class 0, a point per distinct score.

    `y_true` (N,) 0 or 1; `y_score` (N,) of class 1, or (N, 2), of which the second column counts. Of more classes, give
    one against the rest. Raises UndefinedMetricError as auroc, ValueError for more than two columns.
    """
    truth, score_NC = check_class_inputs("auroc", y_true, y_score)
    if score_NC.shape[1] > 2:
        raise ValueError(f"a ROC curve is of two classes; y_score has {score_NC.shape[1]}: give one against the rest")
    if reason := missing_class(truth, score_NC.shape[1]):
        raise UndefinedMetricError(reason)
    positive = truth == 1
    ends, order = tie_groups(-score_NC[:, 1])
    true_positives = np.cumsum(positive[order])[ends]
    false_positives = np.cumsum(~positive[order])[ends]
    return RocCurve(
        false_positive_rate=np.concatenate([[0.0], false_positives / false_positives[-1]]),
        true_positive_rate=np.concatenate([[0.0], true_positives / true_positives[-1]]),
        thresholds=np.concatenate([[math.inf], score_NC[order[ends], 1]]),
    )


def reliability_curve(
    y_true: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_CALIBRATION_BINS
) -> ReliabilityCurve:
    """Confidence against accuracy in equal-width bins of the top class's probability."""
    truth, probability_NC = check_class_inputs("expected_calibration_error", y_true, probabilities)
    confidence, correct, bins = weighted_classification.calibration(truth, probability_NC, num_bins)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            confidence=np.bincount(bins, weights=confidence, minlength=num_bins) / count,
            accuracy=np.bincount(bins, weights=correct, minlength=num_bins) / count,
            num_slides=count,
        )
