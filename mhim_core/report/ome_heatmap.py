"""Heat maps as pyramidal OME-TIFF in a slide's own pixels: what other viewers lay over the slide.

Pixel (x, y) of the finest level covers level-0 pixels [x·d, (x+1)·d) × [y·d, (y+1)·d), d the downsample, and belongs to
a tile if its centre does; where tiles overlap it has their mean. Levels below halve it, each painted from the tiles
themselves. OME-XML states pixel size and channels (sub-resolutions as SubIFDs); the TIFF's own resolution says the
pixel size to readers without OME. The same values give the same bytes.
"""

import io
import math
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.features import MppUsed
from mhim_core.fingerprint import sha256
from mhim_core.report.heatmap import COLOUR_MAP

_BLOCK_PX = 512
_SMALLEST_PX = 1024
"""The coarsest level's longer side is no longer than this."""
_COLOURS = 256
_NAMESPACE = uuid.UUID("0d4c2f0b-5f4c-5b0e-8a37-2f6e3f1f9d10")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatmapSlide:
    """Where a slide's N tiles lie."""

    coords_l0_px: NDArray[np.int32]
    """(N, 2): top-left corners (x, y)."""
    tile_size_l0_px: tuple[int, int]
    slide_size_l0_px: tuple[int, int]
    """(width, height); (0, 0) where nobody says: as far as the tiles reach then."""
    mpp: MppUsed | None
    """Of level 0; None: unknown, and none is stated."""
    name: str

    def size(self) -> tuple[int, int]:
        """(width, height) of what is painted, in level-0 pixels."""
        if all(self.slide_size_l0_px):
            return self.slide_size_l0_px
        right, bottom = (self.coords_l0_px.max(axis=0) + np.asarray(self.tile_size_l0_px)).tolist()
        return right, bottom


def colour_heatmap(slide: HeatmapSlide, rank_N: ArrayLike, *, downsample: int = 1) -> bytes:
    """An RGB picture of values between 0 and 1, white where no tile is."""
    from matplotlib import colormaps

    table = np.rint(colormaps[COLOUR_MAP](np.linspace(0, 1, _COLOURS))[:, :3] * 255).astype(np.uint8)

    def paint(values_HW: NDArray[np.float64]) -> NDArray[np.generic]:
        is_tile = ~np.isnan(values_HW)
        pixels = np.full((*values_HW.shape, 3), 255, np.uint8)
        pixels[is_tile] = table[np.rint(np.clip(values_HW[is_tile], 0, 1) * (_COLOURS - 1)).astype(np.int64)]
        return pixels

    metadata: dict[str, Any] = {"axes": "YXS", "Channel": {"Name": ["attention rank, coloured"]}}
    picture = _Picture(slide, [np.asarray(rank_N, np.float64)], downsample, paint, np.dtype(np.uint8), "rgb")
    return _written(picture, metadata)


def value_heatmap(slide: HeatmapSlide, channels: Mapping[str, ArrayLike], *, downsample: int = 1) -> bytes:
    """A float32 channel for each of the values (N,), NaN where no tile is; the channels keep their names."""

    def paint(values_HW: NDArray[np.float64]) -> NDArray[np.generic]:
        return np.asarray(values_HW.astype(np.float32))

    values = [np.asarray(each, np.float64) for each in channels.values()]
    metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(channels)}}
    return _written(_Picture(slide, values, downsample, paint, np.dtype(np.float32), "minisblack"), metadata)


class _Picture(NamedTuple):
    slide: HeatmapSlide
    channels: list[NDArray[np.float64]]
    downsample: int
    paint: Callable[[NDArray[np.float64]], NDArray[np.generic]]
    dtype: np.dtype[np.generic]
    photometric: str

    def downsamples(self) -> list[int]:
        """Of every level, in level-0 pixels."""
        side = math.ceil(max(self.slide.size()) / self.downsample)
        num_below = max(0, math.ceil(math.log2(side / _SMALLEST_PX))) if side else 0
        return [self.downsample * 2**level for level in range(num_below + 1)]

    def shape(self, downsample: int) -> tuple[int, ...]:
        """Of the level's data: (C, rows, columns), or (rows, columns, 3)."""
        width, height = (max(1, math.ceil(side / downsample)) for side in self.slide.size())
        return (height, width, 3) if self.photometric == "rgb" else (len(self.channels), height, width)


