"""One self-contained HTML page per run: no scripts, no requests, images inside; the same data gives the same bytes."""

import base64
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, NamedTuple

from mhim_core.evaluation.calibration import TEMPERATURE_RANGE
from mhim_core.metrics import BINARY_METRICS, CLASSIFICATION_METRICS, METRICS
from mhim_core.report.data import ModelResult, ReportData
from mhim_core.report.images import is_long, media_type
from mhim_core.report.numbers import (
    format_amount,
    format_difference,
    format_estimate,
    format_metric,
    format_number,
    format_p,
)
from mhim_core.report.predictions import sort_by_error
from mhim_core.task import TaskKind

RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis, nor for decisions about patients."
MAX_PREDICTIONS = 500
"""Rows on the page; the exported table has them all."""
HEADLINES = {
    TaskKind.classification: ("auroc", "balanced_accuracy"),
    TaskKind.survival: ("harrell_c", "uno_c"),
    TaskKind.regression: ("mae", "r2"),
}
"""The figures at the top of the page, the first with its interval."""
CALIBRATION_METRICS = ("brier", "expected_calibration_error")


def render_report(data: ReportData) -> str:
    """The page. Raises ValueError if an image is neither PNG nor JPEG."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.tests["long"] = is_long
    environment.filters.update(
        number=format_number,
        amount=format_amount,
        difference=format_difference,
        metric=format_metric,
        p=format_p,
        estimate=format_estimate,
        image=data_uri,
        facts=flatten_facts,
        percent=_percent,
    )
    rows = sort_by_error(data.predictions, data.classes)
    return environment.get_template("report.html.j2").render(
        data=data,
        research_use=RESEARCH_USE,
        metric_titles={name: definition.title for name, definition in METRICS.items()},
        metric_arrows={name: "↑" if definition.higher_is_better else "↓" for name, definition in METRICS.items()},
        metrics=metric_names(data),
        headlines=HEADLINES[data.kind],
        decision_metrics=decision_names(data.models),
        calibration_metrics=CALIBRATION_METRICS,
        temperature_range=TEMPERATURE_RANGE,
        fold_metrics=[name for name in METRICS if any(name in fold.metrics for fold in data.folds)],
        chosen=list(dict.fromkeys(name for fold in data.folds for name in fold.chosen)),
        calibrated=[model for model in data.models if model.calibration is not None],
        grouped=[model for model in data.models if model.risk_groups or model.risk_reason],
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


def data_uri(image: bytes) -> str:
    """The image inside the page."""
    return f"data:{media_type(image)};base64,{base64.b64encode(image).decode()}"


class Fact(NamedTuple):
    """One line of a list of facts."""

    name: str
    value: str


def flatten_facts(facts: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """Nested mappings as `transform.mean`, lists on one line, None and empty text as a dash; in the mapping's order."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += flatten_facts(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append(Fact(f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append(Fact(f"{prefix}{name}", "–" if value in (None, "") else str(value)))
    return lines


def _source(name: str) -> str:
    return resources.files("mhim_core.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"
