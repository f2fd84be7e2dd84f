"""Pixels of a slide, whichever backend decodes them: tiles, thumbnails, what cannot be read.

Everything handed out is RGB on white: what the scanner did not store is transparent in a backend and would turn black
if alpha were dropped.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.features import BackendUsed, MppUsed
from mhim_core.slides.advice import folder_advice
from mhim_core.slides.backend import Backend, open_backend
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.source_identity import is_folder_slide
from mhim_core.slides.spec import AUTO, MAX_THUMBNAIL_PX
from mhim_core.slides.tiff import check_tiff
from mhim_core.types import FailureReason

MAX_BAD_TILE_SHARE = 0.05
"""Share of unreadable tiles up to which a slide still counts; one is always forgiven, all never."""
_THUMBNAIL_SOURCE_PX = 2048
"""Side of the source block decoded at once for a thumbnail: a slide without a pyramid must not be decoded whole."""
_SMALLEST_RETRY_PX = 256
_NUM_PROBES = 16
_MAX_FALLBACK_PX = 4_000_000_000
"""Pixels of a finer level that are decoded for a thumbnail in place of a broken one: some minutes."""
_MAX_FAILED_READS = 256
"""Failed reads (each costs re-opening the file) after which a thumbnail is given up."""


@dataclass(frozen=True, eq=False)
class TileBatch:
    """Some tiles of a plan, in its order. b tiles."""

    index: np.ndarray
    """int64 (b,): positions in the plan."""
    tiles: np.ndarray
    """uint8 (b, tile_px, tile_px, 3), RGB on white."""
    background_share: np.ndarray
    """float32 (b,): share of the tile where the scanner stored nothing (transparent, or over the slide's edge)."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What else was asked for and is seen of the pixels alone: by the column's name, (b,)."""
    left_out: tuple[int, ...] = ()
    """Positions in the plan of tiles that were read and left out for their quality."""


class Thumbnail(NamedTuple):
    """The whole slide, coarsely."""

    pixels: np.ndarray
    """uint8 (rows, columns, 3), RGB on white; pixel (r, c) covers [c, c+1) × [r, r+1) × mpp µm exactly."""
    is_unreadable: np.ndarray
    """bool (rows, columns): the file is broken here; `pixels` is white."""


def open_slide(path: str | Path, backend: str = AUTO, ranged: RangedFile | None = None) -> "SlideReader":
    """Open a slide after checking its headers; `backend` as in `TileSpec`.

    `ranged`: that file, where it is fetched by ranges (`ranged_header`); None: all of it is there.

    Raises SlideError: NOT_FOUND (no such file), OPEN (unknown format, truncated or broken), TOO_LARGE (a header claims
    more than any scanner makes, or more than may be read whole).
    """
    path = Path(path)
    _check_file(path)
    try:
        return SlideReader(open_backend(path, backend, ranged))
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide file cannot be read: {error.strerror}") from error


class SlideReader:
    """One open slide. Not shared between threads; close it, or use it as a context manager."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._info = backend.info()
        self._last = ""
        self.bad_tiles: list[int] = []
        """Positions in the plan of the tiles that the last `tiles` call could not read."""

    def info(self) -> SlideInfo:
        return self._info

    @property
    def backend(self) -> BackendUsed:
        """Whose pixels they are."""
        return self._backend.used

    @property
    def decoder(self) -> str:
        """The name of the backend at work, which may be another one with the same pixels."""
        return self._backend.name

    def close(self) -> None:
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare_level(self, level: int) -> str:
        """As `Backend.prepare_level`."""
        return self._backend.prepare_level(level)

    def expect(self, plan: TilePlan) -> None:
        """The plan's tiles will be read: what is fetched by ranges may be fetched ahead."""
        self._backend.expect_regions(plan.level, plan.coords_l0_px, plan.read_px)

    def tiles(self, plan: TilePlan, batch_size: int = 64) -> Iterator[TileBatch]:
        """The plan's tiles in order, up to `batch_size` at once.

        An unreadable tile is left out and listed in `bad_tiles`, never replaced by white. Raises SlideError(READ) once
        more than max(1, 5 %) of the planned tiles, or all of them, are unreadable.
        """
        self.bad_tiles = []
        self.expect(plan)
        for start in range(0, len(plan), batch_size):
            coords = plan.coords_l0_px[start : start + batch_size].tolist()
            tiles = np.empty((len(coords), plan.tile_px, plan.tile_px, 3), np.uint8)
            region = np.empty((plan.read_px[1], plan.read_px[0], 3), np.uint8)
            index: list[int] = []
            background: list[float] = []
            for i, (x, y) in enumerate(coords, start):
                into = tiles[len(index)]
                is_resized = into.shape != region.shape
                share = self._maybe_read(x, y, plan.level, region if is_resized else into)
                if share is None:
                    self.bad_tiles.append(i)
                    self._check_bad_tiles(plan)
                    continue
                if is_resized:
                    into[:] = _resized(region, plan.tile_px)
                index.append(i)
                background.append(share)
            if index:
                yield TileBatch(np.array(index, np.int64), tiles[: len(index)], np.array(background, np.float32))

    def region(self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int]) -> np.ndarray | None:
        """uint8 (height, width, 3): that part of a level, RGB on white; None where the file is broken there.

        (x_l0, y_l0) is the top-left corner in level-0 pixels, `size_px` = (width, height) are pixels of `level`.
        """
        pixels = np.empty((size_px[1], size_px[0], 3), np.uint8)
        return None if self._maybe_read(x_l0, y_l0, level, pixels) is None else pixels

    def thumbnail(self, mpp: MppUsed, thumbnail_mpp: float) -> Thumbnail:
        """The slide at exactly `thumbnail_mpp` µm/px, area-averaged from the nearest finer level, block by block.

        What cannot be read is white and marked. A level of which nothing can be read, or nothing is stored, is left out
        for a finer one of which something is. Raises SlideError: READ if nothing can be read or too many reads fail,
        TOO_LARGE beyond MAX_THUMBNAIL_PX.
        """
        columns = math.ceil(self._info.width_l0_px * mpp.x / thumbnail_mpp)
        rows = math.ceil(self._info.height_l0_px * mpp.y / thumbnail_mpp)
        if rows * columns > MAX_THUMBNAIL_PX:
            raise SlideError(
                FailureReason.TOO_LARGE,
                f"the slide is {columns * thumbnail_mpp / 1000:.0f} × {rows * thumbnail_mpp / 1000:.0f} mm at "
                f"{mpp.x:g} µm/px ({mpp.source}); no glass is that large: give the right mpp in the cohort table",
            )
        wanted = min(thumbnail_mpp / mpp.x, thumbnail_mpp / mpp.y)
        info, failure = self._info, ""
        while True:
            level = info.level_for(wanted)
            downsample = info.levels[level].downsample
            scales = (thumbnail_mpp / mpp.x / downsample, thumbnail_mpp / mpp.y / downsample)
            attempt = self._attempt(rows, columns, _ThumbnailSource(level, downsample, *scales))
            failure = failure or self._failure(attempt)
            if attempt.stored > 0 and not self._failure(attempt):
                self._info = info
                return attempt.thumbnail
            info = info._replace(unreadable=(*info.unreadable, level))
            finer = info.levels[info.level_for(wanted)]
            if level > 0 and attempt.stored == 0 and finer.width_px * finer.height_px > _MAX_FALLBACK_PX:
                failure = failure or f"nothing is stored of level {level}, and the next is too large to look at"
            elif level > 0 and attempt.stored == 0:
                continue
            if failure:
                raise SlideError(FailureReason.READ, failure)
            return attempt.thumbnail

    def _failure(self, attempt: "_Attempt") -> str:
        if attempt.failures > _MAX_FAILED_READS:
            return f"more than {_MAX_FAILED_READS} reads failed; {self._last}"
        if attempt.thumbnail.is_unreadable.all():
            return f"no part of the slide can be read; {self._last}"
        return ""

    def _attempt(self, rows: int, columns: int, source: "_ThumbnailSource") -> "_Attempt":
        """A thumbnail from one level, given up after too many failed reads."""
        thumbnail = Thumbnail(np.full((rows, columns, 3), 255, np.uint8), np.zeros((rows, columns), bool))
        attempt = _Attempt(thumbnail)
        whole = self._info.levels[source.level]
        self._backend.expect_regions(source.level, np.zeros((1, 2), np.int64), (whole.width_px, whole.height_px))
        block = max(1, int(_THUMBNAIL_SOURCE_PX / max(source.scale_x, source.scale_y)))
        for top in range(0, rows, block):
            for left in range(0, columns, block):
                box = _Box(left, top, min(left + block, columns), min(top + block, rows))
                self._fill(attempt, box, source)
                if attempt.failures > _MAX_FAILED_READS:
                    return attempt
        return attempt

    def _fill(self, attempt: "_Attempt", box: "_Box", source: "_ThumbnailSource") -> None:
        """Fill one block, halving it around what cannot be read."""
        left, right = box.left * source.scale_x, box.right * source.scale_x
        top, bottom = box.top * source.scale_y, box.bottom * source.scale_y
        x, y = math.floor(left), math.floor(top)
        width, height = math.ceil(right) - x, math.ceil(bottom) - y
        # OpenSlide takes level-0 places: rounding to the nearest costs at most half a level-0 pixel
        pixels = np.empty((height, width, 3), np.uint8)
        share = self._maybe_read(round(x * source.downsample), round(y * source.downsample), source.level, pixels)
        if share is not None:
            # BOX averages what a coarser scan would integrate, and blocks meet without seams
            picture = Image.fromarray(pixels).resize(
                (box.right - box.left, box.bottom - box.top),
                Image.Resampling.BOX,
                box=(left - x, top - y, right - x, bottom - y),
            )
            attempt.thumbnail.pixels[box.top : box.bottom, box.left : box.right] = picture
            attempt.stored += 1.0 - share
            return
        attempt.failures += 1
        parts = box.quarters() if max(width, height) > _SMALLEST_RETRY_PX else []
        if not parts:
            attempt.thumbnail.is_unreadable[box.top : box.bottom, box.left : box.right] = True
        for part in parts:
            self._fill(attempt, part, source)

    def leave_out_broken(self, plan: TilePlan) -> bool:
        """Whether the plan's level is broken as a whole; `info()` then leaves it out.

        So it is where none of 16 planned tiles can be read, or nothing is stored of those that hold tissue. Level 0 has
        no other to take its place, and is never left out.
        """
        if plan.level == 0 or not len(plan):
            return False
        order = np.argsort(-plan.tissue_share, kind="stable")[: max(_NUM_PROBES, len(plan) // 2)]
        chosen = order[np.linspace(0, len(order) - 1, min(len(order), _NUM_PROBES)).round().astype(int)]
        region = np.empty((plan.read_px[1], plan.read_px[0], 3), np.uint8)
        for index in chosen:
            x, y = plan.coords_l0_px[index].tolist()
            share = self._maybe_read(x, y, plan.level, region)
            if share is not None and (share < 1.0 or plan.tissue_share[index] == 0):
                return False
        self._info = self._info._replace(unreadable=(*self._info.unreadable, plan.level))
        return True

    def _maybe_read(self, x_l0: int, y_l0: int, level: int, out: np.ndarray) -> float | None:
        """One region on white into `out`; its share that is not stored, or None if the file is broken there."""
        try:
            return self._backend.read_on_white(x_l0, y_l0, level, out)
        except SlideError as error:
            if error.reason is not FailureReason.READ:
                raise
            self._last = error.message
            return None

    def _check_bad_tiles(self, plan: TilePlan) -> None:
        bad = len(self.bad_tiles)
        if bad > max(1, MAX_BAD_TILE_SHARE * len(plan)) or bad == len(plan):
            raise SlideError(
                FailureReason.READ, f"{bad} of {len(plan)} planned tiles cannot be read, the limit is 5 %; {self._last}"
            )


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            if is_folder_slide(path):
                return
            message = f"the slide file is a folder, and no OME-Zarr; {folder_advice(path)}"
            raise SlideError(FailureReason.NOT_FOUND, message)
        if not path.is_file():
            what = "is a pipe or a device" if path.exists() else "does not exist"
            raise SlideError(FailureReason.NOT_FOUND, f"the slide file {what}; check the cohort's path")
        check_tiff(path)
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide file cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise SlideError(FailureReason.NOT_FOUND, f"the slide's path is not valid: {error}") from error


class _ThumbnailSource(NamedTuple):
    """Where a thumbnail's pixels come from; scales are level pixels per thumbnail pixel."""

    level: int
    downsample: float
    scale_x: float
    scale_y: float


@dataclass(eq=False)
class _Attempt:
    """A thumbnail in the making."""

    thumbnail: Thumbnail
    failures: int = 0
    """Failed reads."""
    stored: float = 0.0
    """Blocks that were read, each by the share of it that is stored."""


class _Box(NamedTuple):
    """A block of the thumbnail, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def quarters(self) -> "list[_Box]":
        """The block cut in up to four; empty if it is a single pixel."""
        if (self.right - self.left) * (self.bottom - self.top) == 1:
            return []
        x, y = (self.left + self.right + 1) // 2, (self.top + self.bottom + 1) // 2
        parts = [
            _Box(self.left, self.top, x, y),
            _Box(x, self.top, self.right, y),
            _Box(self.left, y, x, self.bottom),
            _Box(x, y, self.right, self.bottom),
        ]
        return [part for part in parts if part.left < part.right and part.top < part.bottom]


def _resized(pixels: np.ndarray, tile_px: int) -> np.ndarray:
    """Exactly tile_px square. LANCZOS with antialiasing: BOX near 1 (257 → 256) would drop single columns."""
    return np.asarray(Image.fromarray(pixels).resize((tile_px, tile_px), Image.Resampling.LANCZOS))
