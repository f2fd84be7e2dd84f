"""Encoding, resizing and arranging images. Images are uint8 (H, W, 3), RGB."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]


def encode_png(image: RgbImage) -> bytes:
    """Lossless; no date or host in it."""
    return _encode(image, "PNG", optimize=True)


def encode_jpeg(image: RgbImage, quality: int = 85) -> bytes:
    """For tissue, a tenth of the PNG's size."""
    return _encode(image, "JPEG", quality=quality)


def fit(image: RgbImage, max_px: int) -> RgbImage:
    """The image reduced so that its longer side is at most `max_px`; never enlarged."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = max_px / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def montage(tiles: Sequence[RgbImage], *, columns: int = 4, tile_px: int = 160, gap_px: int = 6) -> RgbImage:
    """Tiles of one shape in rows, in reading order, on white. Raises ValueError if there is none."""
    if not len(tiles):
        raise ValueError("a montage needs at least one tile")
    tiles = [fit(np.asarray(tile), tile_px) for tile in tiles]
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    num_rows = -(-len(tiles) // columns)
    sheet = np.full(
        (num_rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, dtype=np.uint8
    )
    for index, tile in enumerate(tiles):
        y, x = index // columns * (height + gap_px), index % columns * (width + gap_px)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def media_type(data: bytes) -> str:
    """`image/png` or `image/jpeg`. Raises ValueError for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    raise ValueError(f"a report's image is neither PNG nor JPEG: it starts with {data[:8]!r}")


def _encode(image: RgbImage, image_format: str, **options: int | bool) -> bytes:
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=image_format, **options)
    return buffer.getvalue()


def is_long(data: bytes) -> bool:
    """Whether a page should give an encoded picture its own scroll bar rather than shrink it: one side is over four
    times the other."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(data)).size
    return max(width, height) > 4 * min(width, height)
