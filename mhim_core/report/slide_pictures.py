"""The pictures of one slide in a report: its overview, the attention map, the tiles of highest attention."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.features import MppUsed
from mhim_core.report.heatmap import heatmap
from mhim_core.report.images import encode_within, montage
from mhim_core.slides.grid import TilePlan, geometry_again
from mhim_core.slides.reader import SlideReader, open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec

_USUAL_SIDE_PX, _LEAST_SIDE_PX, _MAX_SIDE_PX = 900, 160, 7200
"""Sides of a picture. Of a long, narrow slide the longer one is larger, so that the shorter one is legible."""
_ROUNDING = 1.001


class AttendedSlide(NamedTuple):
    """A slide's tiles and their attention in the evaluated forward pass. N tiles."""

    coords_l0_px: NDArray[np.int32]
    """(N, 2)."""
    attention: ArrayLike
    """(N,)."""
    tile_size_l0_px: tuple[int, int]
    slide_size_l0_px: tuple[int, int]
    """(0, 0) where the features do not say: the file's then, or without it as far as the tiles reach."""
    mpp: MppUsed
    upsample: float
    attention_of: Mapping[str, ArrayLike] = MappingProxyType({})
    """(N,) of each of several models whose mean `attention` is, by name."""


class SlidePictures(NamedTuple):
    """PNG, JPEG or WebP bytes."""

    overview: bytes | None
    """None without the slide's file."""
    heatmap: bytes
    top_tiles: bytes | None
    heatmaps_of: Mapping[str, bytes]
    """Of each of `AttendedSlide.attention_of`."""


def draw_slide(
    path: Path | None,
    slide: AttendedSlide,
    spec: TileSpec | None,
    num_top_tiles: int,
    max_bytes: int | None = None,
) -> SlidePictures:
    """Draw one slide; without its file (`path` None) the heat map lies on white and there are no tiles, nor without a
    `spec`, by which they were cut. `max_bytes`: of all its pictures together; None: they are drawn at full size.

    Raises SlideError where the file is there and cannot be read.
    """
    top = top_tiles(slide.attention, num_top_tiles)
    if path is None:
        slide = _sized(slide, _reach(slide))
        return _drawn(_blank(slide), slide, top, None, max_bytes)._replace(overview=None)
    with open_slide(path) as reader:
        slide = _sized(slide, (reader.info().width_l0_px, reader.info().height_l0_px))
        sides_um = (slide.slide_size_l0_px[0] * slide.mpp.x, slide.slide_size_l0_px[1] * slide.mpp.y)
        thumbnail = reader.thumbnail(
            slide.mpp, max(max(sides_um) / picture_side_px(*sides_um), slide.mpp.x, slide.mpp.y)
        )
        tiles = _read_tiles(reader, slide, spec, top) if len(top) and spec is not None else None
    return _drawn(thumbnail.pixels, slide, top, tiles, max_bytes)


def picture_side_px(width: float, height: float) -> float:
    """Pixels of the longer side of a slide's picture; width and height in any one unit."""
    wanted = _LEAST_SIDE_PX * max(width, height) / min(width, height)
    return min(max(_USUAL_SIDE_PX, wanted), _MAX_SIDE_PX)


def top_tiles(attention: ArrayLike, num: int) -> NDArray[np.int64]:
    """Indices of the `num` most attended tiles in descending order; ties by the lower index."""
    return np.argsort(-np.asarray(attention, dtype=np.float64), kind="stable")[:num]


def _drawn(
    thumbnail: NDArray[np.uint8],
    slide: AttendedSlide,
    top: NDArray[np.int64],
    tiles: NDArray[np.uint8] | None,
    max_bytes: int | None,
) -> SlidePictures:
    has_tiles = tiles is not None and len(tiles) > 0
    share = None if max_bytes is None else max_bytes // (2 + has_tiles + len(slide.attention_of))

    def painted(attention: ArrayLike, outlined: NDArray[np.int64]) -> bytes:
        image = heatmap(
            thumbnail,
            slide.coords_l0_px,
            attention,
            tile_size_l0_px=slide.tile_size_l0_px,
            slide_size_l0_px=slide.slide_size_l0_px,
            outlined=outlined.tolist(),
            with_bar=False,  # the page has the scale once
        )
        return encode_within(image, share)

    shown = (
        encode_within(montage(list(tiles), columns=math.ceil(math.sqrt(len(tiles)))), share)
        if has_tiles and tiles is not None
        else None
    )
    of_each = {name: painted(each, top_tiles(each, len(top))) for name, each in slide.attention_of.items()}
    return SlidePictures(encode_within(thumbnail, share), painted(slide.attention, top), shown, of_each)


def _read_tiles(reader: SlideReader, slide: AttendedSlide, spec: TileSpec, top: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The chosen tiles as they were cut, in the order of `top`; a transform of colours is not shown."""
    policy = SlidePolicy(max_upsample=max(1.0, slide.upsample * _ROUNDING))
    plan = TilePlan(
        coords_l0_px=slide.coords_l0_px[top],
        tissue_share=np.ones(len(top), np.float32),
        tile_px=spec.tile_px,
        geometry=geometry_again(reader.info(), slide.mpp, spec, policy, slide.tile_size_l0_px),
    )
    while reader.leave_out_broken(plan):
        plan = replace(plan, geometry=geometry_again(reader.info(), slide.mpp, spec, policy, slide.tile_size_l0_px))
    return np.concatenate([batch.tiles for batch in reader.tiles(plan)])


def _sized(slide: AttendedSlide, size_l0_px: tuple[int, int]) -> AttendedSlide:
    return slide if all(slide.slide_size_l0_px) else slide._replace(slide_size_l0_px=size_l0_px)


def _reach(slide: AttendedSlide) -> tuple[int, int]:
    right, bottom = slide.coords_l0_px.max(axis=0) + np.asarray(slide.tile_size_l0_px)
    return int(right), int(bottom)


def _blank(slide: AttendedSlide) -> NDArray[np.uint8]:
    width, height = slide.slide_size_l0_px
    scale = picture_side_px(width, height) / max(width, height)
    return np.full((max(1, round(height * scale)), max(1, round(width * scale)), 3), 255, np.uint8)
