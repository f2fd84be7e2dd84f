"""Figures of a run as PNG bytes: the same numbers give the same bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics import Estimate, UndefinedMetricError, reliability_curve, roc_curve
from mhim_core.report.canvas import COLOURS, blank_figure, cycle_colours, plain_text, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Scores(NamedTuple):
    """N slides of two classes: (N,) 0 or 1, and (N,) the score of class 1."""

    y_true: Sequence[int]
    y_score: Sequence[float]


class RocSeries(NamedTuple):
    """One model's (or one class's) curves."""

    name: str
    pooled: Scores
    folds: tuple[Scores, ...] = ()
    """Drawn thin behind the pooled curve; folds of one class have no curve and are left out."""
    estimate: Estimate | None = None
    """The pooled AUROC and its interval, for the legend."""


class FitCurve(NamedTuple):
    """One fit's history, an entry per epoch."""

    stage: str
    fold: int
    train_loss: Sequence[float]
    validation_metric: Sequence[float | None]
    best_epoch: int
    """0-based index of the epoch whose weights are kept."""


def roc_figure(series: Sequence[RocSeries]) -> bytes:
    """ROC curves: each series' pooled curve, thin ones for its folds. Raises UndefinedMetricError as `roc_curve`."""
    with blank_figure(5.2, 5.0) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        for colour, one in zip(cycle_colours(len(series)), series, strict=True):
            for fold in one.folds:
                try:
                    curve = roc_curve(*fold)
                except UndefinedMetricError:
                    continue
                axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=colour, alpha=0.3, linewidth=0.9)
            curve = roc_curve(*one.pooled)
            label = plain_text(one.name) + _estimate_text(one.estimate)
            axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=colour, linewidth=2, label=label)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_aspect("equal")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        return png_bytes(figure)


def training_figure(curves: Sequence[FitCurve], metric_name: str = "Validation AUROC") -> bytes:
    """Loss and validation metric by epoch, a line per fold, a column per stage; a dot marks the kept epoch."""
    stages = list(dict.fromkeys(curve.stage for curve in curves)) or [""]
    with blank_figure(4.2 * len(stages), 5.0, rows=2, columns=len(stages)) as (figure, axes):
        for column, stage in enumerate(stages):
            loss, metric = axes[column], axes[len(stages) + column]
            members = [curve for curve in curves if curve.stage == stage]
            for colour, curve in zip(cycle_colours(len(members)), members, strict=True):
                _fit_line(loss, curve.train_loss, curve, colour)
                _fit_line(metric, curve.validation_metric, curve, colour)
            loss.set(title=plain_text(stage), ylabel="Training loss" if column == 0 else "")
            metric.set(xlabel="Epoch", ylabel=metric_name if column == 0 else "", ylim=(-0.03, 1.03))
            if 1 < len(members) <= 10:
                loss.legend(frameon=False, fontsize=7, ncols=2)
        return png_bytes(figure)


def score_figure(y_true: Sequence[int], probabilities: ArrayLike, classes: Sequence[str]) -> bytes:
    """Each slide's probability by its true class: of the positive class of two, else of the true class.

    `probabilities` (N, C). Slides are spread sideways by their rank so that none hides another.
    """
    truth, probability_NC = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    binary = len(classes) == 2
    value_N = probability_NC[:, 1] if binary else probability_NC[np.arange(len(truth)), truth]
    with blank_figure(max(3.6, 1.3 * len(classes) + 1.4), 4.2) as (figure, (axes,)):
        for index, colour in enumerate(cycle_colours(len(classes))):
            values = np.sort(value_N[truth == index])
            if len(values):
                axes.boxplot(values, positions=[index], widths=0.55, showfliers=False, medianprops={"color": "#222222"})
            # a fixed low-discrepancy spread: neighbours in value lie apart
            offset = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.36
            axes.scatter(index + offset, values, s=14, color=colour, alpha=0.75, linewidths=0, zorder=3)
        axes.set(
            ylabel=f"P({plain_text(classes[1])})" if binary else "Probability of the true class",
            xlabel="True class",
            ylim=(-0.03, 1.03),
            xlim=(-0.6, len(classes) - 0.4),
        )
        axes.set_xticks(range(len(classes)), [plain_text(name) for name in classes])
        return png_bytes(figure)


def calibration_figure(y_true: Sequence[int], probabilities: ArrayLike, num_bins: int = 10) -> bytes:
    """Reliability diagram: accuracy against the top class's probability, dots by the number of slides."""
    curve = reliability_curve(y_true, probabilities, num_bins)
    with blank_figure(4.4, 4.2) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        filled = curve.num_slides > 0
        confidence, accuracy, count = curve.confidence[filled], curve.accuracy[filled], curve.num_slides[filled]
        axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=1, alpha=0.6)
        axes.scatter(confidence, accuracy, s=18 + 160 * count / count.max(), color=COLOURS[0], zorder=3)
        for x, y, number in zip(confidence, accuracy, count, strict=True):
            axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(0, 9), ha="center", fontsize=7)
        axes.set(xlabel="Probability of the predicted class", ylabel="Share correct", xlim=(0, 1.03), ylim=(-0.03, 1.1))
        return png_bytes(figure)


def _fit_line(axes: "Axes", values: Sequence[float | None], curve: FitCurve, colour: str) -> None:
    y = np.array([np.nan if value is None else value for value in values])
    axes.plot(np.arange(1, len(y) + 1), y, color=colour, linewidth=1.2, label=f"fold {curve.fold}")
    if 0 <= curve.best_epoch < len(y):
        axes.plot([curve.best_epoch + 1], [y[curve.best_epoch]], marker="o", markersize=4, color=colour)


def _estimate_text(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"\nAUROC {estimate.value:.3f}{interval}"
