"""Shapes written in signatures are checked wherever a test of the core calls them; those of flows only cost time."""

import struct
from collections.abc import Callable

import pytest
from jaxtyping import install_import_hook

_SHAPE_CHECKS = install_import_hook(["mhim_core.mil", "mhim_core.embed"], "beartype.beartype")


_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_FIELDS = {"version": 4, "flags": 6, "method": 8}
"""Offsets of 16-bit fields in a zip file's local headers; in its central directory they lie 2 bytes later."""


def _with_field(data: bytes, name: str, value: int) -> bytes:
    changed = bytearray(data)
    for signature, shift in ((_LOCAL, 0), (_CENTRAL, 2)):
        start = data.find(signature)
        while start >= 0:
            struct.pack_into("<H", changed, start + _FIELDS[name] + shift, value)
            start = data.find(signature, start + 4)
    return bytes(changed)


def _with_properties(data: bytes) -> bytes:
    """Every entry begins as one of LZMA does, with properties that no encoder writes."""
    changed = bytearray(data)
    start = data.find(_LOCAL)
    while start >= 0:
        name, extra = struct.unpack_from("<HH", data, start + 26)
        struct.pack_into("<BBH5s", changed, start + 30 + name + extra, 9, 4, 5, b"\xff" * 5)
        start = data.find(_LOCAL, start + 4)
    return bytes(changed)


@pytest.fixture
def damaged_zips() -> Callable[[bytes], dict[str, bytes]]:
    """damaged_zips(zip file) → versions of it that Python's own reader refuses, each by another kind of error."""

    def damage(data: bytes) -> dict[str, bytes]:
        middle = len(data) // 3
        return {
            "encrypted": _with_field(data, "flags", 1),
            "method unknown": _with_field(data, "method", 99),
            "bzip2": _with_field(data, "method", 12),
            "LZMA": _with_properties(_with_field(data, "method", 14)),
            "newer format": _with_field(data, "version", 99),
            "bytes lost": data[:middle] + bytes(40) + data[middle + 40 :],
        }

    return damage
