"""The first screen of a page: the main figure with its interval beside the plain baseline's, counts, and a picture."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mhim_core.metrics import METRICS, Estimate
from mhim_core.report.data import ClassOutput, ModelResult, Prediction, ReportData, SlidePanel
from mhim_core.report.numbers import format_amount, format_metric, format_number
from mhim_core.report.predictions import height
from mhim_core.task import TaskKind

MAIN_METRICS = {
    TaskKind.classification: ("auroc", "balanced_accuracy"),
    TaskKind.survival: ("harrell_c", "uno_c"),
    TaskKind.regression: ("mae", "r2"),
}
"""By task the metric that the first screen is about, and one beside it."""
_CHANCE, _GUESSED = 0.5, ("auroc", "harrell_c", "uno_c")
"""What guessing reaches of metrics that are shares of pairs in the right order."""
_BASELINE = "plain"


class Bar(NamedTuple):
    """A value with its interval on a scale; places are percent of the scale's length, None where there is no value."""

    name: str
    text: str
    interval: str
    """`0.86 to 0.99`; empty: none."""
    reason: str
    """Why there is no value."""
    at: float | None
    low: float | None
    high: float | None
    is_main: bool


class Scale(NamedTuple):
    """What the bars are drawn on."""

    low: str
    high: str
    chance: float | None
    """Percent at which guessing lies; None: the metric has no such value."""


class Finding(NamedTuple):
    """The main metric of every model of the page."""

    metric: str
    title: str
    arrow: str
    main: Bar
    bars: tuple[Bar, ...]
    """The main model first."""
    scale: Scale
    second: str
    """Another metric in a few words; empty: none."""


class Count(NamedTuple):
    """A number of the first screen."""

    number: str
    words: str
    target: str = ""
    """The section that it is about; empty: none."""
    is_bad: bool = False


class Shown(NamedTuple):
    """The slide whose pictures are on the first screen."""

    panel: SlidePanel
    why: str


def finding_of(data: ReportData) -> Finding | None:
    """The models of a page by the task's main metric; None where the reported one has no such figure."""
    metric, second = MAIN_METRICS[data.kind]
    models = sorted(
        (model for model in data.models if metric in model.estimates), key=lambda model: not model.is_reported
    )
    if not models or not models[0].is_reported:
        return None
    beside = models[0].estimates.get(second)
    words = "" if beside is None or beside.value is None else f"{METRICS[second].title} {_metric(beside, second)}"
    return compared(metric, {_name(model): model.estimates[metric] for model in models}, words)


def compared(metric: str, estimates: Mapping[str, Estimate], second: str = "") -> Finding:
    """Estimates of one metric by name, the main one first; `second`: another metric of it in a few words.

    Raises ValueError if there is none.
    """
    low, high = _range(list(estimates.values()), metric)
    bars = tuple(
        _bar(name, estimate, metric, (low, high), is_main=place == 0)
        for place, (name, estimate) in enumerate(estimates.items())
    )
    if not bars:
        raise ValueError("there is no estimate to show")
    return Finding(
        metric=metric,
        title=METRICS[metric].title,
        arrow="↑" if METRICS[metric].higher_is_better else "↓",
        main=bars[0],
        bars=bars,
        scale=Scale(
            format_amount(low),
            format_amount(high),
            100 * (_CHANCE - low) / (high - low) if metric in _GUESSED else None,
        ),
        second=second,
    )


def headline_of(data: ReportData) -> Count | None:
    """Of a page without figures: what was predicted."""
    return next(_predicted(data), None) if finding_of(data) is None else None


def counts_of(data: ReportData) -> tuple[Count, ...]:
    """Slides and patients, right and wrong predictions (or what was predicted), slides that have none."""
    cohort, headline = data.cohort, headline_of(data)
    return (
        Count(f"{cohort.num_slides:,}", f"slides of {cohort.num_patients:,} patients", "settings"),
        *(count for count in _predicted(data) if count != headline),
        *_missing(data),
    )


