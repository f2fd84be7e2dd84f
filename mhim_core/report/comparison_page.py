"""The page of a comparison: the main metric's difference first, then the figure and every number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mhim_core.evaluation.comparison import Difference
from mhim_core.metrics import METRICS
from mhim_core.report.answer import MAIN_METRICS, Count
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.numbers import format_metric
from mhim_core.task import TaskKind


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Everything on the page."""

    kind: TaskKind
    classes: tuple[str, ...]
    unit: str
    """What a bag is: slide or patient."""
    num_bags: int
    num_patients: int
    replicates: int
    models: Sequence[Mapping[str, Any]]
    """{name, run, model, seeds} each: as `comparison.json` has them."""
    differences: Sequence[Difference]
    figure: bytes
    """Of the differences, PNG."""


def render_comparison(page: ComparisonPage) -> str:
    """The page; the same comparison gives the same bytes."""
    names = [str(model["name"]) for model in page.models]
    metric = MAIN_METRICS[page.kind][0]
    main = next((one for one in page.differences if one.metric == metric), None)
    kinds = {TaskKind.survival: "ranking patients by risk", TaskKind.regression: "predicting a number"}
    task = kinds.get(page.kind) or f"telling {', '.join(page.classes)} apart"
    return render_page(
        "comparison.html.j2",
        filters={"gap": _gap},
        anchors=[
            Anchor("answer", "Answer"),
            Anchor("figure", "All differences"),
            Anchor("table", "In numbers"),
            Anchor("settings", "What was compared"),
        ],
        title=f"Comparison: {', '.join(names)}" if len(names) > 2 else f"Comparison: {' and '.join(names)}",
        question=f"Which of {len(names)} models is better at {task}?",
        main=main,
        verdict="" if main is None else _verdict(main),
        counts=[
            Count(f"{page.num_bags:,}", f"held-out {page.unit}s of {page.num_patients:,} patients"),
            Count(f"{len(names)}", "models", "settings"),
            Count(f"{page.replicates:,}", "bootstrap replicates over patients"),
        ],
        differences=page.differences,
        models=page.models,
        figure=page.figure,
        metric_titles={name: definition.title for name, definition in METRICS.items()},
        metric_arrows={name: "↑" if definition.higher_is_better else "↓" for name, definition in METRICS.items()},
    )


def _gap(value: float | None, metric: str) -> str:
    """A metric's difference, with its sign and as many digits as the metric has."""
    text = format_metric(value, metric)
    return f"+{text}" if value is not None and value > 0 else text


def _verdict(main: Difference) -> str:
    """What the interval says, and no more."""
    if main.low is None or main.high is None:
        return "There is no interval."
    if main.low <= 0 <= main.high:
        return "The interval holds 0: these patients do not tell the two apart."
    is_first = (main.low > 0) == METRICS[main.metric].higher_is_better
    return f"The interval leaves out 0: {main.a if is_first else main.b} is better on these patients."
