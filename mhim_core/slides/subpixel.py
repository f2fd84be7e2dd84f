"""What OpenSlide paints where a region starts between two pixels, to the last bit, without its compositor.

A level's downsample is seldom a whole number (3.9994 for 4), so nearly every region above level 0 starts between two
pixels. OpenSlide paints the stored tiles one after the other, moved by the fraction, and cairo's image backend (pixman)
samples them: the fraction as 16.16 fixed point, bilinear in float32, what lies beyond a tile's edge transparent, tiles
added by the operator SATURATE, each sum stored as 8 bits. Along the seams of stored tiles this differs by a grey level
from sampling one picture. The arithmetic was found by comparison; the OpenSlide at hand is compared
with it for every slide (`backends/direct.py`).
"""

from typing import NamedTuple, Protocol

import numpy as np

from mhim_core.slides.file_tiles import TileLayout

_ONE = np.float32(1)
_FROM_8_BIT = np.float32(1 / 255)
_OPAQUE = np.float32(255) * _FROM_8_BIT
_ROWS = 64
"""Rows sampled at a time: what is computed in between stays in the processor's cache."""


class Place(NamedTuple):
    """A coordinate as pixman holds it."""

    whole: int
    part_16: int
    """The fraction in 1/65,536: 0 to 65,535."""

    @property
    def part(self) -> np.float32:
        return np.float32(self.part_16 / 65536)


def place_of(coordinate_px: float) -> Place:
    """The nearest 16.16 fixed-point number."""
    fixed = round(coordinate_px * 65536)
    return Place(fixed >> 16, fixed & 0xFFFF)


class Weights(NamedTuple):
    """Of the four pixels around a sample: products in float32."""

    top_left: np.float32
    top_right: np.float32
    bottom_left: np.float32
    bottom_right: np.float32


def weights_of(x: Place, y: Place) -> Weights:
    """The bilinear weights of every sample of a region that starts there."""
    right, bottom = x.part, y.part
    left, top = _ONE - right, _ONE - bottom
    return Weights(left * top, right * top, left * bottom, right * bottom)


def sample_within(block: np.ndarray, weights: Weights, out: np.ndarray) -> None:
    """Fill `out`, uint8 (height, width, 3), by bilinear sampling of `block`, uint8 (height + 1, width + 1, 3).

    As within one stored tile: seams are to be painted over by `paint_seams`.
    """
    height, width = out.shape[:2]
    step = (width + 1) * 3
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        # rows are contiguous: the right neighbour is 3 values on, the lower one a row's length
        values = np.multiply(block[top : top + rows + 1].reshape(-1), _FROM_8_BIT, dtype=np.float32)
        num = rows * step - 3
        total = values[:num] * weights.top_left
        for start, weight in ((3, weights.top_right), (step, weights.bottom_left), (step + 3, weights.bottom_right)):
            total += values[start : start + num] * weight
        sampled = np.empty(rows * step, np.uint8)
        sampled[:num] = _to_8_bit(total)
        out[top : top + rows] = sampled.reshape(rows, width + 1, 3)[:, :width]


class Strip(NamedTuple):
    """A part of a region, as OpenSlide hands it out."""

    rows: slice
    columns: slice
    rgba: np.ndarray
    """uint8 (rows, columns, 4), not premultiplied."""


class _Line(NamedTuple):
    """Columns, or rows, of a region whose samples are shared in the same way."""

    at: slice
    shares: tuple[frozenset[int], ...]
    """Corners (as in `Weights`) of a sample that lie in one column, or row, of tiles, in the order of painting."""


_ALL = frozenset(range(4))
_LEFT, _RIGHT, _TOP, _BOTTOM = (frozenset(corners) for corners in ((0, 2), (1, 3), (0, 1), (2, 3)))


def paint_seams(block: np.ndarray, weights: Weights, x: Place, y: Place, grid: TileLayout) -> list[Strip]:
    """The pixels of the region of which stored tiles, or a tile and nothing, have a part each, as tiles paint them.

    `block` as in `sample_within`; its last row and column may lie beyond the level's edge. Later strips lie over
    earlier ones.
    """
    height, width = block.shape[0] - 1, block.shape[1] - 1
    columns = _lines(x, width, grid.tile_width_px, grid.width_px, _RIGHT, _LEFT)
    rows = _lines(y, height, grid.tile_height_px, grid.height_px, _BOTTOM, _TOP)
    every_column, every_row = _Line(slice(0, width), (_ALL,)), _Line(slice(0, height), (_ALL,))
    return [
        *(_painted(block, weights, every_row, column) for column in columns),
        *(_painted(block, weights, row, every_column) for row in rows),
        *(_painted(block, weights, row, column) for row in rows for column in columns),
    ]


