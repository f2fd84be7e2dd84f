"""The canvas of all figures: the same numbers give the same PNG bytes. No pyplot, no user's matplotlibrc."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 144
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
"""Okabe and Ito's palette, distinguishable with any colour vision."""


def cycle_colours(num: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(num)]


def plain_text(text: str, max_chars: int = 28) -> str:
    """Untrusted text on one line, shortened."""
    text = " ".join(text.split()) or "–"
    text = " " + text if text.startswith("_") else text  # a leading underscore hides a label from the legend
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


class Canvas(NamedTuple):
    """An empty figure of matplotlib with its axes, row by row."""

    figure: "Figure"
    axes: "list[Axes]"


@contextmanager
def blank_figure(
    width_in: float, height_in: float, *, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> Iterator[Canvas]:
    """Empty axes, row by row; `heights`: of the rows, relative."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Any: matplotlib types the keys as a literal of all its settings
    style: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.titlesize": 10}
    style["text.parse_math"] = False  # a label may hold dollar signs
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # a label in a script the font lacks is drawn as boxes; the tables show it correctly
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
        yield Canvas(figure, list(axes.ravel()))


def png_bytes(figure: "Figure") -> bytes:
    """The same figure gives the same bytes: no date and no version is written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
