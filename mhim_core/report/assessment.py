"""One self-contained page: challenger and champion, the checks, and why the model was promoted or not."""

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

from mhim_core.metrics import METRICS
from mhim_core.report.numbers import format_difference, format_metric
from mhim_core.report.page import RESEARCH_USE, data_uri
from mhim_core.report.step_figure import StepBar, step_figure

_VERDICTS = {"promoted": "Promoted", "kept": "Not promoted", "superseded": "Overtaken"}
_CHECKS = {
    "new_model": "Another model than the champion",
    "same_encoder": "Same tile encoder",
    "same_tiling": "Same tiling",
    "same_task": "Same task",
    "declared_changes": "Only declared changes",
    "not_withdrawn": "Not rolled back before",
    "holdout_unseen": "Holdout never trained on",
    "holdout_unchanged": "Holdout as it was frozen",
    "holdout_predicted": "Every holdout bag predicted",
    "finite": "No NaN",
    "floor": "Absolute floor",
    "non_inferior": "Not inferior",
    "brier": "Brier score",
    "never_miss": "Never-miss list",
}


class Assessment(NamedTuple):
    """The content of the page. `record` is plain JSON, as the flow stores it."""

    name: str
    """The model's."""
    flow: str
    outcome: str
    """promoted | kept | superseded."""
    sentence: str
    """The outcome in a sentence."""
    record: Mapping[str, Any]
    """{champion, challenger, decision, …}: the assessment."""
    steps: tuple[StepBar, ...]
    places: Mapping[str, str]
    """Addresses to show, by name."""


class FigureRow(NamedTuple):
    """A metric of both models."""

    name: str
    title: str
    arrow: str
    champion: Mapping[str, Any] | None
    challenger: Mapping[str, Any]


class CheckRow(NamedTuple):
    """A check of the gate."""

    title: str
    word: str
    """passed | failed | not made."""
    reason: str


def render_assessment(assessment: Assessment) -> str:
    """The page; the same assessment gives the same bytes."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {"estimate": _estimate, "difference": format_difference}
    decision = assessment.record["decision"]
    return environment.get_template("assessment.html.j2").render(
        assessment=assessment,
        record=assessment.record,
        verdict=_VERDICTS[assessment.outcome],
        figures=list(_figures(decision["figures"])),
        gain=decision["figures"].get("gain"),
        metric=decision["figures"].get("metric", ""),
        metric_title=_title(decision["figures"].get("metric", "")),
        checks=[_check(check) for check in decision["checks"]],
        steps_picture=data_uri(step_figure(assessment.steps)) if assessment.steps else "",
        research_use=RESEARCH_USE,
    )


def _figures(figures: Mapping[str, Any]) -> Iterator[FigureRow]:
    champion = figures.get("champion")
    for name, estimate in figures.get("challenger", {}).items():
        higher = METRICS[name].higher_is_better if name in METRICS else True
        yield FigureRow(name, _title(name), "↑" if higher else "↓", champion and champion.get(name), estimate)


def _title(name: str) -> str:
    return METRICS[name].title if name in METRICS else name.replace("_", " ")


def _estimate(value: Mapping[str, Any] | None, name: str) -> str:
    """`0.912 [0.85, 0.96]`, a dash, or why there is no value."""
    if value is None:
        return "–"
    if value["value"] is None:
        return str(value["reason"]) or "–"
    if value["low"] is None:
        return format_metric(value["value"], name)
    low, high = (format_metric(value[end], name) for end in ("low", "high"))
    return f"{format_metric(value['value'], name)} [{low}, {high}]"


def _source(name: str) -> str:
    return resources.files("mhim_core.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _check(check: Mapping[str, Any]) -> CheckRow:
    name, _, site = check["name"].partition("/")
    title = _CHECKS.get(name, name.replace("_", " ")) + (f", site {site}" if site else "")
    word = {True: "passed", False: "failed", None: "not made"}[check["passed"]]
    return CheckRow(title, word, check["reason"])
