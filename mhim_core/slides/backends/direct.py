"""Tiled JPEG TIFFs (Aperio's SVS, generic TIFF) from their own tiles: OpenSlide's pixels, without its compositor.

OpenSlide states the facts, reads whatever is not simple, and is the judge: before a level is read from its tiles, a few
regions of it are compared. Where they differ, OpenSlide reads the level. So its features are OpenSlide's, and nothing
that identifies features knows of this backend.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mhim_core.errors import SlideError
from mhim_core.slides.backend import on_white, register_backend, white_share
from mhim_core.slides.backends.openslide import OpenSlideBackend
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.file_tiles import FileTiles, TileCache, UnreadableTileError
from mhim_core.slides.ranged_file import RangedFile, Span
from mhim_core.slides.subpixel import Place, paint_seams, place_of, sample_within, weights_of
from mhim_core.types import FailureReason

_VENDORS = ("aperio", "generic-tiff")
"""Whose levels OpenSlide composes of the TIFF's tiles side by side, and of nothing else."""
_MAX_REGION_PX = 4096
"""OpenSlide cuts a wider or higher region in parts, and rounds the place of each."""
_MAX_PAGES = 1024
"""As `slides/tiff.py`: no scanner writes as many, and tifffile reads each."""
_CHECKED_PX = 96
"""Side of the regions that are compared."""


