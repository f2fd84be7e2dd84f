"""The figures of an evaluated run, by its task: from held-out rows and the evaluation's document."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mhim_core.evaluation.calibration import Temperature, calibrated_probabilities
from mhim_core.evaluation.held_out import (
    FitId,
    Rows,
    by_fit,
    by_seed,
    class_probabilities,
    class_targets,
    follow_up,
    logits_of,
    repeated_bags,
)
from mhim_core.evaluation.risk_groups import log_rank_of, risk_groups
from mhim_core.metrics import METRICS, Estimate, UndefinedMetricError, ranking_scores
from mhim_core.report.data import ClassOutput, NumberOutput, ReportFigure
from mhim_core.report.evaluation_figures import FollowedGroup, reliability_figure, survival_figure
from mhim_core.report.figures import (
    FitCurve,
    RocSeries,
    Scores,
    roc_figure,
    scatter_figure,
    score_figure,
    training_figure,
)
from mhim_core.report.numbers import format_metric
from mhim_core.report.predictions import mean_predictions
from mhim_core.task import Task, TaskKind


class EvaluatedRun(NamedTuple):
    """The data of the figures."""

    test_rows: Rows
    """Of all models."""
    validation_rows: Rows
    task: Task
    unit: str
    """What a bag is: slide or patient."""
    metrics: Mapping[str, Any]
    """The evaluation's document, with the name of the reported model."""

    @property
    def reported(self) -> str:
        return str(self.metrics["reported"])

    def of_model(self, name: str) -> Rows:
        return [row for row in self.test_rows if row.model == name]


def run_figures(run: EvaluatedRun, fits: Sequence[FitCurve], selected_by: str) -> Iterator[ReportFigure]:
    """In the order of the page; what is undefined has no figure. `selected_by`: the name of a metric, or loss."""
    yield from {
        TaskKind.classification: _classification,
        TaskKind.survival: _survival,
        TaskKind.regression: _regression,
    }[run.task.kind](run)
    title = METRICS[selected_by].title if selected_by in METRICS else "loss"
    caption = "Dots mark the epochs that were kept." + (" A line is a fit." if len(run.metrics["seeds"]) > 1 else "")
    yield ReportFigure("Training", training_figure(fits, f"Validation {title}"), caption)


def _classification(run: EvaluatedRun) -> Iterator[ReportFigure]:
    num_seeds = len(run.metrics["seeds"])
    thin = "thin: single folds" if num_seeds == 1 else f"thin: the {num_seeds} seeds, thick: their mean"
    if run.metrics["num_repeated_bags"]:
        thin = "thin: single fits, thick: their mean"
    with suppress(UndefinedMetricError):  # the AUROC's own line on the page says why
        yield ReportFigure("ROC", roc_figure(_roc_series(run)), f"Held-out {run.unit}s; {thin}.")
    rows = run.of_model(run.reported)
    predictions = mean_predictions(rows, run.task)
    outputs = [prediction.output for prediction in predictions if isinstance(prediction.output, ClassOutput)]
    truth = [run.task.classes.index(str(output.label)) for output in outputs]
    mean = f", its mean over {num_seeds} seeds" if num_seeds > 1 else ""
    yield ReportFigure(
        "Scores",
        score_figure(truth, [output.probabilities for output in outputs], run.task.classes),
        f"Each dot is a held-out {run.unit}{mean}.",
    )
    before = class_probabilities(rows)
    after = _calibrated(run, rows)
    dots = f"Dots by number of {run.unit}s" if num_seeds == 1 else f"Dots by number of predictions, {num_seeds} a bag"
    chosen = "; each fit's temperature is chosen on its validation." if after is not None else "."
    yield ReportFigure("Calibration", reliability_figure(class_targets(rows), before, after), dots + chosen)


def _survival(run: EvaluatedRun) -> Iterator[ReportFigure]:
    rows = run.of_model(run.reported)
    try:
        groups = risk_groups(rows, [row for row in run.validation_rows if row.model == run.reported])
    except UndefinedMetricError:
        return  # the table of risk groups says why
    seed, seed_groups = next(iter(groups.items()))
    try:
        test = log_rank_of(seed_groups)
    except UndefinedMetricError:
        test = None
    drawn = []
    for name, wanted in (("high risk", True), ("low risk", False)):
        members = [row for row, is_high in zip(seed_groups.rows, seed_groups.is_high, strict=True) if is_high is wanted]
        drawn.append(FollowedGroup(name, *follow_up(row.target for row in members)))
    of_seed = f" Seed {seed}." if len(groups) > 1 else ""
    yield ReportFigure(
        "Risk groups",
        survival_figure(drawn, test),
        f"Held-out {run.unit}s, split at the median risk of each fit's validation; bands are 95 % intervals, ticks "
        f"censorings.{of_seed}",
    )


def _regression(run: EvaluatedRun) -> Iterator[ReportFigure]:
    predictions = mean_predictions(run.of_model(run.reported), run.task)
    outputs = [prediction.output for prediction in predictions if isinstance(prediction.output, NumberOutput)]
    pooled = {name: Estimate(**estimate) for name, estimate in run.metrics["models"][run.reported]["pooled"].items()}
    text = ", ".join(f"{METRICS[name].title} {format_metric(pooled[name].value, name)}" for name in ("mae", "r2"))
    spread = [output.spread for output in outputs if output.spread is not None]
    bars = " Bars: standard deviation over seeds." if spread else ""
    yield ReportFigure(
        "Predicted and true",
        scatter_figure(
            [output.truth for output in outputs if output.truth is not None],
            [output.predicted for output in outputs],
            spread,
            text,
        ),
        f"Each dot is a held-out {run.unit}; on the dashed line both are equal.{bars}",
    )


def _roc_series(run: EvaluatedRun) -> list[RocSeries]:
    classes = run.task.classes
    if len(classes) > 2:
        rows = run.of_model(run.reported)
        return [_series(f"{name} against rest", rows, index, None) for index, name in enumerate(classes)]
    return [
        _series(name, run.of_model(name), 1, Estimate(**model["pooled"]["auroc"]))
        for name, model in run.metrics["models"].items()
    ]


def _series(title: str, rows: Rows, column: int, estimate: Estimate | None) -> RocSeries:
    def scores(members: Rows) -> Scores:
        ranking = ranking_scores(logits_of(members))[:, column]
        return Scores([int(index == column) for index in class_targets(members)], ranking.tolist())

    if repeated_bags(rows):
        fits = tuple(
            fit_scores for fit_scores in map(scores, by_fit(rows).values()) if len(set(fit_scores.y_true)) == 2
        )
        return RocSeries(title, fits or (scores(rows),), fits, estimate)
    seeds = list(by_seed(rows).values())
    if len(seeds) > 1:
        pooled = tuple(scores(members) for members in seeds)
        return RocSeries(title, pooled, pooled, estimate)
    folds = sorted({row.fold for row in rows})
    parts = tuple(scores([row for row in rows if row.fold == fold]) for fold in folds) if len(folds) > 1 else ()
    return RocSeries(title, (scores(seeds[0]),), parts, estimate)


def _calibrated(run: EvaluatedRun, rows: Rows) -> Any:
    """(N, C) probabilities at each fit's temperature, or None where a fit has none."""
    fits = run.metrics["models"][run.reported]["calibration"]["fits"]
    chosen = {FitId(fit["seed"], fit["fold"]): Temperature(fit["value"]) for fit in fits}
    if any(temperature.value is None for temperature in chosen.values()):
        return None
    return calibrated_probabilities(rows, chosen)
