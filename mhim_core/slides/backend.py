"""What every backend is, and which one opens a file. The registry of them is `registry`."""

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.features import BackendUsed
from mhim_core.slides.advice import advice
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.registry import backend_class
from mhim_core.slides.registry import register_backend as register_backend
from mhim_core.slides.spec import AUTO, DIRECT, OPENSLIDE, PLAIN, TIFFFILE
from mhim_core.types import FailureReason

_BLENDED_PX = 2**20
"""Pixels laid on white at a time."""

if TYPE_CHECKING:  # which imports tifffile
    from mhim_core.slides.file_layout import FileLayout


class Backend(ABC):
    """One open file. Not shared between threads. Its memory may grow with a level's size only where it says so."""

    name: ClassVar[str]
    used: ClassVar[BackendUsed]
    """Whose pixels they are. Both are set by `register_backend`."""

    @abstractmethod
    def __init__(self, path: Path, layout: "FileLayout") -> None:
        """Raises SlideError: OPEN if this backend does not read such a file, TOO_LARGE."""

    @abstractmethod
    def info(self) -> SlideInfo:
        """What the file states, unjudged."""

    @abstractmethod
    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 4), RGBA; transparent where nothing is stored, also beyond the edge.

        (x_l0, y_l0) is the top-left corner in level-0 pixels, width and height are pixels of `level`. Raises
        SlideError(READ) where the file is broken; the next read is not affected by it.
        """

    def read_on_white(self, x_l0: int, y_l0: int, level: int, out: np.ndarray) -> float:
        """Fill `out`, uint8 (height, width, 3), with the region, RGB on white; returns the share that is not stored.

        As `read_region` otherwise, by which it is defined.
        """
        height, width = out.shape[:2]
        return on_white(self.read_region(x_l0, y_l0, level, width, height), out)

    def prepare_level(self, level: int) -> str:
        """Called before tiles are read from a level; returns what a person should know of it, or nothing."""
        return ""

    def read_ranged(self, ranged: RangedFile) -> bool:
        """Whether it will say of all bytes what it is about to read, from now on; it has read the header alone.

        Called once, before the first read, of a file that is fetched by ranges. False: it is to be fetched whole.
        """
        return False

    def expect_regions(self, level: int, coords_l0_px: np.ndarray, read_px: tuple[int, int]) -> None:
        """These regions of a level, int (n, 2), will be read; all are `read_px` = (width, height) large.

        What is fetched by ranges may be fetched ahead.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Release the file."""


def open_backend(path: Path, name: str, ranged: RangedFile | None = None) -> Backend:
    """The file, opened by the named backend; `ranged` is that file, where it is fetched by ranges.

    auto: direct for tiles of JPEG, plain for what OpenSlide reads no colours from, zarr and fastslide for the formats
    that are theirs alone, tifffile for TIFFs too large for plain or in a compression that OpenSlide refuses, OpenSlide
    otherwise.

    Raises SlideError: OPEN, with what is known of such a file, TOO_LARGE.
    """
    if ranged is not None:
        with contextlib.suppress(SlideError):  # of a hole, perhaps
            backend = _chosen(path, name)
            if backend.read_ranged(ranged):
                return backend
            backend.close()
        ranged.complete()
    return _chosen(path, name)


def _chosen(path: Path, name: str) -> Backend:
    from mhim_core.slides.file_layout import file_layout

    try:
        layout = file_layout(path)
        if name != AUTO:
            return _opened(name, path, layout)
        try:
            return _opened(_choice(layout), path, layout)
        except SlideError as error:
            if error.reason is not FailureReason.OPEN or not layout.is_rare_tiff:
                raise
            return _opened(TIFFFILE, path, layout)
    except SlideError as error:
        if error.reason is FailureReason.OPEN and (text := advice(path)):
            raise SlideError(FailureReason.OPEN, f"{text} ({error.message})") from error
        raise


def _choice(layout: "FileLayout") -> str:
    """The backend that auto asks first."""
    if layout.reader:
        return layout.reader
    if layout.is_plain:
        return TIFFFILE if layout.is_large else PLAIN
    return DIRECT if layout.is_jpeg_tiles else OPENSLIDE


def _opened(name: str, path: Path, layout: "FileLayout") -> Backend:
    backend: Backend = backend_class(name)(path, layout)
    return backend


def on_white(rgba: np.ndarray, out: np.ndarray) -> float:
    """Lay uint8 (h, w, 4) on white into `out`, uint8 (h, w, 3); returns `white_share`."""
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        out[:] = rgba[..., :3]
        return 0.0
    rows = max(1, _BLENDED_PX // alpha.shape[1])
    for top in range(0, len(alpha), rows):  # what is computed in between takes five times what comes out
        weight = alpha[top : top + rows, :, None].astype(np.uint16)
        blended = (rgba[top : top + rows, :, :3] * weight + 255 * (255 - weight) + 127) // 255
        out[top : top + rows] = blended.astype(np.uint8)
    return white_share(int(alpha.sum(dtype=np.int64)), alpha.size)


def white_share(alpha_sum: int, num_px: int) -> float:
    """Share of a region where nothing is stored, from the sum of its alpha (0 to 255 a pixel)."""
    return 1.0 - alpha_sum / num_px / 255


def cut_region(pixels: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 4): that part of a picture of 3 or 4 channels, transparent beyond its edge."""
    region = np.zeros((height, width, 4), np.uint8)
    rows, columns = pixels.shape[:2]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
    if left < right and top < bottom:
        part = pixels[top:bottom, left:right]
        into = region[top - y : bottom - y, left - x : right - x]
        into[..., : part.shape[2]] = part
        if part.shape[2] == 3:
            into[..., 3] = 255
    return region
