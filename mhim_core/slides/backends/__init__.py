"""Who decodes a slide's pixels. One file a backend: what the file states, and the pixels of a region; no more.

White ground, thumbnails, bad tiles, strips and tiles are above (`slides/reader.py`) and the same for every backend. A
new backend is a file here, a name and a version in `slides/spec.py`, and a line in `open_backend`.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from mhim_core.slides.info import SlideInfo
from mhim_core.slides.spec import BackendName


class Backend(Protocol):
    """One open file. Not shared between threads."""

    name: BackendName

    def info(self) -> SlideInfo: ...

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 4), RGBA; transparent where nothing is stored, also beyond the edge.

        Raises SlideError(READ) where the file is broken; the next read is not affected by it.
        """
        ...

    def close(self) -> None: ...


def open_backend(path: Path, name: BackendName) -> Backend:
    """The named backend's open file; OpenSlide hands what it cannot read in colour to `plain`.

    Raises SlideError: OPEN, TOO_LARGE.
    """
    from mhim_core.slides.backends.layouts import file_layout
    from mhim_core.slides.backends.openslide import OpenSlideBackend
    from mhim_core.slides.backends.plain import PlainBackend

    layout = file_layout(path)
    if name is BackendName.plain or layout.is_plain:
        return PlainBackend(path, layout)
    return OpenSlideBackend(path, layout)
