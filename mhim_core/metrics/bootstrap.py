"""The patient-clustered bootstrap over metrics that are bound to their rows.

A `BoundMetric` knows its N rows; only their weights are open. So a plain value is a row of ones, a replicate counts how
often each row's patient was drawn, several seeds are a mean of kernels, and a paired comparison is the difference of
two kernels under the same draws.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.metrics.arrays import Floats
from mhim_core.metrics.results import Estimate, Interval, Metric

Kernel = Callable[[Floats], Floats]
"""(R, N) weights → (R,) values, NaN where the metric has none."""

_MAX_CELLS = 500_000
"""Of the (replicates, rows) weights held at a time: 4 MB, which stays in a cache."""


class BoundMetric(NamedTuple):
    """A metric on N rows: its value, or the reason why it has none, and how it follows the rows' weights."""

    metric: Metric
    kernel: Kernel


def bind(kernel: Kernel, num_rows: int, reason: str, if_nan: str = "") -> BoundMetric:
    """`reason`: why there is no value (empty: there is one); `if_nan`: why, where only the kernel can tell."""
    if reason:
        return BoundMetric(Metric(None, reason), kernel)
    value = float(kernel(np.ones((1, num_rows)))[0])
    return BoundMetric(Metric(None, if_nan) if math.isnan(value) else Metric(value), kernel)


def undefined(reason: str) -> BoundMetric:
    """A metric without a value on these rows, whatever they weigh."""
    return BoundMetric(Metric(None, reason), lambda weights_RN: np.full(len(weights_RN), np.nan))


def mean_of(bound: Sequence[BoundMetric]) -> BoundMetric:
    """The mean of several metrics of the same N rows; without a value where one of them has none."""
    if len(bound) == 1:
        return bound[0]
    values = [bound_metric.metric.value for bound_metric in bound if bound_metric.metric.value is not None]
    reason = next((bound_metric.metric.reason for bound_metric in bound if bound_metric.metric.value is None), "")
    metric = Metric(None, reason) if reason else Metric(math.fsum(values) / len(values))
    return BoundMetric(
        metric, lambda weights_RN: np.mean([bound_metric.kernel(weights_RN) for bound_metric in bound], axis=0)
    )


def replicate_values(
    bound: Mapping[str, BoundMetric], patients: Sequence[str], *, replicates: int = 2000, seed: int = 2021
) -> dict[str, Floats]:
    """(replicates,) values of each metric under the same draws of whole patients; those without a value left out.

    `patients` (N,). Which patients a replicate draws is a function of the seed and the set of patients alone.
    """
    known = {name: bound_metric.kernel for name, bound_metric in bound.items() if bound_metric.metric.value is not None}
    drawn: dict[str, list[Floats]] = {name: [np.empty(0)] for name in known}
    for weights_RN in replicate_weights(patients, replicates, seed) if known else ():
        for name, kernel in known.items():
            drawn[name].append(kernel(weights_RN))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def estimate(
    bound: Mapping[str, BoundMetric], patients: Sequence[str], *, replicates: int = 2000, seed: int = 2021
) -> dict[str, Estimate]:
    """Every metric with its 95 % percentile interval, from one set of replicates; 0 replicates: no intervals."""
    drawn = replicate_values(bound, patients, replicates=replicates, seed=seed)
    estimates = {}
    for name, bound_metric in bound.items():
        interval = percentile_interval(drawn[name]) if name in drawn and replicates else Interval(None, None, 0)
        estimates[name] = Estimate(
            bound_metric.metric.value, interval.low, interval.high, interval.num_undefined, bound_metric.metric.reason
        )
    return estimates


def percentile_interval(values_R: Floats, level: float = 0.95) -> Interval:
    """Of the replicates' values; NaN are dropped and counted."""
    known = values_R[~np.isnan(values_R)]
    num_undefined = len(values_R) - len(known)
    if not len(known):
        return Interval(None, None, num_undefined)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num_undefined)


def replicate_weights(patients: Sequence[str], replicates: int, seed: int) -> Iterator[Floats]:
    """(r, N) counts of how often each row's patient was drawn, in parts that fit in memory."""
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
