"""The results of metrics, and the error for a metric without a value."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.metrics.arrays import Floats


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


class MetricDefinition(NamedTuple):
    """How a metric is computed and interpreted."""

    title: str
    kernel: Callable[..., Floats]
    """(R, N) weights and the metric's inputs → (R,) values, NaN where there is none."""
    higher_is_better: bool = True
    takes_classes: bool = False
    """Classification: it takes predicted classes, not scores or probabilities."""
    needs_all_classes: bool = False
    """Classification: it has no value where a class has no slide."""


def mean_and_std(values: Sequence[float | None]) -> MeanStd:
    """Over folds, those without a value left out; the deviation needs two."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return MeanStd(
        mean=float(known.mean()) if len(known) else None,
        std=float(known.std(ddof=1)) if len(known) > 1 else None,
        num=len(known),
    )
