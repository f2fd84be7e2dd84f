"""Metrics of predicted classes and probabilities.

Shapes: N slides, C classes. `y_true` is (N,) class indices 0 … C−1. `y_score` is (N,), the score or probability of
class 1, or (N, C), one column a class; of two columns the second counts. `y_pred` is (N,) predicted class indices.
Wrong shapes, NaN and unknown classes raise ValueError; a metric without a value raises UndefinedMetricError.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics import weighted_classification as weighted
from mhim_core.metrics.arrays import Floats, Ints
from mhim_core.metrics.bootstrap import BoundMetric, bind, estimate, percentile_interval, replicate_values
from mhim_core.metrics.results import Estimate, Interval, Metric, MetricDefinition, UndefinedMetricError


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
    """Mean over the true classes of the share recognised. Raises UndefinedMetricError if there is only one class."""
    return _value("balanced_accuracy", y_true, y_pred)


def f1_macro(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean of F1 over the classes that occur in truth or prediction; a class never hit counts 0."""
    return _value("f1_macro", y_true, y_pred)


def kappa(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Cohen's kappa. Raises UndefinedMetricError if all slides have the same class, true and predicted."""
    return _value("kappa", y_true, y_pred)


def brier(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Mean squared error of the probabilities: two classes: of the positive one alone; more: summed over classes."""
    return _value("brier", y_true, y_score)


def expected_calibration_error(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Mean |accuracy − confidence| over 15 equal-width bins of the top class's probability, weighted by slides."""
    return _value("expected_calibration_error", y_true, y_score)


def sensitivity(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Share of the slides of class 1 that are predicted 1 (`y_pred` = score ≥ threshold, of two classes).

    Raises UndefinedMetricError if no slide is of class 1, ValueError for more than two classes.
    """
    return _value("sensitivity", y_true, y_pred)


def specificity(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Share of the slides of class 0 that are predicted 0.

    Raises UndefinedMetricError if no slide is of class 0, ValueError for more than two classes.
    """
    return _value("specificity", y_true, y_pred)


CLASSIFICATION_METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "auroc": MetricDefinition("AUROC", weighted.auroc, needs_all_classes=True),
        "average_precision": MetricDefinition("Average precision", weighted.average_precision, needs_all_classes=True),
        "accuracy": MetricDefinition("Accuracy", weighted.accuracy, takes_classes=True),
        "balanced_accuracy": MetricDefinition("Balanced accuracy", weighted.balanced_accuracy, takes_classes=True),
        "f1_macro": MetricDefinition("Macro F1", weighted.f1_macro, takes_classes=True),
        "kappa": MetricDefinition("Cohen's kappa", weighted.kappa, takes_classes=True),
        "brier": MetricDefinition("Brier score", weighted.brier, higher_is_better=False),
        "expected_calibration_error": MetricDefinition(
            "Calibration error", weighted.calibration_error, higher_is_better=False
        ),
    }
)
"""Of any number of classes."""

BINARY_METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "sensitivity": MetricDefinition("Sensitivity", weighted.sensitivity, takes_classes=True),
        "specificity": MetricDefinition("Specificity", weighted.specificity, takes_classes=True),
    }
)
"""Of two classes at a threshold."""

RANKING_METRICS = ("auroc", "average_precision")
"""Of the order of the scores alone."""

_DEFINITIONS = {**CLASSIFICATION_METRICS, **BINARY_METRICS}


def evaluate_metric(name: str, y_true: ArrayLike, y_input: ArrayLike) -> Metric:
    """The classification metric called `name`, null with the reason where it is undefined.

    `y_input` is what the metric takes second.
    """
    return _bind(name, y_true, y_input).metric


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
    """Patient-clustered percentile interval: patients are drawn with all of their slides.

    `y_input` is what the metric takes second; `patients` (N,). Independent of the slides' order.
    """
    bound = _bind(name, y_true, y_input)
    if bound.metric.value is None:
        return Interval(None, None, replicates)
    drawn = replicate_values({name: bound}, patients, replicates=replicates, seed=seed)
    return percentile_interval(drawn[name], level)


