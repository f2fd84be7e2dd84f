"""OME-Zarr: a folder of arrays, a level each, through zarr-python (extra `formats`)."""

import math
from contextlib import suppress
from functools import cache
from multiprocessing.synchronize import SemLock
from pathlib import Path
from typing import Any

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, register_backend
from mhim_core.slides.blocks import BlockCache, check_block
from mhim_core.slides.file_layout import FileLayout
from mhim_core.slides.file_tiles import TileLayout
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.ngff import read_multiscale
from mhim_core.types import FailureReason

_MAX_VALUES = 4
"""Values of a chunk for each pixel: it is decoded whole."""


@register_backend("zarr", version=1)
class ZarrBackend(Backend):
    """The levels' arrays, and the latest of their chunks decoded. A chunk without a file is transparent."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        if not path.is_dir():
            raise SlideError(FailureReason.OPEN, "it is no OME-Zarr, which is a folder; set backend=auto")
        picture = read_multiscale(path)
        library = _library()
        self._path = path
        self._axes = picture.axes
        try:
            self._arrays: list[Any] = [
                library.open_array(store=str(path / level.path), mode="r") for level in picture.levels
            ]
        except Exception as error:  # whatever zarr makes of metadata that it does not take
            raise SlideError(FailureReason.OPEN, f"zarr cannot open it: {type(error).__name__}") from error
        self._levels = picture.levels
        self._grids = []
        for array, level in zip(self._arrays, picture.levels, strict=True):
            chunks = array.chunks
            grid = TileLayout(level.width_px, level.height_px, chunks[self._axes.x], chunks[self._axes.y])
            check_block("chunks", grid)
            if math.prod(chunks) > _MAX_VALUES * grid.tile_width_px * grid.tile_height_px:
                raise SlideError(
                    FailureReason.TOO_LARGE, f"its chunks of {chunks} hold more than one picture's colours"
                )
            self._grids.append(grid)
        self._cache = BlockCache()
        mpp_x, mpp_y = picture.mpp or (None, None)
        self._info = SlideInfo(
            levels=tuple(Level(level.width_px, level.height_px, level.downsample) for level in picture.levels),
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            vendor=layout.kind,
            objective_power=None,
        )

    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, x_l0: int, y_l0: int, level: int, width: int, height: int) -> np.ndarray:
        downsample = self._info.levels[level].downsample

        def load(row: int, column: int) -> np.ndarray | None:
            return self._block(level, row, column)

        x, y = round(x_l0 / downsample), round(y_l0 / downsample)
        return self._cache.read_region(level, self._grids[level], load, x, y, width, height)

    def close(self) -> None:
        self._arrays = []
        self._cache.clear()

    def _block(self, level: int, row: int, column: int) -> np.ndarray | None:
        array, grid, axes = self._arrays[level], self._grids[level], self._axes
        places: list[Any] = [0] * array.ndim
        places[axes.channel] = slice(None)
        for axis, index, size in ((axes.y, row, grid.tile_height_px), (axes.x, column, grid.tile_width_px)):
            places[axis] = slice(index * size, min((index + 1) * size, array.shape[axis]))
        try:
            if not self._is_stored(level, row, column):
                return None
            block = np.asarray(array[tuple(places)])
        except SlideError:
            raise
        except Exception as error:  # what each codec makes of damaged bytes
            raise SlideError(
                FailureReason.READ, f"chunk {row}, {column} of level {level} cannot be decoded: {type(error).__name__}"
            ) from error
        order = sorted((axes.y, axes.x, axes.channel))
        return np.ascontiguousarray(block.transpose([order.index(axis) for axis in (axes.y, axes.x, axes.channel)]))

    def _is_stored(self, level: int, row: int, column: int) -> bool:
        """Whether the chunk's files are there: zarr would give black for one that is not.

        Raises SlideError(READ) where they are there of some colours alone.
        """
        array, axes, grid = self._arrays[level], self._axes, self._grids[level]
        stored = array.shards or array.chunks  # a file holds a shard, where there are shards
        first = [0] * array.ndim
        first[axes.y] = row * grid.tile_height_px // stored[axes.y]
        first[axes.x] = column * grid.tile_width_px // stored[axes.x]
        found = []
        for channel in range(-(-array.shape[axes.channel] // stored[axes.channel])):
            first[axes.channel] = channel
            file = self._path / self._levels[level].path / array.metadata.encode_chunk_key(tuple(first))
            found.append(file.is_file())
            if found[-1] and self._levels[level].is_blosc and not _is_whole_blosc(file):
                raise SlideError(FailureReason.READ, f"chunk {row}, {column} of level {level} is cut off")
        if any(found) and not all(found):
            raise SlideError(FailureReason.READ, f"chunk {row}, {column} of level {level} lacks a colour")
        return all(found)


def _is_whole_blosc(file: Path) -> bool:
    """Whether a buffer of blosc is as long as its header says."""
    with file.open("rb") as opened:
        header = opened.read(16)
    return len(header) == 16 and int.from_bytes(header[12:], "little") == file.stat().st_size


@cache
def _library() -> Any:
    try:
        import zarr
        from numcodecs import blosc
    except ImportError as error:
        raise SlideError(FailureReason.OPEN, "OME-Zarr takes zarr: pip install 'mhim[formats]'") from error
    # numcodecs makes a named semaphore, which a decoder that is ended would leave behind: it works without its name
    with suppress(AttributeError, OSError):
        if name := blosc.get_mutex()._semlock.name:
            SemLock._cleanup(name)  # type: ignore[attr-defined]
    return zarr
