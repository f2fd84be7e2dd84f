"""A figure of a flow's steps: their durations and states."""

from collections.abc import Sequence
from typing import NamedTuple

from mhim_core.report.canvas import COLOURS, blank_figure, plain_text, png_bytes

_COLOUR_OF = {"done": COLOURS[2], "failed": COLOURS[1], "started": COLOURS[4]}
_OTHER = "#b8bec8"


class StepBar(NamedTuple):
    """One step."""

    name: str
    state: str
    """done, failed, started, or anything else for a step that was not begun."""
    seconds: float | None
    """Of its last attempt; None where it has not ended."""


def step_figure(bars: Sequence[StepBar]) -> bytes:
    """PNG: a bar a step, the first at the top, with its state and seconds in words beside it. At least one step."""
    with blank_figure(6.4, 0.6 + 0.32 * len(bars)) as canvas:
        (axes,) = canvas.axes
        places = range(len(bars))
        widths = [bar.seconds or 0.0 for bar in bars]
        axes.barh(places, widths, color=[_COLOUR_OF.get(bar.state, _OTHER) for bar in bars], height=0.62)
        widest = max(widths) or 1.0
        for place, bar in zip(places, bars, strict=True):
            words = bar.state if bar.seconds is None else f"{bar.state}, {bar.seconds:,.1f} s"
            axes.text((bar.seconds or 0.0) + widest * 0.012, place, words, va="center", fontsize=8)
        axes.set_yticks(list(places), [plain_text(bar.name) for bar in bars])
        axes.set_xlim(0, widest * 1.28)
        axes.set_xlabel("seconds")
        axes.invert_yaxis()
        return png_bytes(canvas.figure)
