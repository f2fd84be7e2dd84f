"""The model card: a Markdown page that travels with the model's weights."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mhim_core.metrics import METRICS
from mhim_core.report.data import ReportData
from mhim_core.report.page import RESEARCH_USE, flatten_facts, format_estimate, format_number, metric_names


def model_card(data: ReportData, *, licence: str = "", model_sha256: str = "") -> str:
    """The card of the run's reported model. `licence`: of the weights, as their owner states it."""
    cohort = data.cohort
    classes = ", ".join(f"{escape(name)} ({cohort.num_per_class.get(name, 0)} slides)" for name in data.classes)
    positive = f" The positive class is **{escape(data.classes[1])}**." if len(data.classes) == 2 else ""
    sections = [
        f"# {escape(data.title)}",
        f"> {RESEARCH_USE}",
        f"{escape(data.task)}{positive}",
        "## Intended use",
        "Research on digitised slides prepared and scanned like those below. Predictions are slide-level probabilities "
        "with an attention map; attention shows what the model weighed, not where disease is.",
        "Out of scope: diagnosis, triage of patients, other stains, organs, scanners or resolutions than those it was "
        "tested on.",
        "## Data",
        _bullets(
            {
                "Cohort": f"{cohort.name}: {cohort.num_slides} slides of {cohort.num_patients} patients",
                "Without features": f"{cohort.num_empty} without tissue, {cohort.num_failed} failed",
                **({"Enlarged": f"{len(cohort.upsampled)} slides coarser than the target"} if cohort.upsampled else {}),
            }
        ),
        f"Classes: {classes}." if classes else "",
        *_section("Tile encoder", data.encoder),
        *_section("Tiles", data.tiling),
        *_section("Training", data.training),
        "## Evaluation",
        _results(data),
        escape(data.protocol),
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


def _section(title: str, facts: Mapping[str, Any]) -> Sequence[str]:
    return [f"## {title}", _bullets({fact.name: fact.value for fact in flatten_facts(facts)})] if facts else []


def _bullets(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts.items())


def _results(data: ReportData) -> str:
    names = metric_names(data)
    if not names:
        return "Not evaluated."
    lines = ["| Model | " + " | ".join(METRICS[name].title for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for model in data.models:
        cells = [
            format_estimate(model.estimates[name]) if name in model.estimates else format_number(None) for name in names
        ]
        title = f"**{escape(model.name)}**" if model.is_reported else escape(model.name)
        lines.append(f"| {title} | " + " | ".join(cell.replace("[", "\\[") for cell in cells) + " |")
    return "\n".join(lines)
