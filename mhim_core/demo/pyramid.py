"""Writing an RGB picture as a tiled, pyramidal JPEG TIFF, the plainest format slide readers open.

TIFF 6.0 with JPEG (Technical Note 2): each tile is a complete JPEG stream, YCbCr with 4:2:0 chroma, as Pillow writes.
Directories come first and the bytes depend on the pixels alone. Why tifffile does not write it: ADR 11.
"""

import io
import struct
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

_SHORT, _LONG, _RATIONAL = 3, 4, 5
_ENTRY_BYTES = 12


class _Level(NamedTuple):
    """One encoded resolution."""

    width_px: int
    height_px: int
    tiles: list[bytes]


def write_pyramid(
    path: str | Path,
    pixels: np.ndarray,
    *,
    mpp: tuple[float, float] | None,
    downsamples: Sequence[int] = (1, 4),
    tile_px: int = 256,
    quality: int = 85,
) -> None:
    """Write `pixels`, uint8 (rows, columns, 3), as a slide of `mpp` = (x, y) µm/px (None states no resolution).

    `downsamples` are the pyramid's levels, finest first; `tile_px` is a multiple of 16.
    """
    levels = []
    for downsample in downsamples:
        height, width = -(-pixels.shape[0] // downsample), -(-pixels.shape[1] // downsample)
        picture = Image.fromarray(pixels)
        if downsample > 1:
            picture = picture.resize((width, height), Image.Resampling.BOX)
        levels.append(_Level(width, height, _encoded_tiles(np.asarray(picture), tile_px, quality)))
    Path(path).write_bytes(_assembled(levels, mpp, tile_px))


def _encoded_tiles(pixels: np.ndarray, tile_px: int, quality: int) -> list[bytes]:
    rows, columns = (-(-size // tile_px) for size in pixels.shape[:2])
    # edge tiles are stored whole; repeating the last pixels keeps JPEG from ringing into the picture
    pad = ((0, rows * tile_px - pixels.shape[0]), (0, columns * tile_px - pixels.shape[1]), (0, 0))
    padded = np.pad(pixels, pad, mode="edge")
    tiles = []
    for row in range(rows):
        for column in range(columns):
            buffer = io.BytesIO()
            tile = padded[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
            Image.fromarray(tile).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
            tiles.append(buffer.getvalue())
    return tiles


def _assembled(levels: list[_Level], mpp: tuple[float, float] | None, tile_px: int) -> bytes:
    """Header, then every directory with its arrays, then all tiles."""
    # a directory's length does not depend on the offsets in it: one dry run places the tiles
    heads = [
        _directory(level, i, mpp, tile_px, start=0, tile_offset=0, is_last=False) for i, level in enumerate(levels)
    ]
    tile_offset = 8 + sum(len(head) for head in heads)
    start, parts = 8, [struct.pack("<2sHI", b"II", 42, 8)]
    for i, level in enumerate(levels):
        parts.append(_directory(level, i, mpp, tile_px, start, tile_offset, is_last=i == len(levels) - 1))
        start += len(parts[-1])
        tile_offset += sum(len(tile) for tile in level.tiles)
    return b"".join(parts + [tile for level in levels for tile in level.tiles])


def _directory(
    level: _Level,
    index: int,
    mpp: tuple[float, float] | None,
    tile_px: int,
    start: int,
    tile_offset: int,
    is_last: bool,
) -> bytes:
    sizes = [len(tile) for tile in level.tiles]
    offsets = list(accumulate(sizes[:-1], initial=tile_offset))
    fields: dict[int, tuple[int, list[int]]] = {
        254: (_LONG, [int(index > 0)]),  # NewSubfileType: 1 is a reduced picture
        256: (_LONG, [level.width_px]),
        257: (_LONG, [level.height_px]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7]),  # JPEG
        262: (_SHORT, [6]),  # YCbCr
        277: (_SHORT, [3]),
        322: (_LONG, [tile_px]),
        323: (_LONG, [tile_px]),
        324: (_LONG, offsets),
        325: (_LONG, sizes),
        530: (_SHORT, [2, 2]),  # 4:2:0
    }
    if mpp is not None:
        for tag, axis in ((282, mpp[0]), (283, mpp[1])):
            fields[tag] = (_RATIONAL, [round(1e4 / axis * 1000), 1000])  # pixels per centimetre
        fields[296] = (_SHORT, [3])
    return _packed(fields, start, is_last)


def _packed(fields: dict[int, tuple[int, list[int]]], start: int, is_last: bool) -> bytes:
    table_bytes = 2 + _ENTRY_BYTES * len(fields) + 4
    entries, data = struct.pack("<H", len(fields)), b""
    for tag, (kind, values) in sorted(fields.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        if len(packed) > 4:
            place = struct.pack("<I", start + table_bytes + len(data))
            data += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, count) + place
    following = 0 if is_last else start + table_bytes + len(data)
    return entries + struct.pack("<I", following) + data
