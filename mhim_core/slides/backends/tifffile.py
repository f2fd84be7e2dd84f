"""TIFFs that OpenSlide refuses or reads without their pyramid: by levels and tiles, never a whole level.

JPEG 2000, WebP, LZMA and JPEG XL tiles; the SubIFDs of OME-TIFF; planes and strips too large for `plain`.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, register_backend
from mhim_core.slides.blocks import BlockCache, check_block, check_scenes
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.tiff import check_dimensions
from mhim_core.slides.tiff_segments import TiffSegments, joined
from mhim_core.types import FailureReason

_MAX_PAGES = 1024
"""As `slides/tiff.py`: no scanner writes as many, and tifffile reads each."""
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""TIFF's inch and centimetre."""


@register_backend("tifffile", version=1)
class TiffFileBackend(Backend):
    """The places of a file's tiles, and the latest of them decoded."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._levels, mpp = _read_levels(path, self._descriptor)
            grids = [segments[0].grid for segments in self._levels]
            check_dimensions(grids[0].width_px, grids[0].height_px)
            for level in self._levels:
                check_block("tiles" if level[0].is_tiled else "strips", level[0].grid)
        except SlideError:
            self.close()
            raise
        except Exception as error:  # whatever tifffile makes of a broken header
            self.close()
            raise SlideError(FailureReason.OPEN, f"tifffile cannot open it: {type(error).__name__}") from error
        self._cache = BlockCache(has_strips=not self._levels[0][0].is_tiled)
        width, height = grids[0].width_px, grids[0].height_px
        mpp_x, mpp_y = layout.mpp or mpp
        self._info = SlideInfo(
            levels=tuple(
                Level(grid.width_px, grid.height_px, (width / grid.width_px + height / grid.height_px) / 2)
                for grid in grids
            ),
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            vendor=layout.kind or "TIFF",
            objective_power=None,
        )

    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        segments, downsample = self._levels[level], self._info.levels[level].downsample

        def load(row: int, column: int) -> np.ndarray | None:
            if len(segments) == 1:
                return segments[0].block(row, column)
            return joined([plane.block(row, column) for plane in segments])

        x, y = round(x_l0 / downsample), round(y_l0 / downsample)
        return self._cache.read_region(level, segments[0].grid, load, x, y, width, height)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _read_levels(
    path: Path, descriptor: int
) -> tuple[list[list[TiffSegments]], tuple[float, float] | tuple[None, None]]:
    """Each level's page, or its three pages of a colour each, finest first; and the µm/px of TIFF's own tags."""
    tiff: Any
    with tifffile.TiffFile(path) as tiff:
        if tiff.is_ome:
            series = tiff.series
            check_scenes([_area(one.levels[0].keyframe) for one in series], "export each as a file of its own")
            groups = [list(level.pages) for level in series[0].levels]
        else:
            groups = [[page] for page in _pyramid(tiff)]
        levels = []
        for pages in groups:
            if len(pages) not in (1, 3) or any(page is None for page in pages):
                raise SlideError(FailureReason.OPEN, f"a level of {len(pages)} pictures is not one of three colours")
            level = [TiffSegments(descriptor, page) for page in pages]
            if len(level) * level[0].num_samples < 3:
                raise SlideError(
                    FailureReason.OPEN, "it is grey: no bright-field picture (one of three 8-bit channels)"
                )
            levels.append(level)
        sizes = [level[0].grid.width_px for level in levels]
        if sizes != sorted(set(sizes), reverse=True):
            raise SlideError(
                FailureReason.OPEN, f"its levels are {sizes} px wide, not each smaller than the one before"
            )
        return levels, _tag_mpp(groups[0][0].keyframe)


def _pyramid(tiff: Any) -> list[Any]:
    """The first page, its SubIFDs, and further pages marked as the same picture reduced."""
    pages: list[Any] = list(itertools.islice(tiff.pages, _MAX_PAGES + 1))
    if len(pages) > _MAX_PAGES:
        raise SlideError(FailureReason.OPEN, f"it has more than {_MAX_PAGES:,} pages")
    first = pages[0]
    reduced = [*(first.pages or ()), *(page for page in pages[1:] if page.keyframe.is_reduced)]
    return [first, *(page for page in reduced if _is_reduced_from(page.keyframe, first))]


def _is_reduced_from(page: Any, first: Any) -> bool:
    """By shape: labels and overviews have another. A pixel is left for rounding."""
    scale = first.imagewidth / page.imagewidth
    return bool(
        page.imagewidth < first.imagewidth
        and page.is_tiled == first.is_tiled
        and abs(first.imagelength / scale - page.imagelength) <= 1 + page.imagelength / page.imagewidth
    )


def _area(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _tag_mpp(page: Any) -> tuple[float, float] | tuple[None, None]:
    """A tiled picture's, whose resolution is the specimen's; an untiled one's is of paper."""
    try:
        unit = _UM_PER_UNIT[int(page.tags["ResolutionUnit"].value)]
        x, y = (unit * den / num for num, den in (page.tags[f"{axis}Resolution"].value for axis in "XY"))
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None, None
    return (x, y) if page.is_tiled else (None, None)
