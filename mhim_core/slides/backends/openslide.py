"""Every format that OpenSlide 4 knows: the reference, and the only place that imports openslide."""

from pathlib import Path

import numpy as np
import openslide

from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, register_backend
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.tiff import check_dimensions
from mhim_core.types import FailureReason

_LIBRARY_ERRORS = (openslide.OpenSlideError, OSError, ValueError, MemoryError)


@register_backend("openslide", version=1)
class OpenSlideBackend(Backend):
    """An open OpenSlide handle, replaced after an error."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        if layout.is_plain:  # of planes of colour, OpenSlide would show one
            raise SlideError(FailureReason.OPEN, f"OpenSlide does not read {layout.kind}; set backend=auto")
        self._path = path
        self._layout = layout
        self._slide = self._open()
        self._info = self._read_info()

    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        """As `Backend.read_region`. OpenSlide's errors are sticky: after one, every later read of the handle fails."""
        try:
            return np.asarray(self._slide.read_region((x_l0, y_l0), level, (width, height)))
        except _LIBRARY_ERRORS as error:
            self._slide.close()
            self._slide = self._open()
            raise SlideError(FailureReason.READ, self._describe(error)) from error

    def close(self) -> None:
        self._slide.close()

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self._path)
        except _LIBRARY_ERRORS as error:
            kind = f" ({self._layout.kind})" if self._layout.kind else ""
            message = f"OpenSlide cannot open it{kind}: {self._describe(error)}"
            if self._layout.kind and isinstance(error, openslide.OpenSlideUnsupportedFormatError):
                message += "; a picture becomes a slide by: vips tiffsave IN OUT.tiff --tile --pyramid --Q 90"
            raise SlideError(FailureReason.OPEN, message) from error

    def _describe(self, error: BaseException) -> str:
        # paths can name patients: they are not repeated in messages
        text = str(error).replace(str(self._path), "the file")
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _read_info(self) -> SlideInfo:
        slide = self._slide
        try:
            sizes, downsamples = slide.level_dimensions, slide.level_downsamples
            properties = slide.properties
            mpp_x, mpp_y = (
                _maybe_float(properties.get(name))
                for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
            )
            if self._layout.mpp is not None:
                mpp_x, mpp_y = self._layout.mpp  # an OME-TIFF's own word, where OpenSlide reads the TIFF's tags
            info = SlideInfo(
                levels=tuple(Level(w, h, float(d)) for (w, h), d in zip(sizes, downsamples, strict=True)),
                mpp_x=mpp_x,
                mpp_y=mpp_y,
                vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, ""),
                objective_power=_maybe_float(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
            )
            check_dimensions(info.width_l0_px, info.height_l0_px)
        except _LIBRARY_ERRORS as error:
            slide.close()
            raise SlideError(FailureReason.OPEN, f"its properties cannot be read: {self._describe(error)}") from error
        except SlideError:
            slide.close()
            raise
        return info


def _maybe_float(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
