"""From a stored record's plain JSON back to a dataclass or NamedTuple, across versions.

A record leaves out what is at its neutral value (`mhim_core.fingerprint`): what it lacks is filled in with that value,
whatever the default is by now. What this version does not know was not neutral, and is refused by name. A flat field
is read from those of its owner's record that belong to it.
"""

import copy
import dataclasses
import functools
import json
import math
import sys
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from mhim_core.errors import IntegrityError
from mhim_core.fingerprint import flat_parts, neutral_values

Record = TypeVar("Record")

_MAX_DEPTH = 64
"""Of objects and lists in one another; what mhim writes has fewer than ten."""
_TOO_DEEP = f"objects and lists are nested more than {_MAX_DEPTH} deep"
_PLAIN = (bool, int, float, str)
_CONTAINERS: dict[Any, type] = {tuple: Sequence, list: Sequence, dict: Mapping, Mapping: Mapping}
"""What stands in JSON for a field of that type; a string is a sequence too, and refused."""


def parse_json(data: bytes | str, *, allow_nan: bool = False) -> Any:
    """JSON from a file that others could have written: every reader of stored bytes takes it from here.

    Raises ValueError for what is no JSON, for objects and lists nested so deep that walking them could exhaust the
    stack (Python's parser raises RecursionError, or leaves it to whoever walks the result), for numbers that are none
    (`allow_nan`: those are taken), and for half characters.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
                inner.extend(key for key in item if not key.isascii())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, float) and not math.isfinite(item) and not allow_nan:
                raise ValueError(f"{item} is no number")
            elif isinstance(item, str) and not item.isascii():
                item.encode()  # half a surrogate pair cannot be written again: UnicodeEncodeError, a ValueError
        if not inner:
            return value
        level = inner
    raise ValueError(_TOO_DEEP)


def parse_object(data: bytes | str, where: str) -> dict[str, Any]:
    """As `parse_json`, an object. Raises IntegrityError naming `where`."""
    try:
        value = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{where} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{where} is damaged: it holds no object")
    return value


def read_record(kind: type[Record], raw: Any, where: str) -> Record:
    """The `kind` that `to_plain` made `raw` from; nested records, enums and tuples by the fields' types.

    Raises IntegrityError naming `where` (used in messages) and the fields, if some are missing that have
    no neutral value, if this version does not know some, or if a value is not of its field's type.
    """
    if not isinstance(raw, Mapping):
        raise IntegrityError(f"{where}: {raw!r} is no record of {kind.__name__}")
    values = with_neutral(kind, raw, where)
    if missing := sorted(field_names(kind) - values.keys()):
        raise IntegrityError(f"{where}: {kind.__name__} lacks the fields {', '.join(missing)}")
    record_type: Any = kind
    types = _types(record_type)
    for name, part in _parts(kind).items():
        values[name] = {inner: values.pop(inner) for inner in field_names(part)}
    try:
        return kind(**{name: _value(types[name], value, f"{where}, {name}") for name, value in values.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{where} is no {kind.__name__}: {type(error).__name__}: {error}") from error


def with_neutral(kind: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record's fields as plain JSON, with those that it leaves out at their neutral value.

    Raises IntegrityError naming `where` and the fields that this version does not know.
    """
    if unknown := sorted(raw.keys() - field_names(kind)):
        listed = ", ".join(f"{name}={raw[name]}" for name in unknown)
        raise IntegrityError(
            f"{where}: {kind.__name__} has unknown fields {listed}; a newer mhim wrote it, so read it with that version"
        )
    return {**copy.deepcopy(dict(neutral_values(kind))), **raw}


def field_names(kind: type) -> frozenset[str]:
    """The keys of a record of this dataclass or NamedTuple."""
    if not dataclasses.is_dataclass(kind):
        return frozenset(kind._fields)  # type: ignore[attr-defined]
    parts = _parts(kind)
    names = {field.name for field in dataclasses.fields(kind) if field.init} - parts.keys()
    return frozenset(names.union(*(field_names(part) for part in parts.values())))


def _parts(kind: type) -> Mapping[str, type]:
    return flat_parts(kind) if dataclasses.is_dataclass(kind) else {}


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, raw: Any, where: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (typing.Union, UnionType):
        kinds = [part for part in parts if part is not NoneType]
        return _value(kinds[0], raw, where) if raw is not None and len(kinds) == 1 else raw
    container = _CONTAINERS.get(origin or hint)
    if container is not None and (isinstance(raw, str) or not isinstance(raw, container)):
        raise IntegrityError(f"{where}: {raw!r} is no {'object' if container is Mapping else 'list'}")
    if origin is tuple:
        kinds = [parts[0]] * len(raw) if parts[1:] == (...,) else list(parts)
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, raw, strict=True))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(raw)
    kind = getattr(hint, "__supertype__", hint)  # what a NewType is made of
    if kind in _PLAIN:
        return _scalar(kind, raw, where)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        return read_record(hint, raw, where)
    return raw


_MAX_FLOAT = int(sys.float_info.max)


def _scalar(kind: type, raw: Any, where: str) -> Any:
    """The value as that type, where it is one or becomes one without loss, as what Python's callers wrote may need."""
    if type(raw) is kind or (kind is float and type(raw) is int and abs(raw) <= _MAX_FLOAT):
        return raw
    is_number = type(raw) in (int, float)
    if kind is str and is_number:
        return str(raw)
    if kind is bool and type(raw) is int and raw in (0, 1):
        return bool(raw)
    if kind is int and type(raw) is float and raw.is_integer():
        return int(raw)
    raise IntegrityError(f"{where}: {raw!r} is no {kind.__name__}")
