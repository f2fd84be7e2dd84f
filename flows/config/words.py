"""`key=value` words → one frozen dataclass, with Hydra for numbers and raw text for names and paths.

Hydra's grammar turns `out=2026_11` into 202611 and refuses `cohort=a (1).csv`; so a key typed string or enum takes the
raw text after the first `=`, and only numbers and booleans go through the grammar. One value per key, no sweeps.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from mhim_core.errors import ConfigError

Config = TypeVar("Config")

_NONE = ("", "none", "null")
"""How a person says that an optional key is not set."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and the stand-ins for bytes that are not UTF-8: no path or address for a record or a terminal."""


class Key(NamedTuple):
    """One configuration key as people see it."""

    name: str
    kind: type
    optional: bool
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_text(self) -> bool:
        return issubclass(self.kind, str | Enum | tuple)


def keys_of(config: type) -> dict[str, Key]:
    """Every key of a flow's config class, in order, with the docstring under its field."""
    docs = {name: doc for cls in reversed(config.__mro__) for name, doc in _field_docs(cls).items()}
    hints = typing.get_type_hints(config)
    keys = {}
    for field in dataclasses.fields(config):
        if not field.metadata.get("is_key", True):
            continue  # what the command line notes for the flow
        kind, optional = _split_optional(hints[field.name])
        keys[field.name] = Key(field.name, kind, optional, field.default, docs.get(field.name, ""))
    return keys


def parse(config: type[Config], words: Sequence[str], *, preset: str, command: str = "") -> Config:
    """The flow's config from `key=value` words over the YAML preset `flows/conf/<preset>.yaml`.

    Raises ConfigError with one sentence: unknown key, missing key, or a value that is not of the key's type.
    """
    keys = keys_of(config)
    command = command or preset
    text: dict[str, Any] = {}
    grammar: list[str] = []
    seen: set[str] = set()
    for word in words:
        name, separator, value = word.partition("=")
        if name not in keys:
            meant = _suggest(name, keys)
            advice = f"did you mean {meant}=…? " if meant else ""
            raise ConfigError(f"{command} has no key {name!r}; {advice}its keys are listed by mhim {command} --help")
        if not separator:
            raise ConfigError(f"key {name!r} has no value; write {name}=…, without spaces around the =")
        if name in seen:
            raise ConfigError(f"key {name!r} is given twice; give it once")
        seen.add(name)
        if keys[name].is_text:
            text[name] = _text_value(keys[name], value)
        else:
            grammar.append(_grammar_word(keys[name], value))
    missing = [key.name for key in keys.values() if key.required and not text.get(key.name)]
    if missing:
        wanted = " ".join(f"{name}=…" for name in missing)
        raise ConfigError(f"{command} needs {wanted}; its keys are listed by mhim {command} --help")
    given: dict[str, Any] = {word.partition("=")[0]: word.partition("=")[2] for word in words} | text
    implied = getattr(config, "implied", _nothing)(given)  # a recipe, below what a person typed
    return _compose(config, preset, grammar, implied | text)


def _nothing(given: dict[str, Any]) -> dict[str, Any]:
    return {}


def _compose(config: type[Config], preset: str, grammar: list[str], settled: dict[str, Any]) -> Config:
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    required = {name: "" for name, key in keys_of(config).items() if key.required}
    schema = OmegaConf.structured(config(**required))
    OmegaConf.set_readonly(schema, None)  # frozen means frozen afterwards: Hydra still has to merge into it
    ConfigStore.instance().store(group="schema", name=preset, node=schema, package="_global_")
    try:
        with initialize_config_module("flows.conf", version_base="1.3"):
            composed = compose(preset, overrides=grammar)
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error.__cause__ or error).split("\n")[0]
        raise ConfigError(f"cannot read {' '.join(grammar) or preset}: {cause}") from error
    values = {str(name): tuple(node) if OmegaConf.is_list(node) else node for name, node in composed.items()}
    return config(**values | settled)


def _text_value(key: Key, value: str) -> Any:
    if issubclass(key.kind, Enum):
        return _member(key, value)
    if _UNFIT.search(value):
        raise ConfigError(f"{key.name}={value!r}: control characters and broken UTF-8 cannot be part of it")
    if issubclass(key.kind, tuple):
        # `[a,b]` as in YAML and Hydra, or `a,b`; a bracket inside a path stays
        inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        return tuple(part for part in inner.split(",") if part)
    if not value and key.required:
        raise ConfigError(f"{key.name}= needs a value")
    return None if key.optional and value.lower() in _NONE else value


def _member(key: Key, value: str) -> Enum | None:
    if key.optional and value.lower() in _NONE:
        return None
    try:
        member: Enum = key.kind[value]  # type: ignore[index]
    except KeyError:
        allowed = ", ".join(member.name for member in key.kind)  # type: ignore[attr-defined]
        raise ConfigError(f"{key.name}={value!r} is not one of {allowed}") from None
    return member


def _grammar_word(key: Key, value: str) -> str:
    """The override word for Hydra, checked first so that its grammar cannot reinterpret it."""
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}[key.kind]
    text = value.strip()
    if key.optional and text.lower() in _NONE:
        return f"{key.name}=null"
    try:
        if key.kind is bool:
            good = text.lower() in ("true", "false")
        elif key.kind is int:
            good = str(int(text)) == text.removeprefix("+")
        else:
            good = math.isfinite(float(text)) and "_" not in text
    except ValueError:
        good = False
    if not good:
        decimal = _DECIMAL_COMMA.fullmatch(text) if key.kind is float else None
        advice = f"; write {text.replace(',', '.')}" if decimal else ""
        raise ConfigError(f"{key.name}={value!r} is not {wanted}{advice}")
    return f"{key.name}={text.removeprefix('+')}"


def _suggest(name: str, keys: dict[str, Key]) -> str | None:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_").lower(), keys, n=1, cutoff=0.6)
    return close[0] if close else None


def _split_optional(hint: Any) -> tuple[type, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], True
    return typing.get_origin(hint) or hint, False


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each annotated field: Python keeps it in the source alone."""
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
