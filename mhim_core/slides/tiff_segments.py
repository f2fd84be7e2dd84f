"""One stored tile or strip of a TIFF decoded, strictly: what is shorter or longer than its header says is an error.

Streams of JPEG go through simplejpeg (`file_tiles`), JPEG 2000 and WebP through Pillow, both of which refuse a stream
that ends early; other codecs through tifffile, which has some by itself (deflate, LZMA) and the rest from imagecodecs.
"""

import io
import os
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from mhim_core.errors import SlideError
from mhim_core.slides.file_tiles import FileTiles, TileCache, TileLayout, UnreadableTileError
from mhim_core.types import FailureReason

_PICTURES = {
    34712: "JPEG2000",
    33004: "JPEG2000",
    33005: "JPEG2000",  # Aperio's, of RGB
    34927: "WEBP",
    50001: "WEBP",
}
"""What Pillow decodes, by TIFF's number of the compression."""
_BYTE_CODECS = frozenset({1, 5, 8, 32773, 32946, 34925, 34926, 50000})
"""Of these, what comes out is the pixels' bytes: none, LZW, deflate, PackBits, LZMA, zstd."""
_MAX_BYTES_SHARE = 4
"""A stored block may be so many times as long as its pixels."""


class TiffSegments:
    """The tiles or strips of one page: of all colours, or of one of three planes."""

    def __init__(self, descriptor: int, page: Any) -> None:
        """`page` is a tifffile page or frame. Raises SlideError(OPEN) where it is none of 8-bit colour that is read."""
        key = page.keyframe
        self._descriptor = descriptor
        self._offsets, self._num_bytes = page.dataoffsets, page.databytecounts
        self._compression, self._predictor = int(key.compression), int(key.predictor)
        self.is_tiled = bool(key.is_tiled)
        height = key.tilelength if self.is_tiled else min(key.rowsperstrip, key.imagelength)
        width = key.tilewidth if self.is_tiled else key.imagewidth
        self.grid = TileLayout(key.imagewidth, key.imagelength, width, height)
        self.is_separate = key.planarconfig == PLANARCONFIG.SEPARATE and key.samplesperpixel > 1
        self.num_samples = int(key.samplesperpixel)
        _check_page(key)
        self._jpeg: FileTiles | None = None
        if self._compression == COMPRESSION.JPEG:
            if not FileTiles.is_direct(page):
                raise SlideError(FailureReason.OPEN, "its JPEGs are strips, planes or no three colours: not read")
            self._jpeg = FileTiles(self._read, 0, page, TileCache())
        elif self._compression not in _PICTURES:
            _check_codec(self._compression, self._predictor)
        num = self.grid.rows * self.grid.columns * (self.num_samples if self.is_separate else 1)
        if not len(self._offsets) == len(self._num_bytes) == num:
            raise SlideError(FailureReason.OPEN, f"its table of tiles has {len(self._offsets)} entries, not {num}")

    def block(self, row: int, column: int) -> np.ndarray | None:
        """uint8 (height, width, samples), all planes of it; None where nothing is stored. Raises SlideError(READ)."""
        index = row * self.grid.columns + column
        if not self.is_separate:
            return self._segment(index, row, self.num_samples)
        step = self.grid.rows * self.grid.columns
        planes = [self._segment(plane * step + index, row, 1) for plane in range(self.num_samples)]
        return joined(planes)

    def _segment(self, index: int, row: int, num_samples: int) -> np.ndarray | None:
        grid = self.grid
        height = grid.tile_height_px
        if not self.is_tiled:
            height = min(height, grid.height_px - row * grid.tile_height_px)
        shape = (height, grid.tile_width_px, num_samples)
        num_bytes = int(self._num_bytes[index])
        if num_bytes == 0:
            return None
        try:
            if self._jpeg is not None:
                return self._jpeg.decoded(index)
            if num_bytes > _MAX_BYTES_SHARE * height * grid.tile_width_px * num_samples + 65_536:
                raise ValueError("it is longer than its pixels")
            data = self._read(int(self._offsets[index]), num_bytes)
            if len(data) != num_bytes:
                raise ValueError("the file ends within it")
            pixels = self._decoded(data, shape)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(f"it has {pixels.shape} values")
            return pixels
        except UnreadableTileError as error:
            raise SlideError(FailureReason.READ, f"tile {index} is not the JPEG that its header says") from error
        except Exception as error:  # what each codec makes of damaged bytes
            raise SlideError(
                FailureReason.READ, f"tile {index} cannot be decoded: {type(error).__name__}: {error}"[:200]
            ) from error

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return os.pread(self._descriptor, num_bytes, offset)

    def _decoded(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        if self._compression in _PICTURES:
            with Image.open(io.BytesIO(data), formats=(_PICTURES[self._compression],)) as picture:
                if (picture.height, picture.width) != shape[:2]:
                    raise ValueError(f"it is a picture of {picture.size}")
                if picture.mode not in ("L", "RGB", "RGBA"):
                    raise ValueError(f"it is a picture of mode {picture.mode}")
                return np.asarray(picture).reshape(*shape[:2], -1)
        decoded: Any = tifffile.TIFF.DECOMPRESSORS[self._compression](data)
        if self._compression not in _BYTE_CODECS:
            return np.asarray(decoded).reshape(shape)
        pixels = np.frombuffer(decoded, np.uint8).reshape(shape)  # fails unless the length fits
        if self._predictor == 2:
            pixels = np.cumsum(pixels, axis=1, dtype=np.uint8)
        return pixels


def joined(planes: list[np.ndarray | None]) -> np.ndarray | None:
    """Planes side by side as one picture; None where none is stored. Raises SlideError(READ) where some are not."""
    stored = [plane for plane in planes if plane is not None]
    if not stored:
        return None
    if len(stored) < len(planes):
        raise SlideError(FailureReason.READ, f"{len(planes) - len(stored)} of {len(planes)} colours are not stored")
    return np.concatenate(stored, axis=2)


def _check_page(key: Any) -> None:
    samples, extra = int(key.samplesperpixel), tuple(key.extrasamples or ())
    is_grey = samples == 1 and key.photometric == PHOTOMETRIC.MINISBLACK
    is_ycbcr_jpeg = key.photometric == PHOTOMETRIC.YCBCR and key.compression == COMPRESSION.JPEG
    is_colour = key.photometric == PHOTOMETRIC.RGB or is_ycbcr_jpeg
    has_alpha = samples == 4 and extra == (EXTRASAMPLE.UNASSALPHA,)
    if key.dtype != "uint8" or key.fillorder != 1 or not (is_grey or (is_colour and (samples == 3 or has_alpha))):
        colours = getattr(key.photometric, "name", key.photometric)
        raise SlideError(
            FailureReason.OPEN,
            f"a TIFF of {key.dtype} with {samples} channels ({colours}) is no bright-field picture "
            "(one of three 8-bit channels)",
        )
    if key.predictor not in (1, 2):
        raise SlideError(FailureReason.OPEN, f"its predictor {key.predictor} is not one of 8-bit colours")


def _check_codec(compression: int, predictor: int) -> None:
    try:
        if compression != 1:
            tifffile.TIFF.DECOMPRESSORS[compression]
    except (KeyError, ValueError, ImportError) as error:
        name = COMPRESSION(compression).name if compression in {*COMPRESSION} else str(compression)
        is_known = "imagecodecs" in str(error)
        remedy = "takes imagecodecs: pip install 'mhim[formats]'" if is_known else "is not known"
        raise SlideError(FailureReason.OPEN, f"its compression ({name}) {remedy}") from error
    if predictor != 1 and compression not in _BYTE_CODECS:
        raise SlideError(FailureReason.OPEN, f"a predictor has no meaning with compression {compression}")
