"""A picture for eyes: the slide, its tissue, the regions drawn on it, and its tiles."""

import colorsys
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.segmentation import find_boundaries

from mhim_core.features import TILE_CLASS, MppUsed
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.reader import SlideReader
from mhim_core.slides.regions import EVERYWHERE, RegionMasks

_TISSUE_RGB = (0, 140, 60)
_TILE_RGB = (40, 80, 220)
_INSIDE_RGB = (230, 120, 0)
_LEFT_OUT = 0.55
"""How much of white is laid over what is outside of the regions that tiles are taken from."""
_LEGEND_ROW_PX = 16


def draw_overview(
    reader: SlideReader,
    mpp: MppUsed,
    tissue: TissueMask,
    plan: TilePlan,
    regions: RegionMasks = EVERYWHERE,
    max_side_px: int = 1600,
) -> Image.Image:
    """The whole slide with the tissue's outline and the planned tiles, RGB, no side longer than `max_side_px`.

    Where tiles may not lie is pale; regions have an outline in the colour of their class, and tiles of a class a frame
    in it.

    Raises SlideError as `SlideReader.thumbnail` does.
    """
    info = reader.info()
    side_um = max(info.width_l0_px * mpp.x, info.height_l0_px * mpp.y)
    picture_mpp = max(side_um / max_side_px, mpp.x, mpp.y)
    pixels = reader.thumbnail(mpp, picture_mpp).pixels[:max_side_px, :max_side_px]
    if regions.inside is not None:
        is_outside = ~_resampled(regions.inside, picture_mpp, pixels.shape[:2])
        pixels[is_outside] = pixels[is_outside] * (1 - _LEFT_OUT) + 255 * _LEFT_OUT
    _outline(pixels, tissue, picture_mpp, _TISSUE_RGB, width_px=1)
    if regions.inside is not None:
        _outline(pixels, regions.inside, picture_mpp, _INSIDE_RGB, width_px=3)
    rgb_of = class_colours(regions.classes)
    for name, mask in regions.classes.items():
        _outline(pixels, mask, picture_mpp, rgb_of[name], width_px=2)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    x_scale, y_scale = mpp.x / picture_mpp, mpp.y / picture_mpp
    width, height = plan.tile_size_l0_px
    classes = plan.columns.get(TILE_CLASS, np.full(len(plan), ""))
    for (x, y), name in zip(plan.coords_l0_px.tolist(), classes, strict=True):
        corners = (x * x_scale, y * y_scale, (x + width) * x_scale, (y + height) * y_scale)
        draw.rectangle(corners, outline=rgb_of.get(name, _TILE_RGB))
    for number, (name, rgb) in enumerate(rgb_of.items()):
        top = 4 + number * _LEGEND_ROW_PX
        draw.rectangle((4, top, 15, top + 11), fill=rgb)
        draw.text((20, top), name, fill=(0, 0, 0))
    return picture


def class_colours(names: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """A colour for each class, as far apart as so many hues can be, none of them the tissue's green or the tiles' blue
    at full strength."""
    names = sorted(names)
    hues = [number / max(1, len(names)) for number in range(len(names))]
    rgb = [colorsys.hsv_to_rgb(hue, 0.9, 0.75) for hue in hues]
    return {
        name: (round(red * 255), round(green * 255), round(blue * 255))
        for name, (red, green, blue) in zip(names, rgb, strict=True)
    }


def _outline(pixels: np.ndarray, mask: TissueMask, mpp: float, rgb: tuple[int, int, int], width_px: int) -> None:
    """Paint the mask's inner boundary."""
    edge = find_boundaries(_resampled(mask, mpp, pixels.shape[:2]), mode="inner")
    if width_px > 1:
        edge = ndimage.binary_dilation(edge, iterations=width_px - 1)
    pixels[edge] = rgb


def _resampled(tissue: TissueMask, mpp: float, shape: tuple[int, ...]) -> np.ndarray:
    """The mask at another resolution, nearest neighbour, bool of the given shape."""
    mask = tissue.is_tissue
    row, column = (
        np.minimum(((np.arange(num) + 0.5) * mpp / tissue.mask_mpp).astype(np.int64), size - 1)
        for num, size in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(row, column)]
