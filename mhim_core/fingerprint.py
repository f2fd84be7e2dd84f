"""Canonical JSON and its sha256: the one way this project names content.

A field that says `metadata={"neutral": value}` is left out while it has that value, which means what versions without
the field did: so an option that is added later changes no fingerprint and no record until it is used (ADR 10). A
NamedTuple, whose fields have no metadata, is decorated with `neutral_fields`.

A field that says `metadata={"flat": True}` holds a dataclass whose fields are written beside those of its owner, which
share no name with them.
"""

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

Kind = TypeVar("Kind")

NEUTRAL, FLAT = "neutral", "flat"
"""The keys of a field's metadata."""
_OF_TUPLES = "_neutral_values"
"""The attribute of a NamedTuple."""


def neutral_fields(**values: Any) -> Callable[[type[Kind]], type[Kind]]:
    """A decorator of a NamedTuple: the neutral values of its fields."""

    def declare(kind: type[Kind]) -> type[Kind]:
        assert values.keys() <= set(kind._fields), kind  # type: ignore[attr-defined]
        setattr(kind, _OF_TUPLES, values)
        return kind

    return declare


def canonical_json(value: Any) -> bytes:
    """The same value gives the same bytes everywhere: sorted keys, no spaces, shortest floats, no NaN.

    Takes dataclasses, NamedTuples, enums and the plain JSON types, and leaves fields at their neutral value out. Raises
    TypeError or ValueError on anything else.
    """
    return json.dumps(
        to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(value: Any) -> str:
    """The sha256 (64 hex digits) of the value's canonical JSON."""
    return sha256(canonical_json(value))


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def to_plain(value: Any) -> Any:
    """The plain JSON types that `canonical_json` writes, as a copy; `records.read_record` is the way back.

    Never `dataclasses.asdict`, which keeps neutral fields: what it gives would change whenever an option is added.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            plain = to_plain(getattr(value, field.name))
            own |= plain if field.metadata.get(FLAT) else {field.name: plain}
        return stated(type(value), own)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return stated(type(value), to_plain(value._asdict()))
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


@functools.cache
def neutral_values(kind: type) -> Mapping[str, Any]:
    """By field of a dataclass or NamedTuple what its absence from a record means, in plain JSON types."""
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        values = {field.name: to_plain(field.metadata[NEUTRAL]) for field in fields if NEUTRAL in field.metadata}
        for part in flat_parts(kind).values():
            values |= neutral_values(part)
    else:
        values = to_plain(getattr(kind, _OF_TUPLES, {}))
    return MappingProxyType(values)


@functools.cache
def flat_parts(kind: type) -> Mapping[str, type]:
    """The classes of a dataclass's flat fields, by field."""
    names = [field.name for field in dataclasses.fields(kind) if field.metadata.get(FLAT)]
    types = typing.get_type_hints(kind) if names else {}
    return MappingProxyType({name: types[name] for name in names})


def stated(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a `kind`'s values, by field, that are not at their neutral value."""
    neutral = neutral_values(kind)
    if not neutral:
        return dict(values)
    return {name: value for name, value in values.items() if name not in neutral or to_plain(value) != neutral[name]}
