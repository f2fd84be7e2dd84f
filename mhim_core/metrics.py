"""Every metric once: arrays in, numbers out, or null with a reason.

Shapes: N slides, C classes. `y_true` is (N,) class indices 0 … C−1. `y_score` is (N,), the score or probability of
class 1, or (N, C), one column a class; of two columns the second counts. `y_pred` is (N,) predicted class indices.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core import weighted_metrics
from mhim_core.weighted_metrics import NUM_CALIBRATION_BINS, Floats, Ints

_MAX_CELLS = 500_000
"""Of the (replicates, slides) weights held at a time: 4 MB, which stays in a cache."""


class UndefinedMetricError(ValueError):
    """The metric has no value on these slides; the message says why."""


class Metric(NamedTuple):
    """A value, or None and the reason."""

    value: float | None
    reason: str = ""


class Interval(NamedTuple):
    """A percentile interval; both ends None where no replicate gave a value."""

    low: float | None
    high: float | None
    num_undefined: int
    """Replicates in which the metric had no value; they were dropped."""


class Estimate(NamedTuple):
    """A metric with its interval."""

    value: float | None
    low: float | None
    high: float | None
    num_undefined: int = 0
    reason: str = ""


class MeanStd(NamedTuple):
    """Over folds: the mean, the sample standard deviation (n − 1) and how many folds had a value."""

    mean: float | None
    std: float | None
    num: int


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


def auroc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; more than two classes: one-vs-rest, macro mean.

    Raises UndefinedMetricError if a class has no slide.
    """
    return _value("auroc", y_true, y_score)


