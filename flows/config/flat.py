"""A command's config as people see it: flat keys, whichever part of the config holds each.

A config is a dataclass whose fields are keys, or parts: dataclasses that hold keys themselves. On the command line, in
a file and in records the keys stand side by side; no two parts of a config share a name. Light: `--help` reads it.
"""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeVar, cast

from flows.config.roles import BY_HAND, GRID, NAMED, Role
from mhim_core.mil.own_options import DECLARED_IN

Config = TypeVar("Config")

MISSING = dataclasses.MISSING


class Key(NamedTuple):
    """One configuration key as people see it."""

    name: str
    kind: type
    optional: bool
    default: Any
    doc: str
    role: Role | None
    """None: its field declares none, a programming error that a test reports."""
    listed: bool
    """A text that names several, separated by commas."""
    path: tuple[str, ...]
    """The parts that hold it, from the config down."""
    choices: tuple[str, ...] = ()
    """The values that a text may have, if its owner lists them; `--help` shows them."""
    neutral: Any = MISSING
    """The value that stands for the behaviour of versions without the key; it is left out of fingerprints."""
    harmless: tuple[str, ...] | None = None
    """Of a key that only the command line or a local file may set: the values that a file elsewhere may give it too.
    None: any file may set the key."""
    is_name: Callable[[str], bool] | None = None
    """Of a text that may hold `name=value,name=value`: whether a word is such a name. None: it holds one value."""
    is_grid: bool = False
    """Whether a file may give the text as a mapping of keys to lists."""

    @property
    def required(self) -> bool:
        """Whether the key has no default."""
        return self.default is MISSING

    @property
    def is_text(self) -> bool:
        """Whether its values are texts, names or lists of texts, and no numbers or booleans."""
        return issubclass(self.kind, str | Enum | tuple)

    def is_neutral(self, value: Any) -> bool:
        """Whether this value is left out of fingerprints and records."""
        return self.neutral is not MISSING and bool(value == self.neutral)

    def values(self, value: Any) -> tuple[str, ...]:
        """The items that a text or a list of texts names; () for none."""
        if isinstance(value, tuple):
            return value
        if self.is_name is not None:
            return tuple(item.value for item in named_values(value, self.is_name) if item.value)
        return split_list(value) if self.listed else (value,) if value else ()

    def changed(self, value: Any, change: Callable[[str], str]) -> str:
        """The text with each of its items changed."""
        if self.is_name is None or isinstance(value, tuple):
            return ",".join(map(change, self.values(value)))
        items = named_values(value, self.is_name)
        return ",".join(f"{item.name}={change(item.value)}" if item.name else change(item.value) for item in items)


class NamedValue(NamedTuple):
    """One of several values in a text."""

    name: str
    """Empty: the text gives the value no name."""
    value: str


def named_values(text: str, is_name: Callable[[str], bool]) -> tuple[NamedValue, ...]:
    """The values of `name=value,name=value`, or of a text without names, commas and all."""
    starts = [match for match in _NAME.finditer(text) if is_name(match[1])]
    ends = [match.start() for match in starts] + [len(text)]
    unnamed = text[: ends[0]]
    named = [NamedValue(match[1], text[match.end() : end].strip()) for match, end in zip(starts, ends[1:], strict=True)]
    return (*([NamedValue("", unnamed)] if unnamed.strip() else []), *named)


_NAME = re.compile(r"(?:^|,)\s*([^\s,=]+)=")


def split_list(text: str) -> tuple[str, ...]:
    """The items of `[a, b]` or `a,b`."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    return tuple(item.strip() for item in inner.split(",") if item.strip())


def keys_of(config: type) -> Mapping[str, Key]:
    """Every key of a config class, in order, with the docstring under its field."""
    return _cached_keys(config)


@functools.cache
def _cached_keys(config: Any) -> Mapping[str, Key]:
    keys: dict[str, Key] = {}
    for key in _keys(config, (), None, None):
        assert key.name not in keys, f"{config.__name__}: {key.path} and {keys[key.name].path} both hold {key.name}"
        keys[key.name] = key
    return types.MappingProxyType(keys)


def flat(config: Any) -> dict[str, Any]:
    """Every key's value."""
    values = {}
    for name, key in keys_of(type(config)).items():
        owner = config
        for step in key.path:
            owner = getattr(owner, step)
        values[name] = getattr(owner, name)
    return values


def from_keys(config: type[Config], **values: Any) -> Config:
    """The config of these flat keys; the others have their defaults. Raises ConfigError as the config would."""
    if unknown := sorted(values.keys() - keys_of(config).keys()):
        raise TypeError(f"{config.__name__} has no key {', '.join(unknown)}")
    return cast(Config, _build(config, values, None))


def with_keys(config: Config, **changes: Any) -> Config:
    """The config with other values of these flat keys."""
    notes = {field.name: getattr(config, field.name) for field in _fields(type(config)) if not _is_key(field)}
    made = from_keys(type(config), **flat(config) | changes)
    return dataclasses.replace(cast(Any, made), **notes) if notes else made


def _build(kind: Any, values: Mapping[str, Any], default: Any) -> Any:
    """`default`: the instance at this part's place in its config, to start from."""
    made: dict[str, Any] = {}
    hints = _hints(kind)
    for field in _fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = {name: values[name] for name in keys_of(cast(type, hint)) if name in values}
            standing = _default(field) if default is None else getattr(default, field.name)
            if inner or standing is MISSING:
                made[field.name] = _build(hint, inner, None if standing is MISSING else standing)
        elif field.name in values:
            made[field.name] = values[field.name]
    return kind(**made) if default is None else dataclasses.replace(default, **made)


def _keys(kind: type, path: tuple[str, ...], default: Any, role: Role | None) -> typing.Iterator[Key]:
    docs = {name: doc for cls in reversed(kind.__mro__) for name, doc in _field_docs(cls).items()}
    hints = _hints(kind)
    for field in _fields(kind):
        if not _is_key(field):
            continue  # what the command line notes for the flow
        standing = _default(field) if default is None else getattr(default, field.name)
        its_role = Role(field.metadata["role"]) if "role" in field.metadata else role
        if dataclasses.is_dataclass(hints[field.name]):
            part = None if standing is MISSING else standing
            yield from _keys(hints[field.name], (*path, field.name), part, its_role)
            continue
        value_kind, optional = _split_optional(hints[field.name])
        listed = bool(field.metadata.get("listed"))
        declared_in = field.metadata.get(DECLARED_IN)
        doc = docs.get(field.name) or _field_docs(declared_in or kind).get(field.name, "")
        choices = _choices(value_kind) or tuple(field.metadata.get("choices", ()))
        neutral = field.metadata.get("neutral", MISSING)
        yield Key(
            field.name,
            value_kind,
            optional,
            standing,
            doc,
            its_role,
            listed,
            path,
            choices,
            neutral,
            harmless=field.metadata.get(BY_HAND),
            is_name=field.metadata.get(NAMED),
            is_grid=bool(field.metadata.get(GRID)),
        )


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _fields(kind: Any) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(kind)


def _is_key(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("is_key", True))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _split_optional(hint: Any) -> tuple[type, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], True
    return typing.get_origin(hint) or hint, False


def _choices(kind: type) -> tuple[str, ...]:
    return tuple(kind.__members__) if issubclass(kind, Enum) else ()


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """The string literal after each annotated field, which Python keeps only in the source."""
    if not dataclasses.is_dataclass(cls):
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs
