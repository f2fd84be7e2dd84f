"""Figures of an evaluation as PNG bytes: survival of risk groups, reliability, paired differences."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.evaluation.comparison import Difference
from mhim_core.metrics import METRICS, NUM_CALIBRATION_BINS, LogRank, ReliabilityCurve, reliability_curve
from mhim_core.report.canvas import COLOURS, blank_figure, cycle_colours, plain_text, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOFT = "#bbbbbb"


class FollowedGroup(NamedTuple):
    """N patients of one group: (N,) times and (N,) whether the event was seen then."""

    name: str
    time: ArrayLike
    event: ArrayLike


def survival_figure(groups: Sequence[FollowedGroup], test: LogRank | None = None, time_label: str = "Time") -> bytes:
    """Kaplan-Meier curves with 95 % bands, censorings as ticks, the log-rank p, and below them the numbers at risk.

    Groups without patients are left out; ValueError if none is left.
    """
    present = [group for group in groups if np.size(group.time)]
    if not present:
        raise ValueError("no group has a patient")
    last = max(float(np.max(group.time)) for group in present)
    heights = (4.0, 0.15 + 0.22 * len(present))
    with blank_figure(5.6, sum(heights) + 0.4, rows=2, heights=heights) as (figure, (curve, table)):
        for colour, group in zip(cycle_colours(len(present)), present, strict=True):
            _kaplan_meier(curve, group, colour)
        curve.set(xlabel=plain_text(time_label), ylabel="Share without event")
        curve.set(xlim=(0, last * 1.02 or 1), ylim=(-0.02, 1.04))
        if test is not None:
            text = f"log-rank p {_p_text(test.p)}"
            curve.text(0.98, 0.97, text, transform=curve.transAxes, ha="right", va="top", fontsize=8)
        curve.legend(loc="lower left", frameon=False, fontsize=8)
        ticks = [tick for tick in curve.get_xticks() if 0 <= tick <= last]
        _at_risk(table, present, ticks, curve.get_xlim())
        return png_bytes(figure)


def reliability_figure(
    y_true: ArrayLike, before: ArrayLike, after: ArrayLike | None = None, num_bins: int = NUM_CALIBRATION_BINS
) -> bytes:
    """Accuracy against the top class's probability before and after the temperature; dots by the number of bags.

    `y_true` (N,) classes, `before` and `after` (N, C) probabilities; `after` None: no temperature, one line. The bins
    are those of the calibration error.
    """
    lines = [("before temperature", before)] if after is None else [("before temperature", before), ("after", after)]
    with blank_figure(4.6, 4.4) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle="--")
        for colour, (name, probabilities) in zip(COLOURS, lines, strict=False):
            _reliability_line(axes, reliability_curve(y_true, probabilities, num_bins), name, colour)
        axes.set(xlabel="Probability of the predicted class", ylabel="Share correct", xlim=(0, 1.03), ylim=(-0.03, 1.1))
        legend = axes.legend(loc="upper left", frameon=False, fontsize=8)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
        return png_bytes(figure)


def comparison_figure(differences: Sequence[Difference]) -> bytes:
    """A panel per metric, a line per pair: the difference with its interval against zero.

    A line without difference says why. ValueError if there are none.
    """
    metrics = list(dict.fromkeys(difference.metric for difference in differences))
    if not metrics:
        raise ValueError("there is no difference to draw")
    counts = [sum(difference.metric == metric for difference in differences) for metric in metrics]
    heights = tuple(0.55 + 0.3 * count for count in counts)
    with blank_figure(6.4, sum(heights) + 0.5, rows=len(metrics), heights=heights) as (figure, axes):
        for panel, metric in zip(axes, metrics, strict=True):
            _difference_panel(panel, metric, [difference for difference in differences if difference.metric == metric])
        axes[-1].set_xlabel("First − second, with its 95 % interval")
        return png_bytes(figure)


def _kaplan_meier(axes: "Axes", group: FollowedGroup, colour: str) -> None:
    with warnings.catch_warnings():
        # on import under a new pandas, and of logarithms of 0 at a curve's end
        warnings.simplefilter("ignore")
        from lifelines import KaplanMeierFitter

        fitter = KaplanMeierFitter().fit(group.time, group.event)
        band = fitter.confidence_interval_survival_function_.to_numpy()
    time, survival = fitter.survival_function_.index.to_numpy(), fitter.survival_function_.to_numpy()[:, 0]
    label = f"{plain_text(group.name)} ({np.size(group.time)})"
    axes.step(time, survival, where="post", color=colour, linewidth=1.8, label=label)
    axes.fill_between(time, band[:, 0], band[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    censored = np.sort(np.asarray(group.time, dtype=np.float64)[~np.asarray(group.event, dtype=bool)])
    height = survival[np.searchsorted(time, censored, side="right") - 1]
    axes.plot(censored, height, linestyle="", marker="|", markersize=6, color=colour)


def _at_risk(
    axes: "Axes", groups: Sequence[FollowedGroup], ticks: Sequence[float], limits: tuple[float, float]
) -> None:
    for line, (colour, group) in enumerate(zip(cycle_colours(len(groups)), groups, strict=True)):
        for tick in ticks:
            number = int((np.asarray(group.time, dtype=np.float64) >= tick).sum())
            axes.text(tick, -line, str(number), color=colour, ha="center", va="center", fontsize=8)
    axes.set(xlim=limits, ylim=(-len(groups) + 0.4, 0.6), xticks=[], yticks=[])
    axes.set_title("At risk", loc="left", fontsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def _reliability_line(axes: "Axes", curve: ReliabilityCurve, name: str, colour: str) -> None:
    filled = curve.num_slides > 0
    confidence, accuracy, count = curve.confidence[filled], curve.accuracy[filled], curve.num_slides[filled]
    axes.plot(confidence, accuracy, color=colour, linewidth=1.2, alpha=0.7, label=name)
    axes.scatter(confidence, accuracy, s=14 + 140 * count / count.max(), color=colour, alpha=0.6, linewidths=0)


def _difference_panel(axes: "Axes", metric: str, members: Sequence[Difference]) -> None:
    axes.axvline(0, color="#666666", linewidth=0.9)
    for line, difference in enumerate(members):
        if difference.difference is None:
            text = "undefined: " + plain_text(difference.reason, 60)
            axes.text(0, -line, text, fontsize=7, color="#666666", ha="center", va="center")
            continue
        apart = (
            difference.low is not None and difference.high is not None and (difference.low > 0 or difference.high < 0)
        )
        colour = COLOURS[0] if apart else "#777777"
        if difference.low is not None and difference.high is not None:
            axes.plot([difference.low, difference.high], [-line, -line], color=colour, linewidth=2)
        axes.plot([difference.difference], [-line], marker="o", markersize=5, color=colour)
    definition = METRICS[metric]
    better = "higher is better" if definition.higher_is_better else "lower is better"
    axes.set_title(f"{definition.title} ({better})", loc="left", fontsize=9)
    axes.set_yticks([-line for line in range(len(members))], [_pair(difference) for difference in members], fontsize=8)
    axes.set_ylim(-len(members) + 0.4, 0.6)
    if all(difference.difference is None for difference in members):
        axes.set_xticks([])
    ends = [
        abs(end)
        for difference in members
        for end in (difference.low, difference.high, difference.difference)
        if end is not None
    ]
    reach = 1.12 * max(ends, default=0.0) or 1.0
    axes.set_xlim(-reach, reach)  # zero in the middle: which side is seen at once


def _pair(difference: Difference) -> str:
    return f"{plain_text(difference.a)} − {plain_text(difference.b)}"