def average_precision(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Area under the precision-recall steps; more than two classes: one-vs-rest, macro mean.

    Raises UndefinedMetricError if a class has no slide.
    """
    return _value("average_precision", y_true, y_score)


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Share of slides whose predicted class is the true one."""
    return _value("accuracy", y_true, y_pred)


def balanced_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean over the true classes of the share recognised. Raises UndefinedMetricError if there is but one class."""
    return _value("balanced_accuracy", y_true, y_pred)


def f1_macro(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean of F1 over the classes that occur in truth or prediction; a class never hit counts 0."""
    return _value("f1_macro", y_true, y_pred)


def kappa(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Cohen's kappa. Raises UndefinedMetricError if truth and prediction are one and the same class throughout."""
    return _value("kappa", y_true, y_pred)


def brier(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Mean squared error of the probabilities: two classes: of the positive one alone; more: summed over classes."""
    return _value("brier", y_true, y_score)


def expected_calibration_error(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Mean |accuracy − confidence| over 15 equal-width bins of the top class's probability, weighted by slides."""
    return _value("expected_calibration_error", y_true, y_score)


def evaluate_metric(name: str, y_true: ArrayLike, y_input: ArrayLike) -> Metric:
    """The metric called `name` (a key of METRICS), null with the reason where it is undefined."""
    try:
        return Metric(_value(name, y_true, y_input))
    except UndefinedMetricError as error:
        return Metric(None, str(error))


def bootstrap_interval(
    name: str,
    y_true: ArrayLike,
    y_input: ArrayLike,
    patients: Sequence[str],
    *,
    replicates: int = 2000,
    seed: int = 2021,
    level: float = 0.95,
) -> Interval:
    """Patient-clustered percentile interval: whole patients are drawn, all slides of one together.

    `y_input` is what the metric takes second; `patients` (N,). Independent of the slides' order.
    """
    truth, values = _checked(name, y_true, y_input)
    drawn = [METRICS[name].kernel(weights, truth, values) for weights in _replicate_weights(patients, replicates, seed)]
    return _percentiles(np.concatenate(drawn), level)


def evaluate_predictions(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str],
    *,
    y_pred: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 2021,
) -> dict[str, Estimate]:
    """All metrics with their intervals from one set of replicates, in the order of METRICS.

    `probabilities` (N, C), or (N,) of class 1; `y_pred` (N,) defaults to the most probable class. Never choose the
    threshold behind `y_pred` on these slides.
    """
    predicted = np.argmax(as_columns(probabilities), axis=1) if y_pred is None else np.asarray(y_pred)
    inputs = {}
    found: dict[str, Metric] = {}
    for name, definition in METRICS.items():
        given = predicted if definition.takes_classes else probabilities
        found[name] = evaluate_metric(name, y_true, given)
        if found[name].value is not None:
            inputs[name] = _checked(name, y_true, given)
    drawn: dict[str, list[Floats]] = {name: [] for name in inputs}
    for weights in _replicate_weights(patients, replicates, seed) if inputs and replicates else ():
        for name, (truth, values) in inputs.items():
            drawn[name].append(METRICS[name].kernel(weights, truth, values))
    estimates = {}
    for name, (value, reason) in found.items():
        interval = _percentiles(np.concatenate(drawn[name]), 0.95) if drawn.get(name) else Interval(None, None, 0)
        estimates[name] = Estimate(value, interval.low, interval.high, interval.num_undefined, reason)
    return estimates


def mean_and_std(values: Sequence[float | None]) -> MeanStd:
    """Over folds, those without a value left out; the deviation needs two."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return MeanStd(
        mean=float(known.mean()) if len(known) else None,
        std=float(known.std(ddof=1)) if len(known) > 1 else None,
        num=len(known),
    )


def roc_curve(y_true: ArrayLike, y_score: ArrayLike) -> RocCurve:
    """The ROC curve of class 1 against class 0, a point per distinct score. Raises UndefinedMetricError as auroc."""
    truth, score_NC = _checked("auroc", y_true, y_score)
    _require_classes(truth, score_NC.shape[1])
    positive = truth == 1
    ends, order = weighted_metrics.tie_groups(-score_NC[:, 1])
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
    truth, probability_NC = _checked("expected_calibration_error", y_true, probabilities)
    confidence, correct, bins = weighted_metrics.calibration(truth, probability_NC, num_bins)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            confidence=np.bincount(bins, weights=confidence, minlength=num_bins) / count,
            accuracy=np.bincount(bins, weights=correct, minlength=num_bins) / count,
            num_slides=count,
        )


def as_columns(y_score: ArrayLike) -> Floats:
    """(N, C) from (N, C) or from (N,), the probability of class 1 of two."""
    score = np.asarray(y_score, dtype=np.float64)
    return np.stack([1 - score, score], axis=1) if score.ndim == 1 else score


class MetricDefinition(NamedTuple):
    """How a metric is computed and read."""

    title: str
    kernel: Callable[..., Floats]
    takes_classes: bool
    """True: it takes predicted classes; False: scores or probabilities."""
    needs_all_classes: bool
    higher_is_better: bool = True


METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "auroc": MetricDefinition("AUROC", weighted_metrics.auroc, False, True),
        "average_precision": MetricDefinition("Average precision", weighted_metrics.average_precision, False, True),
        "accuracy": MetricDefinition("Accuracy", weighted_metrics.accuracy, True, False),
        "balanced_accuracy": MetricDefinition("Balanced accuracy", weighted_metrics.balanced_accuracy, True, False),
        "f1_macro": MetricDefinition("Macro F1", weighted_metrics.f1_macro, True, False),
        "kappa": MetricDefinition("Cohen's kappa", weighted_metrics.kappa, True, False),
        "brier": MetricDefinition("Brier score", weighted_metrics.brier, False, False, False),
        "expected_calibration_error": MetricDefinition(
            "Calibration error", weighted_metrics.calibration_error, False, False, False
        ),
    }
)
"""Every metric by name."""


def _value(name: str, y_true: ArrayLike, y_input: ArrayLike) -> float:
    truth, values = _checked(name, y_true, y_input)
    if not len(truth):
        raise UndefinedMetricError("there are no slides")
    if METRICS[name].needs_all_classes:
        _require_classes(truth, values.shape[1])
    if name == "balanced_accuracy" and len(np.unique(truth)) < 2:
        raise UndefinedMetricError(f"all {len(truth)} slides are of class {truth[0]}")
    value = float(METRICS[name].kernel(np.ones((1, len(truth))), truth, values)[0])
    if math.isnan(value):
        raise UndefinedMetricError("truth and prediction are one and the same class throughout")
    return value


def _require_classes(truth_N: Ints, num_classes: int) -> None:
    present = np.unique(truth_N)
    if len(present) == 1:
        raise UndefinedMetricError(f"all {len(truth_N)} slides are of class {present[0]}")
    absent = sorted(set(range(num_classes)) - set(present.tolist()))
    if absent:
        raise UndefinedMetricError(f"class {', '.join(map(str, absent))} has no slide")


class _Inputs(NamedTuple):
    truth: Ints
    values: Any
    """(N, C) float64 scores or (N,) int64 classes, as the metric takes."""


def _checked(name: str, y_true: ArrayLike, y_input: ArrayLike) -> "_Inputs":
    """The inputs as arrays of the documented shapes. Raises ValueError for anything else."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    truth = _class_indices(y_true, "y_true")
    if METRICS[name].takes_classes:
        values: Any = _class_indices(y_input, "y_pred")
    else:
        values = as_columns(y_input)
        if values.ndim != 2 or values.shape[1] < 2:
            raise ValueError(f"y_score has shape {np.shape(y_input)}; (N,) or (N, C) with C ≥ 2 is needed")
        if not np.isfinite(values).all():
            raise ValueError("y_score holds NaN or infinity")
        if len(truth) and truth.max() >= values.shape[1]:
            raise ValueError(f"y_true holds class {truth.max()}, and y_score has {values.shape[1]} classes")
    if len(values) != len(truth):
        raise ValueError(f"y_true has {len(truth)} slides and the prediction {len(values)}")
    return _Inputs(truth, values)


def _class_indices(values: ArrayLike, name: str) -> Ints:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; (N,) is needed")
    indices = array.astype(np.int64)
    if (indices != array).any() or (indices < 0).any():
        raise ValueError(f"{name} must hold class indices 0, 1, …, not scores or negative numbers")
    return indices


def _replicate_weights(patients: Sequence[str], replicates: int, seed: int) -> Iterator[Floats]:
    """(r, N) counts of how often each slide's patient was drawn, in parts that fit in memory."""
    _, index_N = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    num_patients = int(index_N.max()) + 1 if len(index_N) else 0
    generator = np.random.default_rng(seed)
    part = max(1, _MAX_CELLS // max(1, len(index_N)))
    for start in range(0, replicates, part):
        num = min(part, replicates - start)
        drawn = generator.integers(0, num_patients, (num, num_patients))
        drawn += np.arange(num)[:, None] * num_patients
        counts = np.bincount(drawn.ravel(), minlength=num * num_patients).reshape(num, num_patients)
        yield counts[:, index_N].astype(np.float64)


def _percentiles(values_R: Floats, level: float) -> Interval:
    known = values_R[~np.isnan(values_R)]
    num_undefined = len(values_R) - len(known)
    if not len(known):
        return Interval(None, None, num_undefined)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num_undefined)
