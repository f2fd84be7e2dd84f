"""Calibration and thresholds of a classification, as parts of the summary.

calibration  {fits: [{seed, fold, value, nll_before, nll_after, reason}], before: {metric: estimate}, after: …}
thresholded  {rule, fits: [{seed, fold, value, youden, reason}], pooled: {metric: estimate}, over_folds: {…}}
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mhim_core.evaluation.calibration import (
    Temperature,
    Threshold,
    calibrated_probabilities,
    temperatures,
    thresholds,
)
from mhim_core.evaluation.held_out import FitId, Rows, by_fit, class_probabilities, class_targets
from mhim_core.evaluation.row_metrics import Bootstrap, bind_fold, estimate_pooled
from mhim_core.metrics import (
    BINARY_METRICS,
    CLASSIFICATION_METRICS,
    BoundMetric,
    bind_classification,
    mean_and_std,
    undefined,
)
from mhim_core.task import Task

CALIBRATION_METRICS = ("brier", "expected_calibration_error")
_NO_ROWS = "there is no validation prediction of this fit"


def calibration(test_rows: Rows, validation_rows: Rows, bootstrap: Bootstrap) -> dict[str, Any]:
    """One model's Brier score and calibration error before and after each fit's temperature."""
    chosen = temperatures(validation_rows)
    fits = {fit: chosen.get(fit, Temperature(None, reason=_NO_ROWS)) for fit in by_fit(test_rows)}
    return {
        "fits": _of_fits(fits),
        "before": estimate_pooled(test_rows, _bind_calibration, bootstrap),
        "after": estimate_pooled(test_rows, partial(_bind_calibrated, chosen=fits), bootstrap),
    }


def thresholded(test_rows: Rows, validation_rows: Rows, task: Task, bootstrap: Bootstrap) -> dict[str, Any]:
    """One model's metrics of decisions: two classes at each fit's own threshold, more by the highest probability."""
    binary = len(task.classes) == 2
    chosen = thresholds(validation_rows) if binary else {}
    fits = {fit: chosen.get(fit, Threshold(None, reason=_NO_ROWS)) for fit in by_fit(test_rows)} if binary else {}
    bind = partial(_bind_decisions, chosen=fits, names=decision_metrics(binary))
    folds = [bind_fold(rows, test_rows, bind) for rows in by_fit(test_rows).values()]
    return {
        "rule": "Youden's J on validation" if binary else "highest probability",
        "fits": _of_fits(fits),
        "pooled": estimate_pooled(test_rows, bind, bootstrap),
        "over_folds": {
            name: mean_and_std([fold[name].metric.value for fold in folds]) for name in decision_metrics(binary)
        },
    }


def decision_metrics(binary: bool) -> tuple[str, ...]:
    """The metrics of predicted classes, in order; of two classes sensitivity and specificity too."""
    of_classes = tuple(name for name, definition in CLASSIFICATION_METRICS.items() if definition.takes_classes)
    return of_classes + (tuple(BINARY_METRICS) if binary else ())


def _bind_calibration(rows: Rows) -> dict[str, BoundMetric]:
    return bind_classification(class_targets(rows), class_probabilities(rows), names=CALIBRATION_METRICS)


def _bind_calibrated(rows: Rows, chosen: Mapping[FitId, Temperature]) -> dict[str, BoundMetric]:
    if reason := _first_reason(rows, chosen):
        return {name: undefined(reason) for name in CALIBRATION_METRICS}
    return bind_classification(class_targets(rows), calibrated_probabilities(rows, chosen), names=CALIBRATION_METRICS)


def _bind_decisions(rows: Rows, chosen: Mapping[FitId, Threshold], names: Sequence[str]) -> dict[str, BoundMetric]:
    probability_NC = class_probabilities(rows)
    if not chosen:
        return bind_classification(class_targets(rows), probability_NC, names=names)
    if reason := _first_reason(rows, chosen):
        return {name: undefined(reason) for name in names}
    threshold_N = np.array([chosen[row.fit].value for row in rows], dtype=np.float64)
    predicted_N = (probability_NC[:, 1] >= threshold_N).astype(np.int64)
    return bind_classification(class_targets(rows), y_pred=predicted_N, names=names)


def _first_reason(rows: Rows, chosen: Mapping[FitId, Any]) -> str:
    """Why a fit's choice is missing; empty: none is."""
    for fit in sorted({row.fit for row in rows}):
        if chosen[fit].value is None:
            return f"seed {fit.seed}, fold {fit.fold}: {chosen[fit].reason}"
    return ""


def _of_fits(fits: Mapping[FitId, NamedTuple]) -> list[dict[str, Any]]:
    return [{"seed": fit.seed, "fold": fit.fold} | choice._asdict() for fit, choice in fits.items()]
