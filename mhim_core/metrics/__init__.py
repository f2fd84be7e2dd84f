"""Every metric once: arrays in, numbers out, or null with a reason. Import from here.

    classification   auroc average_precision accuracy balanced_accuracy f1_macro kappa brier expected_calibration_error
                     sensitivity specificity · delong · roc_curve reliability_curve
                     · ranking_scores
    survival         harrell_c uno_c log_rank · censoring_weights last_followed
    regression       mae rmse r2 spearman
    all at once      evaluate_predictions evaluate_survival evaluate_regression: patient-clustered bootstrap intervals
    building blocks  bind_… gives metrics whose rows' weights are open; mean_of, replicate_values, estimate use them

Each function states shapes and errors; UndefinedMetricError says why a metric has no value.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mhim_core.metrics.bootstrap import (
    BoundMetric,
    Kernel,
    bind,
    estimate,
    mean_of,
    percentile_interval,
    replicate_values,
    replicate_weights,
    undefined,
)
from mhim_core.metrics.classification import (
    BINARY_METRICS,
    CLASSIFICATION_METRICS,
    RANKING_METRICS,
    accuracy,
    as_columns,
    auroc,
    average_precision,
    balanced_accuracy,
    bind_classification,
    bootstrap_interval,
    brier,
    evaluate_metric,
    evaluate_predictions,
    expected_calibration_error,
    f1_macro,
    kappa,
    sensitivity,
    specificity,
)
from mhim_core.metrics.curves import ReliabilityCurve, RocCurve, reliability_curve, roc_curve
from mhim_core.metrics.paired import DeLong, delong
from mhim_core.metrics.ranking import ranking_scores
from mhim_core.metrics.regression import (
    REGRESSION_METRICS,
    bind_regression,
    evaluate_regression,
    mae,
    r2,
    rmse,
    spearman,
)
from mhim_core.metrics.results import (
    Estimate,
    Interval,
    MeanStd,
    Metric,
    MetricDefinition,
    UndefinedMetricError,
    mean_and_std,
)
from mhim_core.metrics.survival import (
    SURVIVAL_METRICS,
    LogRank,
    bind_survival,
    censoring_weights,
    evaluate_survival,
    harrell_c,
    last_followed,
    log_rank,
    uno_c,
)
from mhim_core.metrics.weighted_classification import NUM_CALIBRATION_BINS

METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {**CLASSIFICATION_METRICS, **BINARY_METRICS, **SURVIVAL_METRICS, **REGRESSION_METRICS}
)
"""Every metric of every task by name."""

__all__ = [
    "BINARY_METRICS",
    "CLASSIFICATION_METRICS",
    "METRICS",
    "NUM_CALIBRATION_BINS",
    "RANKING_METRICS",
    "REGRESSION_METRICS",
    "SURVIVAL_METRICS",
    "BoundMetric",
    "DeLong",
    "Estimate",
    "Interval",
    "Kernel",
    "LogRank",
    "MeanStd",
    "Metric",
    "MetricDefinition",
    "ReliabilityCurve",
    "RocCurve",
    "UndefinedMetricError",
    "accuracy",
    "as_columns",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bind",
    "bind_classification",
    "bind_regression",
    "bind_survival",
    "bootstrap_interval",
    "brier",
    "censoring_weights",
    "delong",
    "estimate",
    "evaluate_metric",
    "evaluate_predictions",
    "evaluate_regression",
    "evaluate_survival",
    "expected_calibration_error",
    "f1_macro",
    "harrell_c",
    "kappa",
    "last_followed",
    "log_rank",
    "mae",
    "mean_and_std",
    "mean_of",
    "percentile_interval",
    "r2",
    "ranking_scores",
    "reliability_curve",
    "replicate_values",
    "replicate_weights",
    "rmse",
    "roc_curve",
    "sensitivity",
    "spearman",
    "specificity",
    "undefined",
    "uno_c",
]
