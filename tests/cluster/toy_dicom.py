"""A DICOM whole-slide image of two levels, a file each (PS3.3 A.32.8, explicit VR little endian)."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

_WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_LONG = ("OB", "SQ", "UT", "UN")


def write_series(folder: Path, pixels: np.ndarray, *, mpp: float, series: str, tile_px: int = 256) -> list[Path]:
    """The files of `pixels`, uint8 (rows, columns, 3), and of a quarter of them."""
    small = np.asarray(
        Image.fromarray(pixels).resize((pixels.shape[1] // 4, pixels.shape[0] // 4), Image.Resampling.BOX)
    )
    paths = []
    for number, (level, spacing) in enumerate(((pixels, mpp), (small, 4 * mpp))):
        path = folder / f"{series}.{number}.dcm"
        path.write_bytes(_file(level, spacing, series, number, tile_px))
        paths.append(path)
    return paths


def _element(group: int, element: int, vr: str, value: bytes) -> bytes:
    value += (b"\0" if vr in ("UI", "OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH", group, element) + vr.encode()
    return head + (struct.pack("<HI", 0, len(value)) if vr in _LONG else struct.pack("<H", len(value))) + value


def _text(group: int, element: int, vr: str, value: str) -> bytes:
    return _element(group, element, vr, value.encode())


def _number(group: int, element: int, vr: str, value: int) -> bytes:
    return _element(group, element, vr, struct.pack("<H" if vr == "US" else "<I", value))


def _sequence(group: int, element: int, item: bytes) -> bytes:
    return _element(group, element, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)


def _file(pixels: np.ndarray, mpp: float, series: str, number: int, tile_px: int) -> bytes:
    rows, columns = pixels.shape[:2]
    tiles = _tiles(pixels, tile_px)
    instance = f"{series}.{number + 1}"
    kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if number == 0 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    meta = b"".join(
        (
            _element(2, 1, "OB", b"\0\1"),
            _text(2, 2, "UI", _WSI),
            _text(2, 3, "UI", instance),
            _text(2, 0x10, "UI", _JPEG_BASELINE),
            _text(2, 0x12, "UI", "1.2.3"),
        )
    )
    spacing = _text(0x28, 0x30, "DS", f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}")
    data = b"".join(
        (
            _text(8, 8, "CS", kind),
            _text(8, 0x16, "UI", _WSI),
            _text(8, 0x18, "UI", instance),
            _text(8, 0x60, "CS", "SM"),
            _text(0x20, 0xD, "UI", f"{series}.99"),
            _text(0x20, 0xE, "UI", series),
            _text(0x20, 0x13, "IS", str(number + 1)),
            _text(0x20, 0x9311, "CS", "TILED_FULL"),
            _number(0x28, 2, "US", 3),
            _text(0x28, 4, "CS", "YBR_FULL_422"),
            _number(0x28, 6, "US", 0),
            _text(0x28, 8, "IS", str(len(tiles))),
            _number(0x28, 0x10, "US", tile_px),
            _number(0x28, 0x11, "US", tile_px),
            _number(0x28, 0x100, "US", 8),
            _number(0x28, 0x101, "US", 8),
            _number(0x28, 0x102, "US", 7),
            _number(0x28, 0x103, "US", 0),
            _number(0x48, 6, "UL", columns),
            _number(0x48, 7, "UL", rows),
            _number(0x48, 0x303, "UL", 1),
            _sequence(0x5200, 0x9229, _sequence(0x28, 0x9110, spacing)),
        )
    )
    offsets = [sum(8 + len(tile) for tile in tiles[:i]) for i in range(len(tiles))]
    frames = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part
        for part in (struct.pack(f"<{len(tiles)}I", *offsets), *tiles)
    )
    frames = (
        struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + frames + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    return b"\0" * 128 + b"DICM" + _number(2, 0, "UL", len(meta)) + meta + data + frames


def _tiles(pixels: np.ndarray, tile_px: int) -> list[bytes]:
    rows, columns = (-(-side // tile_px) for side in pixels.shape[:2])
    pad = ((0, rows * tile_px - pixels.shape[0]), (0, columns * tile_px - pixels.shape[1]), (0, 0))
    padded = np.pad(pixels, pad, mode="edge")
    tiles = []
    for row in range(rows):
        for column in range(columns):
            buffer = io.BytesIO()
            part = padded[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
            Image.fromarray(part).save(buffer, "JPEG", quality=85, subsampling="4:2:2")
            tiles.append(buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2))
    return tiles