def _lines(
    start: Place, length: int, tile_px: int, level_px: int, far: frozenset[int], near: frozenset[int]
) -> list[_Line]:
    """Positions whose right (lower) neighbour, in the far tile, is another tile's or beyond the level."""
    if not start.part_16:
        return []
    last = level_px - 1 - start.whole
    ends = range(tile_px - 1 - start.whole % tile_px, min(length, last), tile_px)
    seams = [_Line(slice(at, at + 1), (far, near)) for at in ends]
    return seams + ([_Line(slice(last, last + 1), (near,))] if last < length else [])


def _painted(block: np.ndarray, weights: Weights, row: _Line, column: _Line) -> Strip:
    rows, columns = row.at, column.at
    part = block[rows.start : rows.stop + 1, columns.start : columns.stop + 1] * _FROM_8_BIT
    corners = (part[:-1, :-1], part[:-1, 1:], part[1:, :-1], part[1:, 1:])
    painted = np.zeros((*corners[0].shape[:2], 4), np.uint8)
    source = np.empty(painted.shape, np.float32)
    for in_tile in (sorted(in_row & in_column) for in_row in row.shares for in_column in column.shares):
        source[..., :3] = sum(corners[i] * weights[i] for i in in_tile)
        source[..., 3] = sum(_OPAQUE * weights[i] for i in in_tile)
        painted = _saturated(source, painted)
    return Strip(rows, columns, _straight(painted))


class StoredTiles(Protocol):
    """A level's stored tiles, by place."""

    grid: TileLayout

    def copy(self, x: int, y: int, out: np.ndarray) -> None:
        """As `FileTiles.copy`."""


def paint(tiles: StoredTiles, x: Place, y: Place, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 4): the region, RGBA as OpenSlide hands it out, transparent beyond the level's edge.

    The slow and obvious form: tile by tile, as OpenSlide does. x and y are not negative.
    """
    grid = tiles.grid
    region = np.zeros((height, width, 4), np.uint8)
    rows = range(y.whole // grid.tile_height_px, min(y.whole + height, grid.height_px - 1) // grid.tile_height_px + 1)
    columns = range(x.whole // grid.tile_width_px, min(x.whole + width, grid.width_px - 1) // grid.tile_width_px + 1)
    weights = weights_of(x, y)
    for row in reversed(rows):
        for column in reversed(columns):
            left, top = column * grid.tile_width_px, row * grid.tile_height_px
            right, bottom = (
                min(left + grid.tile_width_px, grid.width_px),
                min(top + grid.tile_height_px, grid.height_px),
            )
            left, right = max(left, x.whole), min(right, x.whole + width + 1)
            top, bottom = max(top, y.whole), min(bottom, y.whole + height + 1)
            if left >= right or top >= bottom:
                continue
            moved = np.zeros((height + 1, width + 1, 4), np.uint8)
            part = np.empty((bottom - top, right - left, 3), np.uint8)
            tiles.copy(left, top, part)
            moved[top - y.whole : bottom - y.whole, left - x.whole : right - x.whole, :3] = part
            moved[top - y.whole : bottom - y.whole, left - x.whole : right - x.whole, 3] = 255
            source = moved * _FROM_8_BIT
            sampled = source[:-1, :-1] * weights.top_left + source[:-1, 1:] * weights.top_right
            sampled += source[1:, :-1] * weights.bottom_left
            sampled += source[1:, 1:] * weights.bottom_right
            region = _saturated(sampled, region)
    return _straight(region)


def _saturated(source: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """uint8 (…, 4): float32 `source` over uint8 `painted`, both premultiplied, by the operator SATURATE."""
    below = painted * _FROM_8_BIT
    alpha = source[..., 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(alpha == 0, _ONE, np.minimum(_ONE, (_ONE - below[..., 3:]) / alpha))
    return _to_8_bit(source * share + below)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """uint8: 256 equal steps of 0 to 1, as pixman rounds; `values`, float32, are overwritten."""
    values *= np.float32(256)
    return np.minimum(values, np.float32(255), out=values).astype(np.uint8)


def _straight(premultiplied: np.ndarray) -> np.ndarray:
    """uint8 (…, 4): colours divided by alpha, as openslide-python does; transparent pixels are black."""
    alpha = premultiplied[..., 3:].astype(np.uint16)
    colour = premultiplied[..., :3].astype(np.uint16) * 255 // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colour, 255), alpha], axis=-1).astype(np.uint8)
