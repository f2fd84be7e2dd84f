"""CZI, iSyntax and VSI through fastslide, for what OpenSlide does not open.

Its pixels differ from OpenSlide's by up to 22 grey levels, so that it has an identity of its own. fastslide 0.8 shows
damaged blocks of a CZI as white and raises nothing: a slide's row says so.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, cut_region, register_backend
from mhim_core.slides.blocks import check_scenes
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.file_tiles import CACHE_BYTES
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.tiff import check_dimensions
from mhim_core.types import FailureReason

SERIES = "0.8"
"""Of other versions the pixels are not known."""


@register_backend("fastslide", version=1)
class FastSlideBackend(Backend):
    """An open fastslide handle."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        library = _library(layout.kind or "such a file")
        self._path = path
        try:
            self._slide: Any = library.FastSlide.from_file_path(str(path), cache=CACHE_BYTES)
            self._info = _info(self._slide)
            check_scenes(
                [picture.dimensions[0] * picture.dimensions[1] for picture in self._slide.images],
                "export each as a file of its own",
            )
        except SlideError:
            raise
        except Exception as error:  # RuntimeError, and what nanobind makes of others
            raise SlideError(FailureReason.OPEN, f"fastslide cannot open it: {self._describe(error)}") from error

    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        of_level = self._info.levels[level]
        x, y = round(x_l0 / of_level.downsample), round(y_l0 / of_level.downsample)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, of_level.width_px), min(y + height, of_level.height_px)
        if left >= right or top >= bottom:
            return np.zeros((height, width, 4), np.uint8)
        try:
            image = self._slide.read_region((left, top), level, (right - left, bottom - top))
            pixels = np.asarray(image.numpy())
        except Exception as error:
            raise SlideError(FailureReason.READ, self._describe(error)) from error
        if pixels.shape[:2] != (bottom - top, right - left) or pixels.shape[2:] not in ((3,), (4,)):
            raise SlideError(FailureReason.READ, f"fastslide gave an array of {pixels.shape}")
        return cut_region(pixels, x - left, y - top, width, height)

    def prepare_level(self, level: int) -> str:
        return "read by fastslide, which shows damaged parts of a file as white"

    def close(self) -> None:
        self._slide = None

    def _describe(self, error: BaseException) -> str:
        text = str(error).partition("\n")[0].replace(str(self._path), "the file").replace(self._path.name, "the file")
        return f"{type(error).__name__}: {text}"[:300]


def _library(kind: str) -> Any:
    """The imported module. Raises SlideError(OPEN) where it is missing, or another one than its pixels are known of."""
    try:
        import fastslide
    except ImportError as error:
        raise SlideError(
            FailureReason.OPEN,
            f"OpenSlide does not read {kind}, and fastslide, which does, is not installed: "
            "pip install 'mhim[fastslide]' (Python 3.11), or export the slide as OME-TIFF",
        ) from error
    if not fastslide.__version__.startswith(f"{SERIES}."):
        raise SlideError(
            FailureReason.OPEN, f"fastslide {fastslide.__version__} may have other pixels; install fastslide {SERIES}"
        )
    return fastslide


def _info(slide: Any) -> SlideInfo:
    properties = slide.properties
    if slide.dtype != "uint8" or slide.num_channels not in (3, 4):
        raise SlideError(
            FailureReason.OPEN,
            f"{slide.num_channels} channels of {slide.dtype} are no bright-field picture (one of three 8-bit channels)",
        )
    if slide.z_count > 1 or slide.t_count > 1:
        raise SlideError(
            FailureReason.OPEN,
            f"it holds {slide.z_count} focal planes and {slide.t_count} times, of which one would have to be chosen; "
            "export one as a file of its own",
        )
    sizes, downsamples = slide.level_dimensions, slide.level_downsamples
    mpp_x, mpp_y = (float(mpp) or None for mpp in slide.mpp)  # 0: it states none
    info = SlideInfo(
        levels=tuple(Level(int(w), int(h), float(d)) for (w, h), d in zip(sizes, downsamples, strict=True)),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        vendor=str(slide.format),
        objective_power=float(properties.get("objective_magnification") or 0) or None,
    )
    check_dimensions(info.width_l0_px, info.height_l0_px)
    return info
