"""Numbers for a page: a JSON head and arrays behind it, which a browser reads without parsing digits.

Four bytes (little endian) the length of the head, the head padded with spaces to a multiple of four, then the arrays in
the order that its `arrays` names, each padded to a multiple of four.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_TYPES = {"float32": "<f4", "int32": "<i4", "uint8": "u1"}


def pack(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """`arrays` of any shape, by name; each is written as float32, int32 or uint8, which it must be already."""
    described, parts = [], []
    for name, values in arrays.items():
        kind = values.dtype.name
        data = np.ascontiguousarray(values, _TYPES[kind]).tobytes()
        described.append({"name": name, "type": kind, "length": values.size})
        parts.append(data + bytes(-len(data) % 4))
    head = json.dumps({**facts, "arrays": described}, allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    return b"".join([len(head).to_bytes(4, "little"), head, *parts])
