"""One self-contained HTML page per run: no scripts, no requests, images inside; the same data gives the same bytes."""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from mhim_core.metrics import METRICS, Estimate, Metric
from mhim_core.report.data import Prediction, ReportData
from mhim_core.report.images import media_type

RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis, nor for decisions about patients."
MAX_PREDICTIONS = 500
"""Rows on the page; the exported table has them all."""


class PredictionRow(NamedTuple):
    """A prediction as the page shows it."""

    prediction: Prediction
    error: float | None
    """1 − the probability given to the true class; None without a label."""


def render_report(data: ReportData) -> str:
    """The page. Raises ValueError if an image is neither PNG nor JPEG."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=format_number, estimate=format_estimate, image=data_uri, facts=flatten_facts, percent=_percent
    )
    source = resources.files("mhim_core.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    rows = sort_by_error(data.predictions, data.classes)
    return environment.from_string(source).render(
        data=data,
        research_use=RESEARCH_USE,
        metric_titles={name: definition.title for name, definition in METRICS.items()},
        metric_arrows={name: "↑" if definition.higher_is_better else "↓" for name, definition in METRICS.items()},
        metrics=metric_names(data),
        fold_metrics=[name for name in METRICS if any(name in fold.metrics for fold in data.folds)],
        reported=next((model for model in data.models if model.is_reported), None),
        predictions=rows[:MAX_PREDICTIONS],
        num_hidden=max(0, len(rows) - MAX_PREDICTIONS),
    )


def metric_names(data: ReportData) -> list[str]:
    """The metrics that any model has, in the order of METRICS."""
    return [name for name in METRICS if any(name in model.estimates for model in data.models)]


def sort_by_error(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[PredictionRow]:
    """Worst first; then slides without a label, the most probably positive first; ties by id."""

    def error(prediction: Prediction) -> float | None:
        if prediction.label is None or prediction.label not in classes:
            return None
        return 1 - prediction.probabilities[classes.index(prediction.label)]

    rows = [PredictionRow(prediction, error(prediction)) for prediction in predictions]
    return sorted(
        rows,
        key=lambda row: (
            row.error is None,
            -(row.error if row.error is not None else row.prediction.probabilities[-1]),
            row.prediction.slide_id,
        ),
    )


def format_number(value: float | None, digits: int = 3) -> str:
    """`0.912`; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def format_estimate(estimate: Estimate | Metric) -> str:
    """`0.912 [0.85, 0.96]`, or a dash."""
    low, high = getattr(estimate, "low", None), getattr(estimate, "high", None)
    interval = "" if low is None else f" [{format_number(low)}, {format_number(high)}]"
    return format_number(estimate.value) + interval


def data_uri(image: bytes) -> str:
    """The image inside the page."""
    return f"data:{media_type(image)};base64,{base64.b64encode(image).decode()}"


class Fact(NamedTuple):
    """One line of a list of facts."""

    name: str
    value: str


def flatten_facts(facts: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """Nested mappings as `transform.mean`, lists on one line, None as a dash; in the mapping's order."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += flatten_facts(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append(Fact(f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append(Fact(f"{prefix}{name}", "–" if value is None else str(value)))
    return lines


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"
