"""Encoding, resizing and arranging images. Images are uint8 (H, W, 3), RGB."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]

_RUNGS = ((1.0, 80), (1.0, 68), (0.75, 72), (0.56, 70), (0.42, 66), (0.32, 62), (0.25, 56), (0.18, 50), (0.12, 40))
"""Share of the full side and quality, from the best picture to the smallest."""
_NEAR = 2.5
"""Times as many bytes as there may be, at which a lower quality alone may do."""
_FEW_COLOURS = 512
"""A picture of no more is a drawing, which PNG may store in less space than the others, and without loss."""


class PictureSize(NamedTuple):
    """Pixels of an encoded picture."""

    width: int
    height: int


def encode_png(image: RgbImage) -> bytes:
    """Lossless; no date or host in it."""
    return _encode(image, "PNG", optimize=True)


def encode_jpeg(image: RgbImage, quality: int = 85) -> bytes:
    """For tissue, a tenth of the PNG's size."""
    return _encode(image, "JPEG", quality=quality)


def encode_smallest(image: RgbImage, quality: int = 80) -> bytes:
    """Whichever of WebP, JPEG and, for a drawing of few colours, PNG takes the fewest bytes; ties in this order.

    `quality` is the first two's own scale, 1 to 95. For tissue WebP takes about two thirds of JPEG's bytes.
    """
    candidates = [
        _encode(image, "WEBP", quality=quality, method=4),
        _encode(image, "JPEG", quality=quality, optimize=True),
    ]
    if _is_drawing(image):
        candidates.append(encode_png(image))
    return min(candidates, key=len)


def encode_within(image: RgbImage, max_bytes: int | None = None) -> bytes:
    """The picture as large and as good as fits into `max_bytes`: full size first, then lower quality and fewer pixels.

    None: full size. What does not fit even as the smallest is that all the same, so that the bytes may be more.
    """
    encoded = encode_smallest(image, _RUNGS[0][1])
    if max_bytes is None or len(encoded) <= max_bytes:
        return encoded
    # bytes go about with the area: rungs that are far too large are not tried, since each costs an encoding
    largest = (_NEAR * max_bytes / len(encoded)) ** 0.5
    for share, quality in [rung for rung in _RUNGS[1:] if rung[0] <= largest] or _RUNGS[-1:]:
        side = max(1, round(max(image.shape[:2]) * share))
        encoded = encode_smallest(fit(image, side), quality)
        if len(encoded) <= max_bytes:
            break
    return encoded


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
    """`image/png`, `image/jpeg` or `image/webp`. Raises ValueError for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"a report's image is neither PNG, JPEG nor WebP: it starts with {data[:8]!r}")


def picture_size(data: bytes) -> PictureSize:
    """From the picture's header; its pixels are not decoded. Raises ValueError for what is no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        return PictureSize(*Image.open(io.BytesIO(data)).size)
    except UnidentifiedImageError as error:
        raise ValueError(f"a report's image cannot be read: it starts with {data[:8]!r}") from error


def is_long(size: PictureSize) -> bool:
    """Whether a page should give a picture its own scroll bar rather than shrink it: one side is over four times the
    other."""
    return max(size) > 4 * min(size)


def _is_drawing(image: RgbImage) -> bool:
    sample = image[::3, ::3].reshape(-1, 3).astype(np.uint32)
    return len(np.unique(sample @ np.array([65536, 256, 1], np.uint32))) <= _FEW_COLOURS


def _encode(image: RgbImage, image_format: str, **options: int | bool) -> bytes:
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=image_format, **options)
    return buffer.getvalue()