def _written(picture: _Picture, metadata: dict[str, Any]) -> bytes:
    import tifffile

    slide, buffer, downsamples = picture.slide, io.BytesIO(), picture.downsamples()
    shape, kind = picture.shape(downsamples[0]), metadata["axes"]
    values = sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in (slide.coords_l0_px, *picture.channels)))
    content = f"{slide.name}\0{shape}\0{kind}\0{metadata['Channel']}\0{slide.tile_size_l0_px}\0{values}"
    metadata |= {"Name": slide.name, "UUID": str(uuid.uuid5(_NAMESPACE, content)), "Creator": "mhim"}
    if slide.mpp is not None:
        for axis, mpp in (("X", slide.mpp.x), ("Y", slide.mpp.y)):
            metadata |= {f"PhysicalSize{axis}": mpp * picture.downsample, f"PhysicalSize{axis}Unit": "µm"}
    num_bytes = math.prod(shape) * picture.dtype.itemsize
    with tifffile.TiffWriter(buffer, ome=True, bigtiff=num_bytes >= 2**31) as tiff:
        for level, downsample in enumerate(downsamples):
            facts: dict[str, Any] = {"subifds": len(downsamples) - 1, "metadata": metadata}
            if level:
                facts = {"subfiletype": 1}
            if slide.mpp is not None:
                per_cm = (1e4 / (slide.mpp.x * downsample), 1e4 / (slide.mpp.y * downsample))
                facts |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
            tiff.write(
                _blocks(picture, downsample),
                shape=picture.shape(downsample),
                dtype=picture.dtype,
                tile=(_BLOCK_PX, _BLOCK_PX),
                photometric=picture.photometric,
                compression="zlib",
                software="mhim",
                **facts,
            )
    return buffer.getvalue()


def _blocks(picture: _Picture, downsample: int) -> Iterator[bytes]:
    """The level's blocks as they are stored, channel by channel, row by row; blocks without a tile are made once."""
    slide = picture.slide
    width, height = (max(1, math.ceil(side / downsample)) for side in slide.size())
    # a pixel belongs to a tile if its centre does
    low = np.ceil(slide.coords_l0_px / downsample - 0.5).astype(np.int64)
    high = np.ceil((slide.coords_l0_px + np.asarray(slide.tile_size_l0_px)) / downsample - 0.5).astype(np.int64)
    members = _by_block(low, high)
    bare = _packed(picture, np.full((_BLOCK_PX, _BLOCK_PX), np.nan))
    for values_N in picture.channels:
        for row in range(math.ceil(height / _BLOCK_PX)):
            for column in range(math.ceil(width / _BLOCK_PX)):
                own = members.get((row, column))
                if own is None:
                    yield bare
                    continue
                origin = np.array([column, row]) * _BLOCK_PX
                yield _packed(picture, _painted(low[own] - origin, high[own] - origin, values_N[own]))


def _by_block(low: NDArray[np.int64], high: NDArray[np.int64]) -> dict[tuple[int, int], list[int]]:
    """By (row, column) the tiles of which a pixel lies in that block."""
    first, last = low // _BLOCK_PX, (high - 1) // _BLOCK_PX
    members: dict[tuple[int, int], list[int]] = {}
    for tile, (x0, y0, x1, y1) in enumerate(np.concatenate([first, last], axis=1).tolist()):
        for row in range(y0, y1 + 1):
            for column in range(x0, x1 + 1):
                members.setdefault((row, column), []).append(tile)
    return members


def _painted(low: NDArray[np.int64], high: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(block, block): the mean of the tiles at each pixel, NaN where none is; places in the block's own pixels."""
    total = np.zeros((_BLOCK_PX, _BLOCK_PX))
    count = np.zeros((_BLOCK_PX, _BLOCK_PX), np.int32)
    edges = np.clip(np.concatenate([low, high], axis=1), 0, _BLOCK_PX).tolist()
    for (x0, y0, x1, y1), value in zip(edges, values.tolist(), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _packed(picture: _Picture, values_HW: NDArray[np.float64]) -> bytes:
    return zlib.compress(np.ascontiguousarray(picture.paint(values_HW)).tobytes(), 6)
