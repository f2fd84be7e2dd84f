"""Metrics of predicted numbers.

Shapes: N slides; `y_true` and `y_pred` are (N,) finite numbers in one unit. Wrong shapes, NaN and infinity raise
ValueError; a metric without a value raises UndefinedMetricError.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics import weighted_regression as weighted
from mhim_core.metrics.arrays import Floats
from mhim_core.metrics.bootstrap import BoundMetric, bind, estimate
from mhim_core.metrics.results import Estimate, MetricDefinition, UndefinedMetricError


def mae(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean absolute error, in the targets' unit."""
    return _value("mae", y_true, y_pred)


def rmse(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Root of the mean squared error, in the targets' unit."""
    return _value("rmse", y_true, y_pred)


def r2(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """1 − squared error / squared deviation from the mean target. Raises UndefinedMetricError for equal targets."""
    return _value("r2", y_true, y_pred)


def spearman(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Correlation of the midranks. Raises UndefinedMetricError if all targets or all predictions are equal."""
    return _value("spearman", y_true, y_pred)


REGRESSION_METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "mae": MetricDefinition("MAE", weighted.mae, higher_is_better=False),
        "rmse": MetricDefinition("RMSE", weighted.rmse, higher_is_better=False),
        "r2": MetricDefinition("R²", weighted.r2),
        "spearman": MetricDefinition("Spearman's ρ", weighted.spearman),
    }
)


def bind_regression(y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, BoundMetric]:
    """The regression metrics on these N slides."""
    truth_N, predicted_N = _numbers(y_true, "y_true"), _numbers(y_pred, "y_pred")
    if len(truth_N) != len(predicted_N):
        raise ValueError(f"y_true has {len(truth_N)} slides and the prediction {len(predicted_N)}")
    return {name: _bind(name, truth_N, predicted_N) for name in REGRESSION_METRICS}


def evaluate_regression(
    y_true: ArrayLike, y_pred: ArrayLike, patients: Sequence[str], *, replicates: int = 2000, seed: int = 2021
) -> dict[str, Estimate]:
    """All regression metrics with patient-clustered bootstrap intervals. `patients` (N,)."""
    return estimate(bind_regression(y_true, y_pred), patients, replicates=replicates, seed=seed)


def _value(name: str, y_true: ArrayLike, y_pred: ArrayLike) -> float:
    value, reason = bind_regression(y_true, y_pred)[name].metric
    if value is None:
        raise UndefinedMetricError(reason)
    return value


def _bind(name: str, truth_N: Floats, predicted_N: Floats) -> BoundMetric:
    kernel = REGRESSION_METRICS[name].kernel
    reason = ""
    if not len(truth_N):
        reason = "there are no slides"
    elif name in ("r2", "spearman") and (truth_N == truth_N[0]).all():
        reason = f"the target is the same on all {len(truth_N)} slides"
    elif name == "spearman" and (predicted_N == predicted_N[0]).all():
        reason = f"the prediction is the same on all {len(truth_N)} slides"
    return bind(lambda weights_RN: kernel(weights_RN, truth_N, predicted_N), len(truth_N), reason)


def _numbers(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; (N,) is needed")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array