def shown_slide(data: ReportData) -> Shown | None:
    """The surest right positive of the slides with a picture; without labels the surest positive, of numbers and risks
    the highest; else the first. None: there is no picture."""
    panels = [panel for panel in data.panels if panel.prediction is not None]
    if not panels:
        return None
    if data.kind is not TaskKind.classification:
        panel = max(panels, key=lambda panel: height(_prediction(panel)))
        word = "risk" if data.kind is TaskKind.survival else "prediction"
        return Shown(panel, f"the slide with the highest {word} of those below")
    right = [panel for panel in panels if _is_right(panel, data.classes)]
    unlabelled = [panel for panel in panels if _output(panel).label is None]
    for candidates, words in ((right, "surest right"), (unlabelled, "surest")):
        positive = [panel for panel in candidates if _is_positive(panel, data.classes)] or candidates
        if positive:
            kind = f" {data.classes[1]}" if _is_positive(positive[0], data.classes) and len(data.classes) == 2 else ""
            panel = max(positive, key=lambda panel: max(_output(panel).probabilities))
            return Shown(panel, f"the {words}{kind} prediction of the slides below")
    return Shown(panels[0], "the first of the slides below; no prediction among them is right")


def _range(estimates: Sequence[Estimate], metric: str) -> tuple[float, float]:
    ends = [end for estimate in estimates for end in (estimate.value, estimate.low, estimate.high) if end is not None]
    if metric in _GUESSED:
        return (_CHANCE if min(ends, default=0.0) >= _CHANCE else 0.0), 1.0
    low, high = min([0.0, *ends]), max(ends, default=0.0)
    return low, (high if high > low else low + 1.0)


def _name(model: ModelResult) -> str:
    return f"{model.name} (baseline)" if model.name == _BASELINE and not model.is_reported else model.name


def _bar(name: str, estimate: Estimate, metric: str, ends: tuple[float, float], *, is_main: bool) -> Bar:
    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - ends[0]) / (ends[1] - ends[0]), 2)

    return Bar(
        name=name,
        text=_metric(estimate, metric),
        interval="" if estimate.low is None else _interval(estimate, metric),
        reason=estimate.reason if estimate.value is None else "",
        at=place(estimate.value),
        low=place(estimate.low),
        high=place(estimate.high),
        is_main=is_main,
    )


def _metric(estimate: Estimate, metric: str) -> str:
    return format_metric(estimate.value, metric)


def _interval(estimate: Estimate, metric: str) -> str:
    return f"{format_metric(estimate.low, metric)} to {format_metric(estimate.high, metric)}"


def _predicted(data: ReportData) -> Iterator[Count]:
    outputs = [prediction.output for prediction in data.predictions]
    classes = [output for output in outputs if isinstance(output, ClassOutput)]
    labelled = [output for output in classes if output.label in data.classes]
    if labelled:
        num_wrong = sum(output.label != output.predicted for output in labelled)
        words = f"of {len(labelled):,} labelled {data.unit}s predicted wrong, by the more probable class"
        yield Count(f"{num_wrong:,}", words, "slides" if data.panels else "predictions", num_wrong > 0)
    elif classes:
        [(name, number), *_] = Counter(output.predicted for output in classes).most_common(1)
        if len(data.classes) == 2:
            name, number = data.classes[1], sum(output.predicted == data.classes[1] for output in classes)
        yield Count(f"{number:,}", f"of {len(classes):,} {data.unit}s predicted {name}", "predictions")
    elif outputs:
        values = [height(prediction) for prediction in data.predictions]
        text = format_number if data.kind is TaskKind.survival else format_amount
        what = "risks" if data.kind is TaskKind.survival else "predictions"
        yield Count(
            f"{text(min(values))} to {text(max(values))}", f"{what} of {len(values):,} {data.unit}s", "predictions"
        )


def _missing(data: ReportData) -> Iterator[Count]:
    cohort = data.cohort
    if cohort.num_failed or cohort.num_empty:
        target = "missing" if cohort.failures or cohort.empty else ""
        words = f"slides failed, {cohort.num_empty:,} without tissue"
        yield Count(f"{cohort.num_failed:,}", words, target, cohort.num_failed > 0)


def _prediction(panel: SlidePanel) -> Prediction:
    assert panel.prediction is not None
    return panel.prediction


def _output(panel: SlidePanel) -> ClassOutput:
    output = _prediction(panel).output
    assert isinstance(output, ClassOutput)
    return output


def _is_right(panel: SlidePanel, classes: Sequence[str]) -> bool:
    output = _output(panel)
    return output.label in classes and output.label == output.predicted


def _is_positive(panel: SlidePanel, classes: Sequence[str]) -> bool:
    return len(classes) == 2 and _output(panel).predicted == classes[1]
