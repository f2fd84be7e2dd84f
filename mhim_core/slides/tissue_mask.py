"""A slide's own picture of its tissue: PNG or TIFF of the whole slide at any resolution; what is not zero is tissue."""

import io
import warnings

import numpy as np
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides.annotations import bad_annotation
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.spec import GLASS_RULE
from mhim_core.types import FailureReason

SUFFIXES = (".png", ".tif", ".tiff")
_FORMATS = ("PNG", "TIFF")
_MAX_PX = 64_000_000
_MAX_ASPECT_ERROR = 0.02
"""Of the mask's sides against the slide's; a pixel more or less is rounding."""


def read_mask(data: bytes | None, info: SlideInfo, mpp: MppUsed, shape: tuple[int, ...]) -> np.ndarray:
    """bool of the given shape (rows, columns), the grid of the tissue's mask at 8 µm/px: tissue covers half or more.

    Raises SlideError: NO_ANNOTATION without data, BAD_ANNOTATION for what is no picture, or of other proportions.
    """
    if data is None:
        raise SlideError(FailureReason.NO_ANNOTATION, "tissue=mask, and the slide has no mask")
    is_tissue = _pixels(data)
    rows, columns = is_tissue.shape
    width, height = info.width_l0_px, info.height_l0_px
    tolerance = max(_MAX_ASPECT_ERROR, 1.5 / rows + 1.5 / columns)
    if abs((columns / rows) / (width / height) - 1) > tolerance:
        raise bad_annotation(
            f"the mask has {columns} × {rows} pixels and the slide {width} × {height}: other proportions; is it the "
            "mask of another slide, or of a part of it?"
        )
    # edges of the 8 µm grid's cells, in pixels of the mask
    step_x = GLASS_RULE.mask_mpp / mpp.x * columns / width
    step_y = GLASS_RULE.mask_mpp / mpp.y * rows / height
    left, top = np.arange(shape[1]) * step_x, np.arange(shape[0]) * step_y
    share = TissueMask(is_tissue=is_tissue, mask_mpp=1.0).share_in_grid(
        left, np.minimum(left + step_x, columns), top, np.minimum(top + step_y, rows)
    )
    return np.asarray(share >= 0.5)


def _pixels(data: bytes) -> np.ndarray:
    """bool (rows, columns): not zero in any colour; a palette's index counts, transparency does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd tags, and sizes that are checked here
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                if picture.width * picture.height > _MAX_PX:
                    raise bad_annotation(
                        f"the mask has {picture.width} × {picture.height} pixels, more than {_MAX_PX:,}; 8 µm/px do"
                    )
                pixels = np.asarray(picture)
                num_colours = len([band for band in picture.getbands() if band != "A"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise bad_annotation(f"the mask is no PNG or TIFF that can be read: {error}") from error
    if pixels.ndim == 3:
        pixels = np.asarray(pixels[..., :num_colours].any(axis=-1))
    return np.asarray(pixels != 0)
