"""Canonical JSON and its sha256: the one way this project names content."""

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The same value gives the same bytes everywhere: sorted keys, no spaces, shortest floats, no NaN.

    Takes dataclasses, NamedTuples, enums and the plain JSON types. Raises TypeError or ValueError on anything else.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(value: Any) -> str:
    """The sha256 (64 hex digits) of the value's canonical JSON."""
    return sha256(canonical_json(value))


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
