"""Regions put together from the blocks that a file stores (tiles, strips, chunks), the latest of which are kept."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.slides.file_tiles import CACHE_BYTES, TileLayout
from mhim_core.slides.spec import MAX_FILE_TILE_PX, MAX_FILE_TILES
from mhim_core.types import FailureReason

MAX_SCENE_SHARE = 0.1
"""Of several pictures in one file, the others may have this share of the largest's area: labels and overviews.
Larger ones may be tissue, which would be left out."""
_STRIP_CACHE_BYTES = 512 * 2**20
"""Strips span the picture: a thumbnail's blocks of 2,048 rows are kept of pictures up to 87,000 px wide."""

LoadBlock = Callable[[int, int], np.ndarray | None]
"""(row, column) → uint8 (height, width, 3 or 4), at the edge possibly larger than what is left of the level; None: not
stored. Raises SlideError(READ)."""


class BlockCache:
    """Decoded blocks of all levels of a file, the most recently used."""

    def __init__(self, *, has_strips: bool = False) -> None:
        self._max_bytes = _STRIP_CACHE_BYTES if has_strips else CACHE_BYTES
        self._num_bytes = 0
        self._blocks: OrderedDict[tuple[int, int, int], np.ndarray | None] = OrderedDict()

    def read_region(
        self, level: int, grid: TileLayout, load: LoadBlock, x: int, y: int, width: int, height: int
    ) -> np.ndarray:
        """uint8 (height, width, 4): the level's pixels from (x, y) on, transparent beyond it. Raises SlideError."""
        region = np.zeros((height, width, 4), np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, grid.width_px), min(y + height, grid.height_px)
        if left >= right or top >= bottom:
            return region
        for row in range(top // grid.tile_height_px, (bottom - 1) // grid.tile_height_px + 1):
            for column in range(left // grid.tile_width_px, (right - 1) // grid.tile_width_px + 1):
                block = self._block(level, row, column, load)
                if block is None:
                    continue
                x_block, y_block = column * grid.tile_width_px, row * grid.tile_height_px
                first_x, first_y = max(left, x_block), max(top, y_block)
                last_x = min(right, x_block + grid.tile_width_px)
                last_y = min(bottom, y_block + grid.tile_height_px)
                part = block[first_y - y_block : last_y - y_block, first_x - x_block : last_x - x_block]
                into = region[first_y - y : last_y - y, first_x - x : last_x - x]
                into[..., : part.shape[2]] = part
                if part.shape[2] == 3:
                    into[..., 3] = 255
        return region

    def clear(self) -> None:
        self._blocks.clear()
        self._num_bytes = 0

    def _block(self, level: int, row: int, column: int, load: LoadBlock) -> np.ndarray | None:
        key = (level, row, column)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        block = load(row, column)
        self._blocks[key] = block
        self._num_bytes += 0 if block is None else block.nbytes
        while self._num_bytes > self._max_bytes and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._num_bytes -= 0 if oldest is None else oldest.nbytes
        return block


def check_block(kind: str, grid: TileLayout) -> None:
    """SlideError: OPEN for blocks of no size, TOO_LARGE where one takes too much memory, or there are too many."""
    if min(grid.tile_width_px, grid.tile_height_px) < 1:
        raise SlideError(FailureReason.OPEN, f"its {kind} have no size")
    if grid.rows * grid.columns > MAX_FILE_TILES:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"it claims {grid.rows * grid.columns:,} {kind} in one level, more than {MAX_FILE_TILES:,}; rewrite the "
            "slide with larger ones",
        )
    if grid.tile_width_px * grid.tile_height_px > MAX_FILE_TILE_PX**2:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"it stores {kind} of {grid.tile_width_px:,} × {grid.tile_height_px:,} pixels, of which each must be "
            f"decoded whole, and the limit is {MAX_FILE_TILE_PX:,} squared; make tiles of "
            "it: vips tiffsave IN OUT.tiff --tile --pyramid --bigtiff --compression jpeg --Q 90",
        )


def check_scenes(areas_px: list[int], remedy: str) -> None:
    """SlideError(OPEN) where a file holds several pictures as large as slides: one would be embedded, the rest not."""
    largest, *others = sorted(areas_px, reverse=True)
    if scenes := [area for area in others if area > MAX_SCENE_SHARE * largest]:
        raise SlideError(
            FailureReason.OPEN,
            f"it holds {1 + len(scenes)} pictures of a slide's size, of which one alone would be embedded; {remedy}",
        )
