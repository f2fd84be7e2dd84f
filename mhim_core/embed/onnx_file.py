"""Whether an ONNX file holds all of its weights, read from its protocol buffer. Standard library only.

A tensor of the format may lie in another file, which a reader then opens relative to wherever it stands. The numbers of
fields are those of onnx.proto.
"""

from collections.abc import Iterator

from mhim_core.errors import EncoderError

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MODEL, _FUNCTION, _GRAPH, _NODE = "model", "function", "graph", "node"
_ATTRIBUTE, _SPARSE, _TENSOR = "attribute", "sparse tensor", "tensor"
_PARTS = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""By message, the fields that hold a message in which a tensor can be."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def names_other_files(data: bytes) -> bool:
    """Whether any tensor lies in another file. Raises EncoderError if the bytes are no ONNX model."""
    try:
        return _names_others(memoryview(data), _MODEL, 0)
    except (IndexError, ValueError) as error:
        raise EncoderError("the file is damaged, or no ONNX model") from error


def _names_others(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    for number, value in _fields(message):
        if kind == _TENSOR and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value:
            return True
        part = _PARTS[kind].get(number)
        if part is not None and isinstance(value, memoryview) and _names_others(value, part, depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire, -1)
        if wire == _BYTES:
            size, place = _varint(message, place)
        if size < 0 or place + size > len(message):
            raise ValueError("a field ends beyond its message")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 64 bits")
