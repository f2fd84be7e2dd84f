"""What every backend is, and which one opens a file. The registry of them is `registry`."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mhim_core.features import BackendUsed
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.registry import backend_class
from mhim_core.slides.registry import register_backend as register_backend
from mhim_core.slides.spec import AUTO, OPENSLIDE, PLAIN

if TYPE_CHECKING:  # which imports tifffile
    from mhim_core.slides.backends.layouts import FileLayout


class Backend(ABC):
    """One open file. Not shared between threads. Its memory may grow with a level's size only where it says so."""

    used: ClassVar[BackendUsed]
    """Set by `register_backend`."""

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

    @abstractmethod
    def close(self) -> None: ...


def open_backend(path: Path, name: str) -> Backend:
    """The file, opened by the named backend; auto: by OpenSlide, or by plain if OpenSlide reads no colours from it.

    Raises SlideError: OPEN, TOO_LARGE.
    """
    from mhim_core.slides.backends.layouts import file_layout

    layout = file_layout(path)
    if name == AUTO:
        name = PLAIN if layout.is_plain else OPENSLIDE
    backend: Backend = backend_class(name)(path, layout)
    return backend


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
