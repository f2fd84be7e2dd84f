"""A look at a TIFF's headers before any decoder sees them: is it complete, and is it of a sane size?

Decoders trust headers: they allocate what a header claims and paint white or fail late where data are missing. The walk
here reads directories and the two arrays of tile offsets and sizes, nothing else. Where it cannot follow a file
(another format, a classic TIFF beyond 4 GiB as Hamamatsu writes them, unknown types) it has no opinion.
Formats: TIFF 6.0 (Adobe 1992) and BigTIFF.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.slides.spec import MAX_AREA_PX, MAX_FILE_TILE_PX, MAX_FILE_TILES, MAX_SIDE_PX
from mhim_core.types import FailureReason

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_DIRECTORIES = 1024
_MAX_ENTRIES = 4096


class _Layout(NamedTuple):
    """How one flavour of TIFF writes its numbers."""

    order: str
    count_format: str
    entry_format: str
    offset_format: str


class _Field(NamedTuple):
    """A tag's values, not read yet: most arrays are never needed."""

    code: str
    num_values: int
    offset: int

    @property
    def num_bytes(self) -> int:
        return self.num_values * np.dtype(self.code).itemsize


class _UndecidedError(Exception):
    """The walk cannot follow this file; whether it is a slide is left to OpenSlide."""


