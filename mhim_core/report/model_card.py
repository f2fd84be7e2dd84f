"""The model card: a Markdown page that travels with the model's weights."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mhim_core.metrics import METRICS, Estimate
from mhim_core.report.data import CohortSummary, ReportData
from mhim_core.report.frame import RESEARCH_USE, flatten_facts
from mhim_core.report.numbers import format_estimate, format_number, format_p
from mhim_core.report.page import CALIBRATION_METRICS, decision_names, metric_names
from mhim_core.report.wording import OUT_OF_SCOPE, intended_use


def model_card(data: ReportData, *, licence: str = "", model_sha256: str = "") -> str:
    """The card of the run's reported model. `licence`: of the weights, as their owner states it."""
    positive = f" The positive class is **{escape(data.classes[1])}**." if len(data.classes) == 2 else ""
    sections = [
        f"# {escape(data.title)}",
        f"> {RESEARCH_USE}",
        f"{escape(data.task)}{positive}",
        "## Intended use",
        intended_use(data.kind, data.unit),
        OUT_OF_SCOPE,
        "## Data",
        _bullets(_cohort(data.cohort)),
        f"Classes: {_classes(data)}." if data.classes else "",
        *_section("Tile encoder", data.encoder),
        *_section("Tiles", data.tiling),
        *_section("Training", data.training),
        "## Evaluation",
        _results(data),
        escape(data.protocol),
        *_sites(data),
        *_calibration(data),
        *_decisions(data),
        *_risk_groups(data),
        *(["## Limitations", "\n".join(f"- {escape(note)}" for note in data.notes)] if data.notes else []),
        *_section(
            "Provenance",
            {
                **data.provenance,
                **({"weights sha256": model_sha256} if model_sha256 else {}),
                **({"licence": licence} if licence else {}),
            },
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: str) -> str:
    """Untrusted text as text: no markup, no HTML, no line breaks."""
    return re.sub(r"([\\`*_{}\[\]#|!])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _cohort(cohort: CohortSummary) -> dict[str, str]:
    return {
        "Cohort": f"{cohort.name}: {cohort.num_slides} slides of {cohort.num_patients} patients",
        **cohort.targets,
        "Without features": f"{cohort.num_empty} without tissue, {cohort.num_failed} failed",
        **({"Enlarged": f"{len(cohort.upsampled)} slides coarser than the target"} if cohort.upsampled else {}),
    }


def _classes(data: ReportData) -> str:
    return ", ".join(f"{escape(name)} ({data.cohort.num_per_class.get(name, 0)} slides)" for name in data.classes)


def _section(title: str, facts: Mapping[str, Any]) -> Sequence[str]:
    return [f"## {title}", _bullets({fact.name: fact.value for fact in flatten_facts(facts)})] if facts else []


def _bullets(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts.items())


def _results(data: ReportData) -> str:
    names = metric_names(data)
    if not names:
        return "Not evaluated."
    lines = [
        [_model_title(model.name, model.is_reported), *_estimates(names, model.estimates)] for model in data.models
    ]
    return _table(["Model", *(METRICS[name].title for name in names)], lines)


def _sites(data: ReportData) -> list[str]:
    if not data.sites:
        return []
    names = metric_names(data)
    lines = [
        [escape(site.name), str(site.num_bags), str(site.num_patients), *_estimates(names, site.estimates)]
        for site in data.sites
    ]
    head = ["Site", f"{data.unit.capitalize()}s", "Patients", *(METRICS[name].title for name in names)]
    return ["### By site", escape(data.site_note), _table(head, lines)]


def _calibration(data: ReportData) -> list[str]:
    models = [model for model in data.models if model.calibration is not None]
    if not models:
        return []
    lines = []
    for model in models:
        for when, part in zip(("before", "after temperature"), model.calibration or (), strict=True):
            lines.append([_model_title(model.name, model.is_reported), when, *_estimates(CALIBRATION_METRICS, part)])
    table = _table(["Model", "Probabilities", *(METRICS[name].title for name in CALIBRATION_METRICS)], lines)
    chosen = "Each fit's temperature was chosen on its own validation, never on test."
    return ["### Calibration", f"{chosen} The models give the probabilities before it.", table]


def _decisions(data: ReportData) -> list[str]:
    names = decision_names(data.models)
    if not names:
        return []
    rule = (
        f"{escape(data.classes[1])} is predicted from each fit's own threshold on, chosen by Youden's J on validation."
    )
    lines = [
        [_model_title(model.name, model.is_reported), *_estimates(names, model.decisions)] for model in data.models
    ]
    return ["### Decisions at thresholds", rule, _table(["Model", *(METRICS[name].title for name in names)], lines)]


def _risk_groups(data: ReportData) -> list[str]:
    lines = [
        [
            _model_title(model.name, model.is_reported),
            str(group.seed),
            str(group.num_high),
            str(group.num_low),
            format_number(group.statistic, 2),
            format_p(group.p),
        ]
        for model in data.models
        for group in model.risk_groups
    ]
    if not lines:
        return []
    rule = "Split at the median risk of each fit's own validation; the test is log-rank's."
    return ["### Risk groups", rule, _table(["Model", "Seed", "High risk", "Low risk", "χ²", "p"], lines)]


def _estimates(names: Sequence[str], estimates: Mapping[str, Estimate]) -> list[str]:
    cells = [format_estimate(estimates[name], name) if name in estimates else format_number(None) for name in names]
    return [cell.replace("[", "\\[") for cell in cells]


def _model_title(name: str, is_reported: bool) -> str:
    return f"**{escape(name)}**" if is_reported else escape(name)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown. Cells are made of escaped text and of numbers."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
