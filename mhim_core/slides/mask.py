"""Where tissue is, at a fixed µm/px, and how much of a rectangle it covers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueMask:
    """Tissue at `mask_mpp` µm/px: pixel (r, c) covers exactly [c, c+1) × [r, r+1) × mask_mpp µm of the slide."""

    is_tissue: np.ndarray
    """bool (rows, columns)."""
    mask_mpp: float

    @property
    def area_um2(self) -> float:
        """Area of all tissue."""
        return float(self.is_tissue.sum()) * self.mask_mpp**2

    def share_in_grid(self, left: np.ndarray, right: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """Share of tissue in every cell of a grid of rectangles, float64 (rows, columns); outside is no tissue.

        `left` < `right` (columns,) and `top` < `bottom` (rows,) are edges in mask pixels, fractions allowed. A mask is
        constant within a pixel, so its integral is piecewise bilinear and interpolating it is exact.
        """
        integral = np.zeros((self.is_tissue.shape[0] + 1, self.is_tissue.shape[1] + 1))
        integral[1:, 1:] = self.is_tissue.cumsum(0, dtype=np.int64).cumsum(1)
        rows = _interpolate(integral, bottom) - _interpolate(integral, top)
        cells = _interpolate(rows.T, right) - _interpolate(rows.T, left)
        area = np.outer(bottom - top, right - left)
        # the interpolation rounds in the last bit: a full cell must be exactly 1, not 1 + 1e-16
        return np.clip(cells.T / area, 0.0, 1.0)

    def share_at(self, left: np.ndarray, right: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """The same of rectangles that lie anywhere, float64 (N,); each of their edges is (N,)."""
        integral = np.zeros((self.is_tissue.shape[0] + 1, self.is_tissue.shape[1] + 1))
        integral[1:, 1:] = self.is_tissue.cumsum(0, dtype=np.int64).cumsum(1)
        corners = [_at(integral, y, x) for y in (bottom, top) for x in (right, left)]
        area = (right - left) * (bottom - top)
        return np.clip((corners[0] - corners[1] - corners[2] + corners[3]) / area, 0.0, 1.0)


def _at(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear at fractional places (N,), constant beyond the ends."""
    parts = []
    for at, num in ((row, table.shape[0]), (column, table.shape[1])):
        at = np.clip(at, 0, num - 1)
        below = np.minimum(np.floor(at).astype(np.int64), max(num - 2, 0))
        parts.append((below, np.minimum(below + 1, num - 1), at - below))
    (upper, lower, down), (left, right, across) = parts
    above = table[upper, left] * (1 - across) + table[upper, right] * across
    below = table[lower, left] * (1 - across) + table[lower, right] * across
    return np.asarray(above * (1 - down) + below * down)


def _interpolate(table: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of `table` at fractional row numbers, linear in between, constant beyond the ends."""
    at = np.clip(at, 0, len(table) - 1)
    below = np.minimum(np.floor(at).astype(np.int64), max(len(table) - 2, 0))
    weight = (at - below)[:, None]
    return table[below] * (1 - weight) + table[np.minimum(below + 1, len(table) - 1)] * weight
