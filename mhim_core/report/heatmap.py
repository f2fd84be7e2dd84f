"""Heat maps: a model's attention over the slide's thumbnail.

Attention is shown as its rank within the slide, 0 to 1: raw softmax attention is so skewed that a few tiles would be
bright and all others alike. A rank does not show how much: the brightest tile of a negative slide is as bright as
that of a positive one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.report.images import RgbImage

COLOUR_MAP = "viridis"
"""Perceptually uniform, readable with any colour vision, and its yellow stands out from haematoxylin and eosin."""
_OUTLINE_RGB = (214, 39, 40)
_BAR_PX = 64


class _Boxes(NamedTuple):
    """(N,) each: the tiles in thumbnail pixels, upper ends exclusive."""

    left: NDArray[np.int64]
    top: NDArray[np.int64]
    right: NDArray[np.int64]
    bottom: NDArray[np.int64]


def heatmap(
    thumbnail: RgbImage,
    coords_l0_px: ArrayLike,
    attention: ArrayLike,
    *,
    tile_size_l0_px: tuple[int, int],
    slide_size_l0_px: tuple[int, int],
    opacity: float = 0.6,
    outlined: Sequence[int] = (),
    with_bar: bool = True,
) -> RgbImage:
    """The thumbnail with coloured tiles: uint8 (H, W + bar, 3).

    `thumbnail` uint8 (H, W, 3) shows the whole slide; `coords_l0_px` (N, 2) are tiles' top-left corners (x, y) and
    sizes are (width, height), all in level-0 pixels; `attention` (N,). `outlined`: tiles to draw a frame around.
    Overlapping tiles are averaged. N = 0 gives the thumbnail alone. Raises ValueError for shapes that do not fit.
    """
    coords = np.asarray(coords_l0_px, dtype=np.float64).reshape(-1, 2)
    rank_N = percentile_rank(attention)
    if len(coords) != len(rank_N):
        raise ValueError(f"{len(coords)} tiles have {len(rank_N)} attention values")
    boxes = _boxes(coords, tile_size_l0_px, slide_size_l0_px, thumbnail.shape[:2])
    value_HW, count_HW = _paint(boxes, rank_N, thumbnail.shape[:2])
    covered = count_HW > 0
    image = thumbnail.copy()
    colour = _colours(value_HW[covered])
    image[covered] = np.rint((1 - opacity) * thumbnail[covered] + opacity * colour).astype(np.uint8)
    for index in outlined:
        _outline(image, boxes, index)
    return np.concatenate([image, _colour_bar(image.shape[0])], axis=1) if with_bar and len(coords) else image


def percentile_rank(attention: ArrayLike) -> NDArray[np.float64]:
    """(N,) → (N,): 0 for the lowest, 1 for the highest, ties share their mean rank; all equal: 0.5."""
    values = np.asarray(attention, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"attention has shape {values.shape}; (N,) is needed")
    if not np.isfinite(values).all():
        raise ValueError("attention holds NaN or infinity")
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count + 1) / 2
    return mean_rank[index] / (len(values) - 1) if len(values) > 1 else np.full(len(values), 0.5)


def _boxes(
    coords: NDArray[np.float64],
    tile_size_l0_px: tuple[int, int],
    slide_size_l0_px: tuple[int, int],
    thumbnail_shape: tuple[int, ...],
) -> _Boxes:
    height, width = thumbnail_shape
    scale = np.array([width, height]) / np.asarray(slide_size_l0_px)
    limit = np.array([width, height])
    low = np.clip(np.rint(coords * scale), 0, limit - 1).astype(np.int64)
    high = np.rint((coords + np.asarray(tile_size_l0_px)) * scale).astype(np.int64)
    high = np.clip(high, low + 1, limit)  # at least a pixel, however small the thumbnail
    return _Boxes(low[:, 0], low[:, 1], high[:, 0], high[:, 1])


class _Painted(NamedTuple):
    """(H, W) each."""

    value: NDArray[np.float64]
    num_tiles: NDArray[np.int64]


def _paint(boxes: _Boxes, values_N: NDArray[np.float64], shape: tuple[int, ...]) -> _Painted:
    """(H, W) mean value and number of tiles at each pixel: corners, then two cumulative sums, for any N."""
    total = np.zeros((shape[0] + 1, shape[1] + 1))
    count = np.zeros_like(total, dtype=np.int64)
    for y, x, sign in (
        (boxes.top, boxes.left, 1),
        (boxes.top, boxes.right, -1),
        (boxes.bottom, boxes.left, -1),
        (boxes.bottom, boxes.right, 1),
    ):
        np.add.at(total, (y, x), sign * values_N)
        np.add.at(count, (y, x), sign)
    total = total.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    count = count.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return _Painted(np.clip(total / np.maximum(count, 1), 0, 1), count)


def _colours(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…,) in 0 … 1 → (…, 3) in 0 … 255."""
    from matplotlib import colormaps

    table = colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3] * 255
    return np.asarray(table[np.rint(values * 255).astype(np.int64)])


def _outline(image: RgbImage, boxes: _Boxes, index: int) -> None:
    left, top, right, bottom = (int(side[index]) for side in boxes)
    thickness = max(1, min(3, (right - left) // 12))
    inner = image[top + thickness : bottom - thickness, left + thickness : right - thickness].copy()
    image[top:bottom, left:right] = _OUTLINE_RGB
    image[top + thickness : bottom - thickness, left + thickness : right - thickness] = inner


def _colour_bar(height: int) -> RgbImage:
    """(height, 64, 3): the scale, from the highest rank at the top."""
    from PIL import Image, ImageDraw, ImageFont

    bar = np.full((height, _BAR_PX, 3), 255, dtype=np.uint8)
    margin = min(26, height // 4)
    length = height - 2 * margin
    if length > 0:
        bar[margin : margin + length, 16:34] = np.rint(_colours(np.linspace(1, 0, length)))[:, None]
    picture = Image.fromarray(bar)
    if margin >= 20:
        draw = ImageDraw.Draw(picture)
        font = ImageFont.load_default(18)
        draw.text((25, 3), "high", fill=(40, 40, 40), font=font, anchor="mt")
        draw.text((25, height - 4), "low", fill=(40, 40, 40), font=font, anchor="mb")
    return np.asarray(picture)
