"""Polygons as pixels: a pixel belongs to a polygon if its centre lies inside. Pure NumPy, exact, holes included.

Each ring's edge toggles, in every row whose centre line it crosses, all pixels to its right; what is toggled an odd
number of times is inside. Cost: crossings + pixels, where testing each pixel against each vertex is their product.
"""

from collections.abc import Iterable

import numpy as np

from mhim_core.slides.annotations import Polygon, bad_annotation

_MAX_CROSSINGS = 50_000_000
"""Of one ring with centre lines: what is drawn by hand has thousands."""


def rasterise(polygons: Iterable[Polygon], shape: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """bool (rows, columns): the union of polygons. `scale`: pixels per level-0 pixel along x and y.

    A ring that crosses itself is inside where it winds an odd number of times; what lies outside is cut off. Raises
    SlideError(bad_annotation) for a ring that goes to and fro millions of times.
    """
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        rings = [ring * np.asarray(scale) for ring in polygon.rings]
        top = max(0, int(np.floor(min(ring[:, 1].min() for ring in rings))))
        bottom = min(shape[0], int(np.ceil(max(ring[:, 1].max() for ring in rings))))
        left = max(0, int(np.floor(min(ring[:, 0].min() for ring in rings))))
        right = min(shape[1], int(np.ceil(max(ring[:, 0].max() for ring in rings))))
        if top < bottom and left < right:
            box = [ring - (left, top) for ring in rings]
            mask[top:bottom, left:right] |= _filled(box, bottom - top, right - left)
    return mask


def _filled(rings: list[np.ndarray], num_rows: int, num_columns: int) -> np.ndarray:
    toggled = np.zeros((num_rows, num_columns), bool)
    for ring in rings:
        rows, columns = _crossings(ring, num_rows)
        is_seen = columns < num_columns
        place = rows[is_seen] * num_columns + np.maximum(columns[is_seen], 0)
        np.logical_xor.at(toggled.reshape(-1), place, True)
    return np.asarray(np.logical_xor.accumulate(toggled, axis=1))


def _crossings(ring: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 (k,) each: the rows whose centre line an edge crosses, and the first pixel whose centre is right of it."""
    x0, y0 = ring.T
    x1, y1 = np.roll(ring, -1, axis=0).T
    # an edge owns its upper end and not its lower one, so that a vertex on a centre line counts once
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, num_rows).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, num_rows).astype(np.int64)
    num = last - first
    if num.sum() > _MAX_CROSSINGS:
        raise bad_annotation(f"an outline of {len(ring):,} points goes to and fro over the whole slide")
    edge = np.repeat(np.arange(len(ring)), num)
    rows = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num) + first[edge]
    part = (rows + 0.5 - y0[edge]) / (y1[edge] - y0[edge])
    x = x0[edge] + part * (x1[edge] - x0[edge])
    return rows, np.ceil(np.clip(x, -1e9, 1e9) - 0.5).astype(np.int64)
