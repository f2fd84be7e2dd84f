"""The JPEG tiles that a TIFF stores, decoded from where they lie in the file.

libjpeg-turbo is called on each tile's own bytes, without a compositor in between: on one thread this is four to six
times as fast as asking OpenSlide for the same pixels, which are the same (`backends/direct.py` checks that they are).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG

from mhim_core.slides.ranged_file import Span

_IS_YCBCR = {PHOTOMETRIC.YCBCR: b"\x01", PHOTOMETRIC.RGB: b"\x00"}
"""What Adobe's marker says of the colours. The TIFF's word counts, as for OpenSlide: Aperio's streams say nothing."""
_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF_MARKER, _ADOBE_MARKER, _SCAN_MARKER = 0xE0, 0xEE, 0xDA
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Of a picture's size and channels."""
_MAX_STREAM_SHARE = 4
"""A stream may be so many times as long as its pixels: more is no picture, and would only cost memory."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"

CACHE_BYTES = 128 * 2**20
"""Decoded tiles that are kept: two rows of 256 px tiles of a slide of 85,000 px, so that each is decoded once."""


class UnreadableTileError(Exception):
    """A tile is missing in the file, or its bytes are not the JPEG that the header promises."""


class TileCache:
    """The decoded tiles that regions still share, of all levels of a file.

    Regions are asked for row by row, so that tiles above the current region will not be needed again: their arrays are
    filled anew instead of asking the system for memory, which costs as much as decoding a tile of glass.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._rows: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        """Tiles by column, by level and row, the row that was begun first in front."""
        self._free: list[np.ndarray] = []

    def begin(self, level: int, row: int) -> None:
        """Tiles above this row are done with, and so are those of other levels."""
        for key in [key for key in self._rows if key[0] != level or key[1] < row]:
            self._give_up(key)

    def row(self, level: int, row: int) -> dict[int, np.ndarray]:
        """The row's tiles by column: look there first, `put` what is missing."""
        return self._rows.setdefault((level, row), {})

    def new(self, shape: tuple[int, int, int]) -> np.ndarray:
        """An array to decode a tile into; gives up the oldest row where there is no room."""
        num_bytes = math.prod(shape)
        while self._num_bytes + num_bytes > self._max_bytes and self._rows:
            self._give_up(next(iter(self._rows)))
        tile = self._free.pop() if self._free else None
        return tile if tile is not None and tile.shape == shape else np.empty(shape, np.uint8)

    def put(self, level: int, row: int, column: int, tile: np.ndarray) -> None:
        self.row(level, row)[column] = tile
        self._num_bytes += tile.nbytes

    def _give_up(self, key: tuple[int, int]) -> None:
        tiles = list(self._rows.pop(key).values())
        self._num_bytes -= sum(tile.nbytes for tile in tiles)
        self._free = tiles


