"""Pictures without tiles or a pyramid, read whole: PNG, JPEG, untiled TIFF, OME-TIFF whose channels are planes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, cut_region, register_backend
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.spec import MAX_PLAIN_PX
from mhim_core.types import FailureReason

_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")


@register_backend("plain", version=1)
class PlainBackend(Backend):
    """One level, in memory from the first read on."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self._path = path
        self._layout = layout
        self._pixels: np.ndarray | None = None
        width, height = self._size()
        _check_size(layout.kind or "picture", width, height)
        mpp_x, mpp_y = layout.mpp or (None, None)  # a picture's dpi is of paper, not of the specimen
        self._info = SlideInfo(
            levels=(Level(width, height, 1.0),), mpp_x=mpp_x, mpp_y=mpp_y, vendor=layout.kind, objective_power=None
        )

    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        if self._pixels is None:
            try:
                self._pixels = self._read()
            except Exception as error:
                raise SlideError(FailureReason.READ, f"its pixels cannot be read: {type(error).__name__}") from error
        return cut_region(self._pixels, x_l0, y_l0, width, height)

    def close(self) -> None:
        self._pixels = None

    @property
    def _is_tiff(self) -> bool:
        return self._layout.kind not in ("PNG", "JPEG")

    def _size(self) -> tuple[int, int]:
        try:
            if self._is_tiff:
                with tifffile.TiffFile(self._path) as tiff:
                    page: Any = tiff.pages.first
                    return int(page.imagewidth), int(page.imagelength)
            with Image.open(self._path) as picture:
                if picture.mode not in _MODES:
                    raise SlideError(
                        FailureReason.OPEN,
                        f"a {self._layout.kind} of mode {picture.mode} is no colour picture of 8 bits a channel",
                    )
                return picture.size
        except SlideError:
            raise
        except Exception as error:
            raise SlideError(FailureReason.OPEN, f"it cannot be opened: {type(error).__name__}") from error

    def _read(self) -> np.ndarray:
        with warnings.catch_warnings(), Image.open(self._path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PLAIN_PX is the limit here
            if self._layout.is_planes and getattr(picture, "n_frames", 1) >= 3:
                return np.stack([self._plane(picture, index) for index in range(3)], axis=-1)
            has_alpha = "A" in picture.mode or "transparency" in picture.info
            return np.asarray(picture.convert("RGBA" if has_alpha else "RGB"))

    @staticmethod
    def _plane(picture: Image.Image, index: int) -> np.ndarray:
        picture.seek(index)
        if picture.mode != "L":
            raise ValueError(picture.mode)
        return np.asarray(picture)


def _check_size(kind: str, width: int, height: int) -> None:
    if width * height > MAX_PLAIN_PX:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"a {kind} of {width:,} × {height:,} pixels must be read whole, and the limit is {MAX_PLAIN_PX:,}; make a "
            "pyramid of it: vips tiffsave IN OUT.tiff --tile --pyramid --bigtiff --compression jpeg --Q 90",
        )
