"""The page of a run or of predictions: the answer first, then slides, figures and tables; settings at the end."""

from collections.abc import Iterable, Iterator

from mhim_core.evaluation.calibration import TEMPERATURE_RANGE
from mhim_core.metrics import BINARY_METRICS, CLASSIFICATION_METRICS, METRICS
from mhim_core.report.answer import counts_of, finding_of, headline_of, shown_slide
from mhim_core.report.data import ModelResult, ReportData
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.pictures import Pictures
from mhim_core.report.predictions import sort_by_error
from mhim_core.report.settings import settings_in_words

MAX_PREDICTIONS = 500
"""Rows on the page; the exported table has them all."""
CALIBRATION_METRICS = ("brier", "expected_calibration_error")


def render_report(data: ReportData, pictures: Pictures | None = None) -> str:
    """The page; `pictures`: where its pictures go, None: inside. Raises ValueError if an image is no picture."""
    rows = sort_by_error(data.predictions, data.classes)
    decision_metrics = decision_names(data.models)
    calibrated = [model for model in data.models if model.calibration is not None]
    grouped = [model for model in data.models if model.risk_groups or model.risk_reason]
    return render_page(
        "report.html.j2",
        pictures=pictures,
        anchors=_anchors(data, "Probabilities and decisions" if decision_metrics else "Probabilities"),
        data=data,
        finding=finding_of(data),
        headline=headline_of(data),
        judged=_judged(data),
        counts=counts_of(data),
        shown=shown_slide(data),
        panel_order=data.panel_order,
        settings=settings_in_words(data.encoder, data.tiling, data.training),
        metric_titles={name: definition.title for name, definition in METRICS.items()},
        metric_arrows={name: "↑" if definition.higher_is_better else "↓" for name, definition in METRICS.items()},
        metrics=metric_names(data),
        decision_metrics=decision_metrics,
        calibration_metrics=CALIBRATION_METRICS,
        temperature_range=TEMPERATURE_RANGE,
        fold_metrics=[name for name in METRICS if any(name in fold.metrics for fold in data.folds)],
        chosen=list(dict.fromkeys(name for fold in data.folds for name in fold.chosen)),
        calibrated=calibrated,
        grouped=grouped,
        reported=next((model for model in data.models if model.is_reported), None),
        predictions=rows[:MAX_PREDICTIONS],
        num_hidden=max(0, len(rows) - MAX_PREDICTIONS),
        has_sites=any(row.prediction.site for row in rows),
    )


def metric_names(data: ReportData) -> list[str]:
    """The metrics that any model has, in the order of METRICS."""
    return [name for name in METRICS if any(name in model.estimates for model in data.models)]


def decision_names(models: Iterable[ModelResult]) -> list[str]:
    """The metrics of decisions at thresholds that any model has, sensitivity and specificity first."""
    order = [*BINARY_METRICS, *CLASSIFICATION_METRICS]
    known = {name for model in models for name in model.decisions}
    return [name for name in order if name in known]


def _anchors(data: ReportData, decisions: str) -> Iterator[Anchor]:
    """The sections that the page has, in its order."""
    there = {
        "answer": ("Answer", True),
        "slides": ("Slides", data.panels),
        "predictions": ("Predictions", data.predictions),
        "figures": ("Figures", data.figures),
        "results": ("Results", data.models),
        "sites": ("Sites", data.sites),
        "decisions": (decisions, any(model.calibration is not None for model in data.models)),
        "risk": ("Risk groups", any(model.risk_groups or model.risk_reason for model in data.models)),
        "missing": ("Without features", data.cohort.failures or data.cohort.empty),
        "settings": ("Settings and provenance", True),
    }
    for target, (title, is_there) in there.items():
        if is_there:
            yield Anchor(target, title)


def _judged(data: ReportData) -> str:
    """On how many bags the figures are, where it is known."""
    num = len({prediction.bag_id for prediction in data.predictions})
    return f"on {num:,} held-out {data.unit}s" if data.folds and num else ""