class TileLayout(NamedTuple):
    """How a level is cut into stored tiles; sizes in pixels of the level."""

    width_px: int
    height_px: int
    tile_width_px: int
    tile_height_px: int

    @property
    def columns(self) -> int:
        return -(-self.width_px // self.tile_width_px)

    @property
    def rows(self) -> int:
        return -(-self.height_px // self.tile_height_px)


class FileTiles:
    """One level's tiles. `read(offset, num_bytes)` is the file; `cache` is shared with the file's other levels."""

    def __init__(self, read: Callable[[int, int], bytes], level: int, page: Any, cache: TileCache) -> None:
        """`page` is a tifffile page for which `is_direct` holds."""
        self.grid = _grid(page)
        self._size = self.grid.tile_height_px.to_bytes(2) + self.grid.tile_width_px.to_bytes(2)
        self._read = read
        self._level = level
        self._offsets, self._num_bytes = page.dataoffsets, page.databytecounts
        head = (page.jpegtables or _START).removesuffix(_END)
        self._head = _START + b"".join(_segments(head)[0]) + _ADOBE + _IS_YCBCR[page.photometric]
        self._cache = cache

    @staticmethod
    def is_direct(page: Any) -> bool:
        """Whether the page holds tiles of 8-bit colour JPEG, all channels in one stream, and states every place."""
        return bool(
            page.is_tiled
            and page.compression == COMPRESSION.JPEG
            and page.photometric in _IS_YCBCR
            and page.samplesperpixel == 3
            and page.bitspersample == 8
            and page.planarconfig == PLANARCONFIG.CONTIG
            and len(page.dataoffsets) == len(page.databytecounts) == _grid(page).columns * _grid(page).rows
        )

    def copy(self, x: int, y: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 (height, width, 3), with the level's pixels from (x, y) on; all must lie within the level.

        Raises UnreadableTileError; `out` may then be filled in part.
        """
        height, width = out.shape[:2]
        tile_width, tile_height = self.grid.tile_width_px, self.grid.tile_height_px
        first_row, first_column = y // tile_height, x // tile_width
        if (width, height) == (tile_width, tile_height) and not (x % tile_width or y % tile_height):
            self._decode(first_row * self.grid.columns + first_column, out)  # no other region needs it
            return
        self._cache.begin(self._level, first_row)
        for row in range(first_row, (y + height - 1) // tile_height + 1):
            top, bottom = max(y, row * tile_height), min(y + height, (row + 1) * tile_height)
            for column in range(first_column, (x + width - 1) // tile_width + 1):
                left, right = max(x, column * tile_width), min(x + width, (column + 1) * tile_width)
                tile = self._tile(row, column)
                out[top - y : bottom - y, left - x : right - x] = tile[
                    top - row * tile_height : bottom - row * tile_height,
                    left - column * tile_width : right - column * tile_width,
                ]

    def _tile(self, row: int, column: int) -> np.ndarray:
        tile = self._cache.row(self._level, row).get(column)
        if tile is None:
            tile = self._cache.new((self.grid.tile_height_px, self.grid.tile_width_px, 3))
            self._decode(row * self.grid.columns + column, tile)
            self._cache.put(self._level, row, column, tile)
        return tile

    def fullest_tile(self) -> tuple[int, int] | None:
        """(row, column) of the tile of the most bytes, which shows the most; None if none is stored."""
        fullest = int(np.argmax(self._num_bytes))
        return divmod(fullest, self.grid.columns) if self._num_bytes[fullest] else None

    def spans(self, is_wanted: np.ndarray) -> list[Span]:
        """Where in the file the tiles lie that bool (rows, columns) names; without those that were never stored."""
        wanted = np.flatnonzero(is_wanted).tolist()
        return [
            Span(self._offsets[index], self._offsets[index] + self._num_bytes[index])
            for index in wanted
            if self._num_bytes[index] > 0
        ]

    def is_any_missing(self) -> bool:
        """Whether a tile was never stored."""
        return not all(self._num_bytes)

    def stream(self, index: int) -> bytes:
        """The tile's JPEG stream, with its tables, in the colours that the TIFF states. Raises UnreadableTileError."""
        num_bytes = self._num_bytes[index]
        if not self._is_plausible(num_bytes):
            raise UnreadableTileError
        try:
            data = self._read(self._offsets[index], num_bytes)
        except (OSError, OverflowError) as error:
            raise UnreadableTileError from error
        if len(data) != num_bytes:
            raise UnreadableTileError
        kept, frame, scan = _segments(data)
        size = frame[5:9]  # precision, height, width, channels follow the marker and the length
        if frame[4:5] != b"\x08" or size != self._size or frame[9:10] != b"\x03":
            raise UnreadableTileError
        return b"".join((self._head, *kept, scan))

    def _is_plausible(self, num_bytes: int) -> bool:
        num_values = self.grid.tile_width_px * self.grid.tile_height_px * 3
        return 0 < num_bytes <= _MAX_STREAM_SHARE * num_values + 65_536

    def decoded(self, index: int) -> np.ndarray:
        """uint8 (tile height, tile width, 3): one stored tile. Raises UnreadableTileError."""
        tile = np.empty((self.grid.tile_height_px, self.grid.tile_width_px, 3), np.uint8)
        self._decode(index, tile)
        return tile

    def _decode(self, index: int, out: np.ndarray) -> None:
        try:
            # strict: what libjpeg only warns of, a stream that ends early, is an error to OpenSlide
            decoded = simplejpeg.decode_jpeg(
                self.stream(index), "RGB", fastdct=False, fastupsample=False, buffer=out, strict=True
            )
        except ValueError as error:  # also of more pixels than `out` has
            raise UnreadableTileError from error
        if decoded.shape != out.shape:
            raise UnreadableTileError


def _grid(page: Any) -> TileLayout:
    return TileLayout(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)


def _segments(stream: bytes) -> tuple[list[bytes], bytes, bytes]:
    """(the segments before the scan, that of the frame among them, the scan and all that follows).

    Without JFIF's and Adobe's, which may contradict the TIFF about the colours. Raises UnreadableTileError.
    """
    if not stream.startswith(_START):
        raise UnreadableTileError
    kept, frame, at, end = [], b"", 2, len(stream)
    while at + 4 <= end:
        if stream[at] != 0xFF:
            raise UnreadableTileError
        marker = stream[at + 1]
        if marker == _SCAN_MARKER:
            break
        length = 2 + (stream[at + 2] << 8 | stream[at + 3])
        segment = stream[at : at + length]
        if marker not in (_JFIF_MARKER, _ADOBE_MARKER):
            kept.append(segment)
        if marker in _FRAME_MARKERS:
            frame = segment
        at += length
    return kept, frame, stream[at:]
