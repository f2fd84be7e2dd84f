"""A slide as square pictures at halving scales, as a deep-zoom viewer asks for them.

Level `max_level` is the scan itself and each lower one half as large, down to a single pixel. What the file holds
between does not matter: each picture is averaged from the nearest finer level.
"""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from mhim_core.features import MppUsed
from mhim_core.slides.reader import SlideReader

TILE_PX = 256
OVERVIEW_PX = 2048
"""Longest side of the picture from which coarse tiles are cut, so that a file without a pyramid is read whole once."""
_MOST_READ_PX = 2048
"""Side of what is read at once; where the file lacks a level, a tile is put together from several."""
JPEG_QUALITY = 85
_UNREADABLE_RGB = ((228, 226, 222), (206, 203, 198))
"""Stripes where the file is broken: neither tissue nor glass."""
_STRIPE_PX = 8


class Region(NamedTuple):
    """A part of the slide in level-0 pixels, and the size in pixels of its picture."""

    left: int
    top: int
    right: int
    bottom: int
    width_px: int
    height_px: int


class Overview(NamedTuple):
    """The whole slide, coarsely."""

    pixels: np.ndarray
    """uint8 (rows, columns, 3)."""
    downsample: float
    """Level-0 pixels per pixel."""


def max_level(width_l0_px: int, height_l0_px: int) -> int:
    """The level at which the slide has its own size."""
    return max(0, math.ceil(math.log2(max(width_l0_px, height_l0_px, 1))))


def tile_region(size_l0_px: tuple[int, int], level: int, column: int, row: int) -> Region | None:
    """What a tile shows; None for one that is not there."""
    width, height = size_l0_px
    most = max_level(width, height)
    if not 0 <= level <= most or column < 0 or row < 0:
        return None
    side = TILE_PX * 2 ** (most - level)
    left, top = column * side, row * side
    if left >= width or top >= height:
        return None
    right, bottom = min(left + side, width), min(top + side, height)
    scale = 2 ** (most - level)
    return Region(left, top, right, bottom, math.ceil((right - left) / scale), math.ceil((bottom - top) / scale))


def read_overview(reader: SlideReader, longest_px: int = OVERVIEW_PX) -> Overview:
    """The slide with its longer side at `longest_px`, or as large as it is. Raises SlideError as `thumbnail`."""
    info = reader.info()
    downsample = max(1.0, max(info.width_l0_px, info.height_l0_px) / longest_px)
    # a scale of 1 µm/px turns µm into pixels: only proportions matter here
    picture = reader.thumbnail(MppUsed(1.0, 1.0, "pixels"), downsample)
    pixels = picture.pixels
    if picture.is_unreadable.any():
        pixels = pixels.copy()
        pixels[picture.is_unreadable] = _stripes(*picture.is_unreadable.shape)[picture.is_unreadable]
    return Overview(pixels, downsample)


def draw_region(reader: SlideReader, overview: Overview, region: Region) -> np.ndarray:
    """uint8 (height_px, width_px, 3): the region, averaged; striped where the file is broken.

    Raises SlideError where it fails as a whole.
    """
    downsample = (region.right - region.left) / region.width_px
    if downsample >= overview.downsample * 0.99 and overview.downsample > 1:
        return _cut(overview, region)
    wanted = np.empty((region.height_px, region.width_px, 3), np.uint8)
    info = reader.info()
    level = info.level_for(downsample)
    own = info.levels[level].downsample
    block = max(1, int(_MOST_READ_PX * own / downsample))
    for top in range(0, region.height_px, block):
        for left in range(0, region.width_px, block):
            bottom, right = min(top + block, region.height_px), min(left + block, region.width_px)
            part = _PartOfPicture(left, top, right, bottom)
            wanted[top:bottom, left:right] = _read_part(reader, region, part, level)
    return wanted


class _PartOfPicture(NamedTuple):
    """A block of the picture, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int


def _read_part(reader: SlideReader, region: Region, part: _PartOfPicture, level: int) -> np.ndarray:
    own = reader.info().levels[level].downsample
    scale_x = (region.right - region.left) / region.width_px
    scale_y = (region.bottom - region.top) / region.height_px
    # in pixels of the file's level
    left, right = ((region.left + x * scale_x) / own for x in (part.left, part.right))
    top, bottom = ((region.top + y * scale_y) / own for y in (part.top, part.bottom))
    x, y = math.floor(left + 1e-6), math.floor(top + 1e-6)
    size = max(1, math.ceil(right - 1e-6) - x), max(1, math.ceil(bottom - 1e-6) - y)
    pixels = reader.region(round(x * own), round(y * own), level, size)
    height, width = part.bottom - part.top, part.right - part.left
    if pixels is None:
        return _stripes(height, width)
    if pixels.shape[:2] == (height, width):
        return pixels
    box = (max(0.0, left - x), max(0.0, top - y), min(size[0], right - x), min(size[1], bottom - y))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, box=box))


def _cut(overview: Overview, region: Region) -> np.ndarray:
    rows, columns = overview.pixels.shape[:2]
    edges = [value / overview.downsample for value in (region.left, region.top, region.right, region.bottom)]
    box = (
        min(edges[0], columns - 1),
        min(edges[1], rows - 1),
        min(max(edges[2], edges[0] + 1e-3), columns),
        min(max(edges[3], edges[1] + 1e-3), rows),
    )
    picture = Image.fromarray(overview.pixels)
    return np.asarray(picture.resize((region.width_px, region.height_px), Image.Resampling.BOX, box=box))


def _stripes(height: int, width: int) -> np.ndarray:
    at = (np.arange(height)[:, None] + np.arange(width)[None]) // _STRIPE_PX % 2
    return np.array(_UNREADABLE_RGB, np.uint8)[at]


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """uint8 (h, w, 3) as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
