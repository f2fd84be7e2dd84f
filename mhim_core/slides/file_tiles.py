"""The JPEG tiles that a TIFF stores, decoded from where they lie in the file.

libjpeg-turbo is called on each tile's own bytes, without a compositor in between: on one thread this is four to six
times as fast as asking OpenSlide for the same pixels, which are the same (`backends/direct.py` checks that they are).
"""

import math
import os
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG

_IS_YCBCR = {PHOTOMETRIC.YCBCR: b"\x01", PHOTOMETRIC.RGB: b"\x00"}
"""What Adobe's marker says of the colours. The TIFF's word counts, as for OpenSlide: Aperio's streams say nothing."""
_START, _END = b"\xff\xd8", b"\xff\xd9"
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


class Grid(NamedTuple):
    """How a level is cut into stored tiles; sizes in pixels of the level."""

    width_px: int
    height_px: int
    tile_width_px: int
    tile_height_px: int

    @property
    def columns(self) -> int:
        return -(-self.width_px // self.tile_width_px)


class FileTiles:
    """One level's tiles. `descriptor` is an open file's; `cache` is shared with the file's other levels."""

    def __init__(self, descriptor: int, level: int, page: Any, cache: TileCache) -> None:
        """`page` is a tifffile page for which `is_direct` holds."""
        self.grid = Grid(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
        self._descriptor = descriptor
        self._level = level
        self._offsets, self._num_bytes = page.dataoffsets, page.databytecounts
        tables = (page.jpegtables or _START).removesuffix(_END)
        self._head = tables + _ADOBE + _IS_YCBCR[page.photometric]
        self._cache = cache

    @staticmethod
    def is_direct(page: Any) -> bool:
        """Whether the page holds tiles of 8-bit colour JPEG, one stream for all three channels."""
        return bool(
            page.is_tiled
            and page.compression == COMPRESSION.JPEG
            and page.photometric in _IS_YCBCR
            and page.samplesperpixel == 3
            and page.bitspersample == 8
            and page.planarconfig == PLANARCONFIG.CONTIG
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

    def stream(self, index: int) -> bytes:
        """The tile's complete JPEG stream. Raises UnreadableTileError."""
        num_bytes = self._num_bytes[index]
        data = os.pread(self._descriptor, num_bytes, self._offsets[index])
        if len(data) != num_bytes or not data.startswith(_START):
            raise UnreadableTileError
        return self._head + data[2:]

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
