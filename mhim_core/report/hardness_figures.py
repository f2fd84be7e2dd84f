"""Points in planes: bags in the spaces of their models and by mean tile features, and tiles. PNG bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.report.canvas import COLOURS, blank_figure, cycle_colours, plain_text, png_bytes

MAX_SPACES = 6
"""Folds drawn; the table has all."""
_MARKERS = {
    HardnessType.safe: "o",
    HardnessType.borderline: "s",
    HardnessType.rare: "^",
    HardnessType.outlier: "X",
}
_COLOUR_OF_TYPE = dict(zip(HardnessType, (COLOURS[6], COLOURS[5], COLOURS[4], COLOURS[1]), strict=True))
_MAX_NAMED = 12
_PER_ROW = 3

Rows = Sequence[Mapping[str, Any]]


def spaces_figure(bags: Rows, classes: Sequence[str]) -> bytes:
    """A panel a fold: the bags that its model held out, in the plane of that model's space. Suspects are ringed and
    named. ValueError without a held-out bag."""
    folds = sorted({row["fold"] for row in bags if row["rank"] is not None})[:MAX_SPACES]
    if not folds:
        raise ValueError("no bag was held out")
    columns = min(_PER_ROW, len(folds))
    num_rows = -(-len(folds) // columns)
    with blank_figure(3.4 * columns, 3.1 * num_rows + 0.5, rows=num_rows, columns=columns) as (figure, axes):
        for panel, fold in zip(axes, folds, strict=False):
            members = [row for row in bags if row["rank"] is not None and row["fold"] == fold]
            _scatter(panel, members, classes, ("map_x", "map_y"), "type")
            panel.set_title(f"fold {fold}", loc="left", fontsize=9)
        for panel in axes[len(folds) :]:
            panel.set_axis_off()
        _legend(figure, classes)
        return png_bytes(figure)


def cohort_figure(bags: Rows, classes: Sequence[str]) -> bytes:
    """All bags by mean tile features, marked by their type there. Suspects are ringed and named."""
    with blank_figure(6.4, 5.4) as (figure, (axes,)):
        _scatter(axes, bags, classes, ("feature_x", "feature_y"), "feature_type")
        _legend(figure, classes)
        return png_bytes(figure)


def tiles_figure(tiles: Rows, classes: Sequence[str]) -> bytes:
    """A panel a class: its sampled tiles by type, over all others in grey. ValueError without a tile."""
    if not tiles:
        raise ValueError("there is no tile to draw")
    columns = min(_PER_ROW, len(classes))
    num_rows = -(-len(classes) // columns)
    x, y = (np.array([row[name] for row in tiles]) for name in ("map_x", "map_y"))
    with blank_figure(3.6 * columns, 3.2 * num_rows + 0.4, rows=num_rows, columns=columns) as (figure, axes):
        for panel, name in zip(axes, classes, strict=False):
            panel.scatter(x, y, s=3, color="#d0d0d0", linewidths=0)
            for kind in HardnessType:
                own = np.array([row["label"] == name and row["type"] == kind for row in tiles])
                panel.scatter(x[own], y[own], s=5, color=_COLOUR_OF_TYPE[kind], linewidths=0)
            panel.set_title(f"tiles of {plain_text(name)}", loc="left", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
        for panel in axes[len(classes) :]:
            panel.set_axis_off()
        handles = [_handle("o", _COLOUR_OF_TYPE[kind], kind.value) for kind in HardnessType]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        return png_bytes(figure)


def _scatter(axes: Any, rows: Rows, classes: Sequence[str], names: tuple[str, str], type_name: str) -> None:
    colour_of = dict(zip(classes, cycle_colours(len(classes)), strict=True))
    for kind, marker in _MARKERS.items():
        own = [row for row in rows if row[type_name] == kind]
        axes.scatter(
            [row[names[0]] for row in own],
            [row[names[1]] for row in own],
            s=34 if kind is HardnessType.outlier else 20,
            marker=marker,
            color=[colour_of[row["label"]] for row in own],
            alpha=0.8,
            linewidths=0,
        )
    for row in [row for row in rows if row["is_suspect"]][:_MAX_NAMED]:
        place = (row[names[0]], row[names[1]])
        axes.scatter(*place, s=130, facecolors="none", edgecolors="#222222", linewidths=1.1)
        name = axes.annotate(
            plain_text(row["bag_id"], 18), place, xytext=(5, 6), textcoords="offset points", fontsize=6.5
        )
        name.set_in_layout(False)  # a long name must not make its panel narrower than the others
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(figure: Any, classes: Sequence[str]) -> None:
    handles = [
        _handle("o", colour, plain_text(name))
        for name, colour in zip(classes, cycle_colours(len(classes)), strict=True)
    ]
    handles += [_handle(marker, "#777777", kind.value) for kind, marker in _MARKERS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=8)


def _handle(marker: str, colour: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=6, label=label)