def check_tiff(path: Path) -> None:
    """Refuse a TIFF that is truncated or whose header is a bomb; silent on everything else.

    Raises SlideError: OPEN where tile or strip data lie beyond the file's end, TOO_LARGE beyond the limits of `spec`.
    Reads a few KB plus the offset arrays (16 bytes per stored tile).
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        check_tiff_file(file, num_bytes)


def check_tiff_file(file: BinaryIO, num_bytes: int) -> None:
    """As `check_tiff`, of a file that is open, read from its start."""
    try:
        layout = _layout(file)
        if layout.offset_format == "I" and num_bytes >= 2**32:
            return  # Hamamatsu's 64-bit offsets in a classic TIFF
        for fields in _directories(file, layout, num_bytes):
            _check_size(file, fields)
            _check_extent(file, fields, num_bytes)
    except (_UndecidedError, struct.error, OverflowError):
        return


def _layout(file: BinaryIO) -> _Layout:
    head = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 4:
        raise _UndecidedError
    (magic,) = struct.unpack(order + "H", head[2:])
    if magic == 42:
        return _Layout(order, "H", "HHI4s", "I")
    if magic == 43 and struct.unpack(order + "HH", file.read(4)) == (8, 0):
        return _Layout(order, "Q", "HHQ8s", "Q")
    raise _UndecidedError


def _directories(file: BinaryIO, layout: _Layout, num_bytes: int) -> Iterator[dict[int, _Field]]:
    """Every image directory in the chain (pyramid levels and associated images)."""
    seen: set[int] = set()
    offset = _read_number(file, layout, layout.offset_format)
    while offset:
        if offset in seen or len(seen) >= _MAX_DIRECTORIES:
            raise _UndecidedError
        if offset >= num_bytes:
            raise SlideError(
                FailureReason.OPEN,
                f"the file is truncated: a directory lies at byte {offset:,} and the file ends at {num_bytes:,}; "
                "copy the slide again",
            )
        seen.add(offset)
        file.seek(offset)
        yield _fields(file, layout, offset)
        # the checks move the file position: come back for the link
        file.seek(offset)
        count = _read_number(file, layout, layout.count_format)
        file.seek(count * struct.calcsize(layout.order + layout.entry_format), 1)
        offset = _read_number(file, layout, layout.offset_format)


def _fields(file: BinaryIO, layout: _Layout, offset: int) -> dict[int, _Field]:
    count = _read_number(file, layout, layout.count_format)
    if count > _MAX_ENTRIES:
        raise _UndecidedError
    size = struct.calcsize(layout.order + layout.entry_format)
    first_entry = offset + struct.calcsize(layout.order + layout.count_format)
    inline = struct.calcsize(layout.order + layout.offset_format)
    fields = {}
    for i, entry in enumerate(struct.iter_unpack(layout.order + layout.entry_format, file.read(count * size))):
        tag, type_number, num_values, value = entry
        code = _TYPE_CODES.get(type_number)
        if code is None:
            continue
        field = _Field(layout.order + code, num_values, first_entry + (i + 1) * size - inline)
        if field.num_bytes > inline:
            field = field._replace(offset=struct.unpack(layout.order + layout.offset_format, value)[0])
        fields[tag] = field
    return fields


def _check_size(file: BinaryIO, fields: dict[int, _Field]) -> None:
    def number(tag: int) -> int:
        field = fields.get(tag)
        return int(_values(file, field._replace(num_values=1))[0]) if field and field.num_values else 0

    width, height = number(_WIDTH), number(_HEIGHT)
    check_dimensions(width, height)
    tile_width, tile_height = number(_TILE_WIDTH), number(_TILE_HEIGHT)
    if max(tile_width, tile_height) > MAX_FILE_TILE_PX:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"the file stores tiles of {tile_width} × {tile_height} pixels; a decoder must hold one whole, and the "
            f"limit is {MAX_FILE_TILE_PX} a side; rewrite the slide with smaller tiles",
        )
    if tile_width and tile_height:
        _check_num_tiles(-(-width // tile_width) * -(-height // tile_height))


def _check_num_tiles(num_tiles: int) -> None:
    if num_tiles > MAX_FILE_TILES:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"the file claims {num_tiles:,} stored tiles in one level, more than {MAX_FILE_TILES:,}; "
            "rewrite the slide with larger tiles",
        )


def check_dimensions(width_px: int, height_px: int) -> None:
    """SlideError(TOO_LARGE) for an image no scanner makes."""
    if max(width_px, height_px) > MAX_SIDE_PX or width_px * height_px > MAX_AREA_PX:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"the file claims {width_px:,} × {height_px:,} pixels; the limits are {MAX_SIDE_PX:,} a side and "
            f"{MAX_AREA_PX:,} in all",
        )


def _check_extent(file: BinaryIO, fields: dict[int, _Field], num_bytes: int) -> None:
    for offsets_tag, sizes_tag in ((_TILE_OFFSETS, _TILE_SIZES), (_STRIP_OFFSETS, _STRIP_SIZES)):
        if offsets_tag not in fields or sizes_tag not in fields:
            continue
        for field in (fields[offsets_tag], fields[sizes_tag]):
            _check_num_tiles(field.num_values)
            if field.offset + field.num_bytes > num_bytes:
                raise SlideError(
                    FailureReason.OPEN,
                    f"the file is truncated: a table of {field.num_bytes:,} bytes at byte {field.offset:,} passes the "
                    f"file's end at {num_bytes:,}; copy the slide again",
                )
        if fields[offsets_tag].num_values != fields[sizes_tag].num_values:
            raise _UndecidedError
        offsets, sizes = _values(file, fields[offsets_tag]), _values(file, fields[sizes_tag])
        ends = np.where(sizes > 0, offsets + sizes, 0)  # size 0: a tile the scanner left out
        beyond = int((ends > num_bytes).sum())
        if beyond:
            raise SlideError(
                FailureReason.OPEN,
                f"the file is truncated: {beyond:,} of {len(ends):,} stored tiles of one level lie beyond its end at "
                f"byte {num_bytes:,}; copy the slide again",
            )


def _values(file: BinaryIO, field: _Field) -> np.ndarray:
    if field.offset > file.seek(0, os.SEEK_END):  # file systems refuse to seek to some places
        raise _UndecidedError
    file.seek(field.offset)
    data = file.read(field.num_bytes)
    if len(data) < field.num_bytes:
        raise _UndecidedError
    # float64 holds every file offset that exists exactly, and cannot wrap around
    return np.frombuffer(data, dtype=field.code).astype(np.float64)


def _read_number(file: BinaryIO, layout: _Layout, code: str) -> int:
    data = file.read(struct.calcsize(layout.order + code))
    return int(struct.unpack(layout.order + code, data)[0])
