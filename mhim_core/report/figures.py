"""Figures of a run as PNG bytes: the same numbers give the same bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.metrics import Estimate, RocCurve, UndefinedMetricError, roc_curve
from mhim_core.report.canvas import COLOURS, blank_figure, cycle_colours, plain_text, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Scores(NamedTuple):
    """N bags of two classes: (N,) 0 or 1, and (N,) the score of class 1."""

    y_true: Sequence[int]
    y_score: Sequence[float]


class RocSeries(NamedTuple):
    """One model's (or one class's) curves."""

    name: str
    pooled: tuple[Scores, ...]
    """One a seed; their mean is drawn thick."""
    parts: tuple[Scores, ...] = ()
    """Drawn thin behind it; parts of one class have no curve and are left out."""
    estimate: Estimate | None = None
    """The pooled AUROC and its interval, for the legend."""


class FitCurve(NamedTuple):
    """One fit's history, an entry per epoch."""

    stage: str
    seed: int
    fold: int
    train_loss: Sequence[float]
    validation: Sequence[float | None]
    """The metric that chose the epoch, or the loss."""
    best_epoch: int
    """0-based index of the epoch whose weights are kept."""


def roc_figure(series: Sequence[RocSeries]) -> bytes:
    """ROC curves: each series' pooled curve, thin ones for its parts. Raises UndefinedMetricError as `roc_curve`."""
    with blank_figure(5.2, 5.0) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        for colour, line in zip(cycle_colours(len(series)), series, strict=True):
            for part in line.parts:
                try:
                    curve = roc_curve(*part)
                except UndefinedMetricError:
                    continue
                axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=colour, alpha=0.3, linewidth=0.9)
            mean = mean_roc([roc_curve(*scores) for scores in line.pooled])
            label = plain_text(line.name, 36) + _estimate_text(line.estimate)
            axes.plot(mean.false_positive_rate, mean.true_positive_rate, color=colour, linewidth=2, label=label)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_aspect("equal")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        return png_bytes(figure)


class MeanRoc(NamedTuple):
    """(P,) each, from (0, 0) to (1, 1)."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]


def mean_roc(curves: Sequence[RocCurve]) -> MeanRoc:
    """The mean true positive rate at each false positive rate: the area below it is the mean of the areas.

    Where curves rise steeply, so does the mean: at each rate it has the mean of their lower and of their upper ends.
    """
    if len(curves) == 1:
        return MeanRoc(curves[0].false_positive_rate, curves[0].true_positive_rate)
    rates = np.unique(np.concatenate([curve.false_positive_rate for curve in curves]))
    ends = []
    for curve in curves:
        x, y = curve.false_positive_rate, curve.true_positive_rate
        first, last = np.searchsorted(x, rates, "left"), np.searchsorted(x, rates, "right") - 1
        between = np.interp(rates, x, y)
        is_point = first <= last
        ends.append(
            [np.where(is_point, y[np.minimum(first, len(x) - 1)], between), np.where(is_point, y[last], between)]
        )
    low, high = np.mean(ends, axis=0)
    return MeanRoc(np.repeat(rates, 2), np.stack([low, high], axis=1).ravel())


def training_figure(curves: Sequence[FitCurve], validation_title: str = "Validation AUROC") -> bytes:
    """Loss and validation by epoch, a line per fit, coloured by fold, a column per stage; a dot marks the kept epoch.

    `validation_title`: of the lower row; where it speaks of a loss the row has no fixed range.
    """
    from matplotlib.ticker import MaxNLocator

    stages = list(dict.fromkeys(curve.stage for curve in curves)) or [""]
    folds = sorted({curve.fold for curve in curves})
    colour_of = dict(zip(folds, cycle_colours(len(folds)), strict=True))
    is_loss = "loss" in validation_title.lower()
    with blank_figure(4.2 * len(stages), 5.0, rows=2, columns=len(stages)) as (figure, axes):
        for column, stage in enumerate(stages):
            upper, lower = axes[column], axes[len(stages) + column]
            members = [curve for curve in curves if curve.stage == stage]
            named: set[int] = set()
            for curve in members:
                label = "" if curve.fold in named else f"fold {curve.fold}"
                named.add(curve.fold)
                _fit_line(upper, curve.train_loss, curve, colour_of[curve.fold], label)
                _fit_line(lower, curve.validation, curve, colour_of[curve.fold], label)
            upper.set(title=plain_text(stage), ylabel="Training loss" if column == 0 else "")
            lower.set(xlabel="Epoch", ylabel=validation_title if column == 0 else "")
            lower.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not is_loss:
                lower.set_ylim(-0.03, 1.03)
            if 1 < len(folds) <= 10:
                upper.legend(frameon=False, fontsize=7, ncols=2)
        return png_bytes(figure)


def score_figure(y_true: Sequence[int], probabilities: ArrayLike, classes: Sequence[str]) -> bytes:
    """Each bag's probability by its true class: of the positive class of two, else of the true class.

    `probabilities` (N, C). Bags are spread sideways by their rank so that none hides another.
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


def scatter_figure(
    truth: Sequence[float], predicted: Sequence[float], spread: Sequence[float] = (), title: str = ""
) -> bytes:
    """A regression: each bag's predicted number against the true one, equal on the dashed line.

    `spread`: (N,) drawn as bars, half a one to each side; empty: none. ValueError without a bag.
    """
    if not len(truth):
        raise ValueError("there is no bag to draw")
    with blank_figure(4.8, 4.6) as (figure, (axes,)):
        low, high = min(*truth, *predicted), max(*truth, *predicted)
        margin = 0.05 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color="#bbbbbb", linewidth=0.8, linestyle="--")
        if len(spread):
            axes.errorbar(truth, predicted, yerr=spread, fmt="none", ecolor=COLOURS[0], alpha=0.35, elinewidth=1)
        axes.scatter(truth, predicted, s=18, color=COLOURS[0], alpha=0.7, linewidths=0, zorder=3)
        axes.set(xlabel="True", ylabel="Predicted", xlim=limits, ylim=limits)
        axes.set_aspect("equal")
        axes.set_title(title, loc="left", fontsize=9)
        return png_bytes(figure)


def _fit_line(axes: "Axes", values: Sequence[float | None], curve: FitCurve, colour: str, label: str) -> None:
    y = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    axes.plot(np.arange(1, len(y) + 1), y, color=colour, linewidth=1.2, label=label or "_hidden")
    if 0 <= curve.best_epoch < len(y):
        axes.plot([curve.best_epoch + 1], [y[curve.best_epoch]], marker="o", markersize=4, color=colour)


def _estimate_text(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"\nAUROC {estimate.value:.3f}{interval}"
