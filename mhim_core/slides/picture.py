"""A picture for eyes: the slide, its tissue and its tiles."""

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from mhim_core.features import MppUsed
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.reader import SlideReader

_TISSUE_RGB = (0, 140, 60)
_TILE_RGB = (40, 80, 220)


def draw_overview(
    reader: SlideReader, mpp: MppUsed, tissue: TissueMask, plan: TilePlan, max_side_px: int = 1600
) -> Image.Image:
    """The whole slide with the tissue's outline and the planned tiles, RGB, no side longer than `max_side_px`.

    Raises SlideError as `SlideReader.thumbnail` does.
    """
    info = reader.info()
    side_um = max(info.width_l0_px * mpp.x, info.height_l0_px * mpp.y)
    picture_mpp = max(side_um / max_side_px, mpp.x, mpp.y)
    pixels = reader.thumbnail(mpp, picture_mpp).pixels[:max_side_px, :max_side_px]
    edge = find_boundaries(_resampled(tissue, picture_mpp, pixels.shape[:2]), mode="inner")
    pixels[edge] = _TISSUE_RGB
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    x_scale, y_scale = mpp.x / picture_mpp, mpp.y / picture_mpp
    width, height = plan.tile_size_l0_px
    for x, y in plan.coords_l0_px.tolist():
        corners = (x * x_scale, y * y_scale, (x + width) * x_scale, (y + height) * y_scale)
        draw.rectangle(corners, outline=_TILE_RGB)
    return picture


def _resampled(tissue: TissueMask, mpp: float, shape: tuple[int, ...]) -> np.ndarray:
    """The mask at another resolution, nearest neighbour, bool of the given shape."""
    mask = tissue.is_tissue
    row, column = (
        np.minimum(((np.arange(num) + 0.5) * mpp / tissue.mask_mpp).astype(np.int64), size - 1)
        for num, size in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(row, column)]
