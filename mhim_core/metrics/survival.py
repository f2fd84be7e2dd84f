"""Metrics of predicted risks under censoring.

Shapes: N patients (or slides); `time` (N,) not negative, `event` (N,) True where the event was seen and False where the
patient was censored, `risk` (N,), higher for an earlier event. Wrong shapes, NaN and negative times raise ValueError; a
metric without a value raises UndefinedMetricError.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics import weighted_survival as weighted
from mhim_core.metrics.arrays import Bools, Floats
from mhim_core.metrics.bootstrap import BoundMetric, bind, estimate
from mhim_core.metrics.results import Estimate, MetricDefinition, UndefinedMetricError


class LogRank(NamedTuple):
    """Do groups differ in survival?"""

    statistic: float
    """χ² with `degrees_of_freedom`."""
    degrees_of_freedom: int
    """The number of groups that were at risk at an event, less one."""
    p: float


def harrell_c(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> float:
    """Harrell's concordance: the share of comparable pairs in which the earlier event has the higher risk.

    Comparable: an event and a patient with a later time, or censored at the same time; two events at one time are not.
    Equal risks count half. Raises UndefinedMetricError without a comparable pair.
    """
    time_N, event_N, risk_N = _checked(time, event, risk)
    return _get(_bind("harrell_c", time_N, event_N, risk_N, np.ones(len(time_N))))


def uno_c(
    train_time: ArrayLike,
    train_event: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    tau: float | None = None,
) -> float:
    """Uno's concordance (2011): Harrell's with each event weighted by 1/G(time)², so that censoring does not bias it.

    G is the Kaplan-Meier curve of being uncensored, of the training patients (`train_time`, `train_event` (M,)).
    `tau`: only events before it count (their pairs reach beyond it); None: all.
    Raises UndefinedMetricError without a comparable pair, or if an event that counts lies where the training patients
    give no G or G = 0: set tau to at most `last_followed(train_time)`.
    """
    weight_N = censoring_weights(train_time, train_event, time, event, tau=tau)
    time_N, event_N, risk_N = _checked(time, event, risk)
    return _get(_bind("uno_c", time_N, event_N, risk_N, weight_N))


def censoring_weights(
    train_time: ArrayLike, train_event: ArrayLike, time: ArrayLike, event: ArrayLike, *, tau: float | None = None
) -> Floats:
    """(N,): 1/G(time)² of each event before `tau`, 0 of everything else. Arguments and errors as `uno_c`."""
    train_time_M, train_event_M, _ = _checked(train_time, train_event, np.zeros(np.shape(train_time)))
    time_N, event_N, _ = _checked(time, event, np.zeros(np.shape(time)))
    counts_N = event_N if tau is None else event_N & (time_N < tau)
    weight_N = np.zeros(len(time_N))
    if not counts_N.any():
        return weight_N
    if not len(train_time_M):
        raise UndefinedMetricError("there are no training patients from which to estimate censoring")
    uncensored = _uncensored_curve(train_time_M, train_event_M, time_N[counts_N])
    lost = (uncensored == 0) | (time_N[counts_N] > train_time_M.max())
    if lost.any():
        raise UndefinedMetricError(
            f"{int(lost.sum())} events lie at {time_N[counts_N][lost].min():g} or later, where no training patient is "
            f"followed any more (the last to {train_time_M.max():g}); set tau"
        )
    weight_N[counts_N] = 1 / uncensored**2
    return weight_N


def last_followed(train_time: ArrayLike) -> float:
    """The latest follow-up of a training patient: with it as tau, `uno_c` has all the weights it needs."""
    return float(np.max(np.asarray(train_time, dtype=np.float64)))


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """The log-rank test, through lifelines. `group` (N,): any labels, two or more of them.

    Raises UndefinedMetricError if there are fewer than two groups or no event that can tell them apart.
    """
    time_N, event_N, _ = _checked(time, event, np.zeros(np.shape(time)))
    labels_N = np.asarray(group)
    if labels_N.shape != time_N.shape:
        raise ValueError(f"time has {len(time_N)} patients and group the shape {labels_N.shape}")
    num_groups = len(np.unique(labels_N))
    if num_groups < 2:
        raise UndefinedMetricError(f"the log-rank test needs two groups; there is {num_groups}")
    if not event_N.any():
        raise UndefinedMetricError("there is no event")
    first = time_N[event_N].min()
    at_risk_N = time_N >= first  # patients censored before the first event carry no information
    labels, group_K = np.unique(labels_N[at_risk_N], return_inverse=True)
    if len(labels) < 2 or (event_N & (time_N == first)).sum() == at_risk_N.sum():
        raise UndefinedMetricError("at no event are patients of two groups at risk, one of whom remains at risk")
    from lifelines.statistics import multivariate_logrank_test

    test = multivariate_logrank_test(time_N[at_risk_N], group_K, event_N[at_risk_N])
    return LogRank(float(test.test_statistic), len(labels) - 1, float(test.p_value))


SURVIVAL_METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "harrell_c": MetricDefinition("Harrell's C", weighted.concordance),
        "uno_c": MetricDefinition("Uno's C", weighted.concordance),
    }
)


def bind_survival(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, censoring: ArrayLike | None = None, no_censoring: str = ""
) -> dict[str, BoundMetric]:
    """The survival metrics on these N patients.

    `censoring` (N,): the `censoring_weights` that Uno's C takes; None: it has no value, for the reason `no_censoring`.
    """
    time_N, event_N, risk_N = _checked(time, event, risk)
    weight_N = np.zeros(len(time_N)) if censoring is None else np.asarray(censoring, dtype=np.float64)
    if weight_N.shape != time_N.shape:
        raise ValueError(f"time has {len(time_N)} patients and censoring the shape {weight_N.shape}")
    missing = (no_censoring or "no training patients were given") if censoring is None else ""
    return {
        "harrell_c": _bind("harrell_c", time_N, event_N, risk_N, np.ones(len(time_N))),
        "uno_c": _bind("uno_c", time_N, event_N, risk_N, weight_N, missing),
    }


def evaluate_survival(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    patients: Sequence[str],
    *,
    censoring: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 2021,
) -> dict[str, Estimate]:
    """All survival metrics with patient-clustered bootstrap intervals.

    `patients` (N,); `censoring` (N,) from `censoring_weights`, kept fixed over the replicates; None: no Uno's C.
    """
    bound = bind_survival(time, event, risk, censoring)
    return estimate(bound, patients, replicates=replicates, seed=seed)


def _bind(
    name: str, time_N: Floats, event_N: Bools, risk_N: Floats, event_weight_N: Floats, missing: str = ""
) -> BoundMetric:
    kernel = SURVIVAL_METRICS[name].kernel
    reason = missing
    if not len(time_N):
        reason = "there are no patients"
    elif not reason and not event_N.any():
        reason = f"no event was seen among {len(time_N)} patients"
    return bind(
        lambda weights_RN: kernel(weights_RN, time_N, event_N, risk_N, event_weight_N),
        len(time_N),
        reason,
        if_nan=f"no two of {len(time_N)} patients can be compared",
    )


def _get(bound: BoundMetric) -> float:
    value, reason = bound.metric
    if value is None:
        raise UndefinedMetricError(reason)
    return value


def _uncensored_curve(train_time_M: Floats, train_event_M: Bools, at_K: Floats) -> Floats:
    """(K,): Kaplan-Meier of being uncensored, right-continuous; at a tie events come before censorings."""
    times_T, index_M = np.unique(train_time_M, return_inverse=True)
    events_T = np.bincount(index_M, weights=train_event_M, minlength=len(times_T))
    all_T = np.bincount(index_M, minlength=len(times_T))
    at_risk_T = len(train_time_M) - np.cumsum(all_T) + all_T - events_T
    censored_T = all_T - events_T
    factor_T = 1 - np.divide(censored_T, at_risk_T, out=np.zeros(len(times_T)), where=censored_T > 0)
    curve = np.concatenate([[1.0], np.cumprod(factor_T)])
    return curve[np.searchsorted(times_T, at_K, side="right")]


class _Checked(NamedTuple):
    time: Floats
    event: Bools
    risk: Floats


def _checked(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> _Checked:
    time_N, risk_N = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    seen_N = np.asarray(event)
    for name, array in (("time", time_N), ("event", seen_N), ("risk", risk_N)):
        if array.shape != (len(time_N),) if time_N.ndim else True:
            raise ValueError(f"{name} has shape {array.shape}; (N,) is needed, N = {time_N.shape}")
    if not np.isfinite(time_N).all() or (time_N < 0).any():
        raise ValueError("time holds NaN, infinity or a negative number")
    if not np.isfinite(risk_N).all():
        raise ValueError("risk holds NaN or infinity")
    event_N = seen_N.astype(bool)
    if (event_N != seen_N).any():
        raise ValueError("event must hold True or False (1 or 0): was the event observed?")
    return _Checked(time_N, event_N, risk_N)
