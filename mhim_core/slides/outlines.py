"""Areas made of rectangles or pixels as valid polygons: closed rings that neither cross nor touch themselves.

The area is a grid of cells; its border follows the cells' edges with the area on the left, seen with y upwards, so that
outer rings have a positive signed area in (x, y), as RFC 7946 asks for, and holes a negative one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mhim_core.features import MppUsed
from mhim_core.slides.annotations import Polygon
from mhim_core.slides.mask import TissueMask

_SLIVER = 64
"""Edges that are nearer to each other than this part of a tile's side are one: rounding leaves gaps and overlaps."""
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Along x and y, in the order of left turns as seen with y upwards."""
_END = -1
"""No direction: the border is back at its start."""


def tile_outlines(coords_l0_px: NDArray[np.int32], tile_size_l0_px: tuple[int, int]) -> tuple[Polygon, ...]:
    """The union of tiles as polygons, in the order of their first tile by y and x; () for no tiles.

    `coords_l0_px` (N, 2): top-left corners (x, y); the size is (width, height), all in level-0 pixels. Tiles that share
    an edge are in one polygon, tiles that share a corner are not. Neighbours whose borders differ by a pixel, since
    positions are rounded, or by 1/64 of their side, are taken to share an edge.
    """
    if not len(coords_l0_px):
        return ()
    axes, ranges = [], []
    for axis, size in enumerate(tile_size_l0_px):
        low = np.asarray(coords_l0_px[:, axis], dtype=np.int64)
        edges, places = _merged(np.concatenate([low, low + size]), max(1, size // _SLIVER))
        axes.append(edges)
        ranges.append((places[: len(low)], places[len(low) :]))
    (left, right), (top, bottom) = ranges
    corners = np.zeros((len(axes[1]), len(axes[0])), np.int32)
    for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(corners, (y, x), sign)
    is_covered = corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return _outlined(is_covered, axes[0].astype(np.float64), axes[1].astype(np.float64))


def mask_outlines(mask: TissueMask, mpp: MppUsed, size_l0_px: tuple[int, int]) -> tuple[Polygon, ...]:
    """The pixels of a mask as polygons in level-0 pixels, cut off at the slide's (width, height).

    Made into a mask of the same µm/px again (`raster.rasterise`), they give the same pixels, but for those of which
    less than half lies on the slide.
    """
    is_tissue = mask.is_tissue
    columns = np.minimum(np.arange(is_tissue.shape[1] + 1) * mask.mask_mpp / mpp.x, size_l0_px[0])
    rows = np.minimum(np.arange(is_tissue.shape[0] + 1) * mask.mask_mpp / mpp.y, size_l0_px[1])
    # a pixel that lies beyond the edge as a whole has no area there
    return _outlined(is_tissue & (np.diff(rows) > 0)[:, None] & (np.diff(columns) > 0)[None], columns, rows)


def area_of(polygons: Sequence[Polygon]) -> float:
    """In square level-0 pixels; holes are taken off."""
    return sum(_signed_area(ring) for polygon in polygons for ring in polygon.rings)


def _merged(values: NDArray[np.int64], tolerance: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, those within `tolerance` of a smaller one replaced by it, and each value's place in them."""
    distinct, index = np.unique(values, return_inverse=True)
    first, places = [int(distinct[0])], np.zeros(len(distinct), np.int64)
    for number, value in enumerate(distinct.tolist()):
        if value - first[-1] > tolerance:
            first.append(value)
        places[number] = len(first) - 1
    return np.array(first, np.int64), places[index]


def _outlined(is_covered: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Polygon, ...]:
    """`is_covered` (rows, columns); x (columns + 1,) and y (rows + 1,) are the places of the cells' edges."""
    labels, num = ndimage.label(is_covered)
    outer: list[list[NDArray[np.float64]]] = [[] for _ in range(num)]
    holes: list[list[NDArray[np.float64]]] = [[] for _ in range(num)]
    for label, places in _rings(labels):
        ring = np.stack([x[places[:, 0]], y[places[:, 1]]], axis=1)
        (outer if _signed_area(ring) > 0 else holes)[label - 1].append(ring)
    polygons = []
    for rings, inner in zip(outer, holes, strict=True):
        [border] = rings  # what shares edges has one border; where that meets itself a hole is split off
        polygons.append(Polygon((border, *inner)))
    return tuple(polygons)


def _rings(labels: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int64]]]:
    """The label and the corners (v, 2), as places (x, y) on the grid, of every ring; only corners at which it turns."""
    padded = np.pad(labels, 1)
    starts: dict[tuple[int, int], dict[int, int]] = {}
    inside = padded[1:-1, 1:-1]
    beside = {0: padded[:-2, 1:-1], 1: padded[1:-1, 2:], 2: padded[2:, 1:-1], 3: padded[1:-1, :-2]}
    # the area lies to the left of a walk along it with y upwards: the top edge (smallest y) is walked to the right
    offsets = {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (0, 1)}
    for direction, other in beside.items():
        rows, columns = np.nonzero((inside > 0) & (other == 0))
        dx, dy = offsets[direction]
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            starts.setdefault((column + dx, row + dy), {})[direction] = int(inside[row, column])
    rings: list[tuple[int, NDArray[np.int64]]] = []
    while starts:
        corner = next(iter(starts))
        direction, label = next(iter(starts[corner].items()))
        walked = _walk(starts, corner, direction, label)
        rings.extend((label, loop) for loop in _simple_loops(walked))
    return rings


def _walk(
    starts: dict[tuple[int, int], dict[int, int]], corner: tuple[int, int], direction: int, label: int
) -> list[tuple[int, int]]:
    """Follow one border until it is back, taking its edges out of `starts`: all corners on it, once each visit."""
    walked = []
    while corner in starts and direction in starts[corner]:
        walked.append(corner)
        del starts[corner][direction]
        if not starts[corner]:
            del starts[corner]
        dx, dy = _STEPS[direction]
        corner = (corner[0] + dx, corner[1] + dy)
        onward = starts.get(corner, {})
        # where two cells touch at a corner, the border stays with its own cell: the left turn comes first
        turns = (direction + 1, direction, direction - 1)
        direction = next((turn % 4 for turn in turns if onward.get(turn % 4) == label), _END)
    return walked


def _simple_loops(walked: Sequence[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """A border cut at the corners that it visits twice, each loop without the corners at which it goes straight on."""
    loops: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in walked:
        if corner in place:
            start = place[corner]
            loops.append(path[start:])
            for left in path[start:]:
                del place[left]
            path = path[:start]
        place[corner] = len(path)
        path.append(corner)
    return [_turning(np.array(loop, np.int64)) for loop in (*loops, path)]


def _turning(loop: NDArray[np.int64]) -> NDArray[np.int64]:
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    return loop[(before != after).any(axis=1)]


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Positive where the ring runs counterclockwise with y upwards."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