@register_backend("direct", version=1, pixels_of="openslide")
class DirectBackend(OpenSlideBackend):
    """An OpenSlide handle, and the file's tiles beside it."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        if not layout.is_jpeg_tiles:
            raise SlideError(FailureReason.OPEN, "it does not consist of JPEG tiles; set backend=auto")
        self._descriptor = -1
        super().__init__(path, layout)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ranged: RangedFile | None = None
        self._tiles = self._levels()
        self._unchecked = dict(self._tiles)
        self._checked: dict[int, FileTiles] = {}
        self._refused: set[int] = set()

    def read_on_white(self, x_l0: int, y_l0: int, level: int, out: np.ndarray) -> float:
        if level in self._unchecked:
            self._check(level)
        tiles = self._checked.get(level)
        if tiles is not None:
            share = self._maybe_direct(tiles, x_l0, y_l0, level, out)
            if share is not None:
                return share
        self._fetch_whole()
        return super().read_on_white(x_l0, y_l0, level, out)

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        """As OpenSlide, once the tiles are there that it composes the region of, if it reads the same table of them."""
        if self._ranged is not None:
            is_touched = self._touched(level, np.array([[x_l0, y_l0]]), (width, height), margin_px=1)
            self._ranged.ensure(self._tiles[level].spans(is_touched))
        return super().read_region(x_l0, y_l0, level, width, height)

    def read_ranged(self, ranged: RangedFile) -> bool:
        """Where the tiles of all levels are known, and none above level 0 is missing.

        OpenSlide makes a missing tile of an SVS from the finer level.
        """
        levels = range(len(self.info().levels))
        if set(levels) != set(self._tiles) or any(self._tiles[level].is_any_missing() for level in levels[1:]):
            return False
        self._ranged = ranged
        return True

    def overview_spans(self, downsample: float) -> list[Span]:
        """The tiles of the level that a picture so much coarser than level 0 is made of."""
        tiles = self._tiles[self.info().level_for(downsample)]
        return tiles.spans(np.ones((tiles.grid.rows, tiles.grid.columns), bool))

    def expect_regions(self, level: int, coords_l0_px: np.ndarray, read_px: tuple[int, int]) -> None:
        if self._ranged is not None:
            self._ranged.expect(self._tiles[level].spans(self._touched(level, coords_l0_px, read_px)))

    def prepare_level(self, level: int) -> str:
        if level in self._unchecked:
            self._check(level)
        if level not in self._refused:
            return ""
        return f"level {level} is decoded by OpenSlide, since its tiles by themselves gave other pixels, or none"

    def close(self) -> None:
        super().close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _fetch_whole(self) -> None:
        """Before OpenSlide reads what this backend could not: where its tiles lie, nobody knows then.

        Its handle is opened anew, since it keeps the tiles that it has decoded.
        """
        if self._ranged is None:
            return
        self._ranged.complete()
        self._ranged = None
        self._slide.close()
        self._slide = self._open()

    def _read_bytes(self, offset: int, num_bytes: int) -> bytes:
        if self._ranged is not None:
            return self._ranged.read(offset, num_bytes)
        return os.pread(self._descriptor, num_bytes, offset)

    def _touched(
        self, level: int, coords_l0_px: np.ndarray, read_px: tuple[int, int], margin_px: int = 0
    ) -> np.ndarray:
        """bool (rows, columns): the level's tiles of which these regions have a part, sampling between pixels too."""
        grid, downsample = self._tiles[level].grid, self.info().levels[level].downsample
        is_touched = np.zeros((grid.rows, grid.columns), bool)
        start = coords_l0_px / downsample
        first = np.floor(start).astype(np.int64) - margin_px
        last = np.ceil(start).astype(np.int64) + np.array(read_px) - 1 + margin_px
        tile_px = np.array([grid.tile_width_px, grid.tile_height_px])
        for (left, top), (right, bottom) in zip(
            np.maximum(first // tile_px, 0).tolist(), np.maximum(last // tile_px + 1, 0).tolist(), strict=True
        ):
            is_touched[top:bottom, left:right] = True
        return is_touched

    def _levels(self) -> dict[int, FileTiles]:
        """By level; without those that are not as simple as this backend takes them to be."""
        info = self.info()
        if info.vendor not in _VENDORS:
            return {}
        cache = TileCache()
        levels = {}
        try:
            with tifffile.TiffFile(self._path) as tiff:
                pages: list[Any] = list(itertools.islice(tiff.pages, _MAX_PAGES + 1))
                if len(pages) > _MAX_PAGES:
                    return {}
                for number, level in enumerate(info.levels):
                    size = (level.width_px, level.height_px)
                    fitting = [page for page in pages if (page.imagewidth, page.imagelength) == size]
                    if len(fitting) == 1 and FileTiles.is_direct(fitting[0]):
                        levels[number] = FileTiles(self._read_bytes, number, fitting[0], cache)
        except Exception:  # whatever tifffile makes of a header that OpenSlide has accepted
            return {}
        return levels

    def _check(self, level: int) -> None:
        """Compare with OpenSlide around a crossing of tiles, at the last pixels, and where there is most to be seen."""
        tiles = self._unchecked.pop(level)
        self._refused.add(level)
        grid, downsample = tiles.grid, self.info().levels[level].downsample
        crossing = (
            grid.columns // 2 * grid.tile_width_px,
            grid.height_px // grid.tile_height_px // 2 * grid.tile_height_px,
        )
        last = (grid.width_px, grid.height_px)
        places = [crossing, last]
        if fullest := tiles.fullest_tile():
            row, column = fullest
            places.append((int((column + 0.5) * grid.tile_width_px), int((row + 0.5) * grid.tile_height_px)))
        num_compared = 0
        for x, y in places:
            place = (max(0, int((x - _CHECKED_PX / 2) * downsample)), max(0, int((y - _CHECKED_PX / 2) * downsample)))
            direct, judge = np.empty((2, _CHECKED_PX, _CHECKED_PX, 3), np.uint8)
            share = self._maybe_direct(tiles, *place, level, direct)
            if share is None:
                continue
            try:
                share_there = super().read_on_white(*place, level, judge)
            except SlideError as error:
                if error.reason is not FailureReason.READ:
                    raise
                return
            if share != share_there or not np.array_equal(direct, judge):
                return
            num_compared += 1
        if num_compared:
            self._refused.discard(level)
            self._checked[level] = tiles

    def _maybe_direct(self, tiles: FileTiles, x_l0: int, y_l0: int, level: int, out: np.ndarray) -> float | None:
        """As `read_on_white`, from the tiles; None where OpenSlide is to be asked (and may fail)."""
        height, width = out.shape[:2]
        if x_l0 < 0 or y_l0 < 0 or max(width, height) > _MAX_REGION_PX:
            return None
        downsample = self.info().levels[level].downsample
        x, y = place_of(x_l0 / downsample), place_of(y_l0 / downsample)
        try:
            if not (x.part_16 or y.part_16):
                return _copy(tiles, x.whole, y.whole, out)
            return _sample(tiles, x, y, out)
        except UnreadableTileError:
            return None


def _copy(tiles: FileTiles, x: int, y: int, out: np.ndarray) -> float:
    height, width = out.shape[:2]
    stored = _stored(tiles, x, y, out)
    if stored.shape != out.shape:
        out[:] = 255
    if stored.size:
        tiles.copy(x, y, stored)
    return 0.0 if stored.shape == out.shape else white_share(255 * (stored.size // 3), width * height)


def _sample(tiles: FileTiles, x: Place, y: Place, out: np.ndarray) -> float:
    stored = _stored(tiles, x.whole, y.whole, out)
    if not stored.size:
        out[:] = 255
        return white_share(0, out.size // 3)
    height, width = stored.shape[:2]
    block = np.zeros((height + 1, width + 1, 3), np.uint8)
    tiles.copy(x.whole, y.whole, _stored(tiles, x.whole, y.whole, block))
    weights = weights_of(x, y)
    sample_within(block, weights, stored)
    strips = paint_seams(block, weights, x, y, tiles.grid)
    if not strips and stored.shape == out.shape:
        return 0.0
    alpha = np.zeros(out.shape[:2], np.uint8)
    alpha[:height, :width] = 255
    for rows, columns, rgba in strips:
        alpha[rows, columns] = rgba[..., 3]
        on_white(rgba, stored[rows, columns])
    out[height:] = 255
    out[:, width:] = 255
    return white_share(int(alpha.sum(dtype=np.int64)), alpha.size)


def _stored(tiles: FileTiles, x: int, y: int, region: np.ndarray) -> np.ndarray:
    """The part of a region at (x, y) that lies within the level."""
    return region[: max(0, tiles.grid.height_px - y), : max(0, tiles.grid.width_px - x)]