def bind_classification(
    y_true: ArrayLike,
    y_score: ArrayLike | None = None,
    y_pred: ArrayLike | None = None,
    names: Iterable[str] = tuple(CLASSIFICATION_METRICS),
    *,
    ranking: ArrayLike | None = None,
) -> dict[str, BoundMetric]:
    """The metrics called `names` on these N slides.

    `y_score` (N, C), or (N,) of class 1; `y_pred` (N,) defaults to the class of the highest score. Without `y_score`
    only metrics that take classes may be named. `ranking`, shaped as `y_score`: what AUROC and average precision order
    slides by (say `ranking_scores` of the logits); by default `y_score`.
    """
    if y_pred is None:
        assert y_score is not None, "scores or predicted classes are needed"
        y_pred = np.argmax(as_columns(y_score), axis=1)
    by_order = y_score if ranking is None else ranking
    scores = {name: by_order if name in RANKING_METRICS else y_score for name in names}
    inputs = {name: y_pred if _DEFINITIONS[name].takes_classes else values for name, values in scores.items()}
    assert all(values is not None for values in inputs.values()), "a metric of scores was named without scores"
    return {name: _bind(name, y_true, values) for name, values in inputs.items() if values is not None}


def evaluate_predictions(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str],
    *,
    y_pred: ArrayLike | None = None,
    ranking: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 2021,
) -> dict[str, Estimate]:
    """All classification metrics with their intervals from one set of replicates.

    `probabilities` (N, C), or (N,) of class 1; `y_pred` (N,) defaults to the most probable class; `ranking` as
    `bind_classification`. Never choose the threshold behind `y_pred` on these slides.
    """
    bound = bind_classification(y_true, probabilities, y_pred, ranking=ranking)
    return estimate(bound, patients, replicates=replicates, seed=seed)


def as_columns(y_score: ArrayLike) -> Floats:
    """(N, C) from (N, C) or from (N,), the probability of class 1 of two."""
    score = np.asarray(y_score, dtype=np.float64)
    return np.stack([1 - score, score], axis=1) if score.ndim == 1 else score


class ClassInputs(NamedTuple):
    """Checked inputs of a classification metric."""

    truth: Ints
    values: Any
    """(N, C) float64 scores or (N,) int64 classes, as the metric takes."""


def check_class_inputs(name: str, y_true: ArrayLike, y_input: ArrayLike) -> ClassInputs:
    """The inputs as arrays of the documented shapes. Raises ValueError for anything else."""
    if name not in _DEFINITIONS:
        raise ValueError(f"unknown metric {name!r}; known are {', '.join(_DEFINITIONS)}")
    truth = _class_indices(y_true, "y_true")
    if _DEFINITIONS[name].takes_classes:
        values: Any = _class_indices(y_input, "y_pred")
        highest = max(truth.max(initial=0), values.max(initial=0))
        if name in BINARY_METRICS and highest > 1:
            raise ValueError(f"{name} is of two classes; class {highest} was found")
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
    return ClassInputs(truth, values)


def missing_class(truth_N: Ints, num_classes: int) -> str:
    """Why a metric that needs all classes has no value; empty: it has one."""
    present = np.unique(truth_N)
    if not len(present):
        return "there are no slides"
    if len(present) == 1:
        return f"all {len(truth_N)} slides are of class {present[0]}"
    absent = sorted(set(range(num_classes)) - set(present.tolist()))
    return f"class {', '.join(map(str, absent))} has no slide" if absent else ""


def _value(name: str, y_true: ArrayLike, y_input: ArrayLike) -> float:
    value, reason = _bind(name, y_true, y_input).metric
    if value is None:
        raise UndefinedMetricError(reason)
    return value


def _bind(name: str, y_true: ArrayLike, y_input: ArrayLike) -> BoundMetric:
    truth_N, values = check_class_inputs(name, y_true, y_input)
    kernel = _DEFINITIONS[name].kernel
    return bind(
        lambda weights_RN: kernel(weights_RN, truth_N, values),
        len(truth_N),
        _undefined(name, truth_N, values),
        if_nan="truth and prediction are one and the same class throughout",
    )


def _undefined(name: str, truth_N: Ints, values: Any) -> str:
    if not len(truth_N):
        return "there are no slides"
    if _DEFINITIONS[name].needs_all_classes:
        return missing_class(truth_N, values.shape[1])
    if name == "balanced_accuracy" and len(np.unique(truth_N)) < 2:
        return f"all {len(truth_N)} slides are of class {truth_N[0]}"
    if name in BINARY_METRICS:
        label = int(name == "sensitivity")
        return "" if (truth_N == label).any() else f"no slide is of class {label}"
    return ""


def _class_indices(values: ArrayLike, name: str) -> Ints:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; (N,) is needed")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must hold class indices 0, 1, …, not NaN, infinity or what is no number")
    indices = array.astype(np.int64)
    if (indices != array).any() or (indices < 0).any():
        raise ValueError(f"{name} must hold class indices 0, 1, …, not scores or negative numbers")
    return indices
