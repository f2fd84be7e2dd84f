"""The page of a retraining, its impact assessment: both models, the checks, and why it was promoted or not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mhim_core.metrics import METRICS, Estimate
from mhim_core.report.answer import Count, Finding, compared
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.numbers import format_metric
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
    decision = assessment.record["decision"]
    figures = list(_figures(decision["figures"]))
    checks = [_check(check) for check in decision["checks"]]
    return render_page(
        "assessment.html.j2",
        filters={"estimate": _estimate},
        anchors=[
            Anchor("answer", "Outcome"),
            Anchor("checks", "Checks"),
            *([Anchor("figures", "Both models")] if figures else []),
            Anchor("changes", "What changed"),
            *([Anchor("steps", "Steps")] if assessment.steps else []),
            Anchor("places", "Places"),
        ],
        assessment=assessment,
        record=assessment.record,
        verdict=_VERDICTS[assessment.outcome],
        counts=_counts(assessment, checks),
        figures=figures,
        checks=checks,
        finding=_finding(decision["figures"]),
        gain=decision["figures"].get("gain"),
        steps_picture=step_figure(assessment.steps) if assessment.steps else None,
    )


def _finding(figures: Mapping[str, Any]) -> Finding | None:
    """The gate's metric of both models; None where it is not made, or not known here."""
    metric = figures.get("metric", "")
    both = {name: (figures.get(name) or {}).get(metric) for name in ("challenger", "champion")}
    if metric not in METRICS or both["challenger"] is None:
        return None
    return compared(metric, {name: Estimate(**estimate) for name, estimate in both.items() if estimate is not None})


def _counts(assessment: Assessment, checks: Sequence[CheckRow]) -> Iterator[Count]:
    record = assessment.record
    holdout, training = record["holdout"], record["training"]
    num_failed = sum(check.word == "failed" for check in checks)
    yield Count(f"{num_failed}", f"of {len(checks)} checks failed", "checks", num_failed > 0)
    yield Count(
        f"{holdout['patients']}",
        f"holdout patients, {holdout['slides']} slides; this is reading number {record['reading']} of it",
    )
    yield Count(
        f"{training['slides']}",
        f"slides of {training['patients']} patients made the challenger: {record['new']}",
        "changes",
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


def _check(check: Mapping[str, Any]) -> CheckRow:
    name, _, site = check["name"].partition("/")
    title = _CHECKS.get(name, name.replace("_", " ")) + (f", site {site}" if site else "")
    word = {True: "passed", False: "failed", None: "not made"}[check["passed"]]
    return CheckRow(title, word, check["reason"])
