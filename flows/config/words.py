"""`key=value` words and a file of the same keys → one frozen config, with Hydra for recipes.

The command line wins over the file (`config=my.yaml`), the file over the recipe, the recipe over the defaults. A word's
value is the raw text after the first `=`, read by the kind of its key: Hydra's grammar, and YAML's, would turn
`out=2026_11` into 202611. One value per key; `vary=` of a sweep is a text whose words `flows.config.sweep` reads.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

from flows.config.flat import Key, from_keys, keys_of
from flows.config.own_files import require_own
from flows.config.recipes import recipe_groups
from flows.config.roles import Role
from mhim_core.errors import ConfigError

Config = TypeVar("Config")

CONFIG = Key(
    name="config",
    kind=str,
    optional=False,
    default="",
    doc="A YAML file with keys of this command, a path or an s3:// URI; keys on the command line override it. "
    "Relative paths in it are relative to the current folder, as on the command line; empty: none.",
    role=Role.file,
    listed=False,
    path=(),
)
"""The key that every command has beside those of its config."""

_NONE = ("", "none", "null")
"""The word for an optional key that is not set."""
_AUTO = "auto"
"""The same for an optional number, which is then settled by the machine or the data."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and surrogates for bytes that are not UTF-8, which must not get into records or a terminal."""


def parse(config: type[Config], words: Sequence[str], *, command: str) -> Config:
    """The command's config from its `key=value` words, and the file that they name.

    Raises ConfigError with one sentence: unknown key, missing key, or a value that is not of the key's type.
    """
    keys = keys_of(config)
    values = given_values(config, words, command)
    missing = [key.name for key in keys.values() if key.required and not values.get(key.name)]
    if missing:
        wanted = " ".join(f"{name}=…" for name in missing)
        raise ConfigError(f"{command} needs {wanted}; its keys are listed by mhim {command} --help")
    return _noting(with_recipe(config, values, command), tuple(sorted(values)))


def given_values(config: type, words: Sequence[str], command: str) -> dict[str, Any]:
    """The values of the keys that the words or their file give, in the type of each key. Raises ConfigError."""
    keys = keys_of(config)
    typed = split_words(words, [*keys, CONFIG.name], command)
    values: dict[str, Any] = {}
    if uri := typed.pop(CONFIG.name, ""):
        from flows.config.files import read_keys

        file = read_keys(_text_value(CONFIG, uri), keys, command)
        try:
            values = {name: _value(keys[name], raw) for name, raw in file.items() if name not in typed}
            _refuse_from_elsewhere(uri, keys, values)
        except ConfigError as error:
            raise ConfigError(f"config={uri}: {error}") from None
    return values | {name: _value(keys[name], raw) for name, raw in typed.items()}


def _refuse_from_elsewhere(uri: str, keys: Mapping[str, Key], values: Mapping[str, Any]) -> None:
    """Raises ConfigError if a file that others may have written says which code runs or who gets a token.

    Such is one that is not on this machine, or that another of its users can write, as in a shared run's folder.
    """
    for name, value in values.items():
        harmless = keys[name].harmless
        if harmless is None or value in (keys[name].default, *harmless):
            continue
        if "://" in uri:
            raise ConfigError(
                f"{name}={value} is taken from the command line or a file on this machine alone, since whoever can "
                f"write {uri} would decide about this machine; if you want it, give {name}= on the command line"
            )
        try:
            require_own(Path(os.path.expanduser(uri)).absolute())
        except ConfigError as error:
            raise ConfigError(f"{name}={value}: {error}; or give {name}= on the command line") from None


def with_recipe(config: type[Config], values: Mapping[str, Any], command: str = "train") -> Config:
    """The config of these flat keys, which override the recipe that they name if the command has recipes."""
    return from_keys(config, **_recipe(config, values, command) | dict(values))


def recipe_values(name: str, aggregator: str) -> dict[str, Any]:
    """The values that a recipe sets for that aggregator, by key. Raises ConfigError for an unknown recipe."""
    from flows.config.commands import TrainConfig

    return _recipe(TrainConfig, {"recipe": name, "aggregator": aggregator}, "train")


def unknown_key(name: str, keys: Sequence[str], command: str) -> ConfigError:
    """A message that names the nearest key."""
    nearest = _suggest(name, keys)
    advice = f"did you mean {nearest}=…? " if nearest else ""
    return ConfigError(f"{command} has no key {name!r}; {advice}its keys are listed by mhim {command} --help")


def split_words(words: Sequence[str], known: Sequence[str], command: str) -> dict[str, str]:
    """The text of each key. Raises ConfigError for an unknown key, one without a value, and one that is given twice."""
    typed: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if name not in known and not separator and ("/" in word or os.path.exists(word)):
            raise ConfigError(f"{command} does not know what {word!r} is: write key=value, such as {known[0]}={word}")
        if name not in known:
            raise unknown_key(name, known, command)
        if not separator:
            raise ConfigError(f"key {name!r} has no value; write {name}=…, without spaces around the =")
        if name in typed:
            raise ConfigError(f"key {name!r} is given twice; give it once")
        typed[name] = value
    return typed


def word_value(key: Key, text: str) -> Any:
    """The value of a key from a word's text. Raises ConfigError."""
    return _value(key, text)


def _value(key: Key, raw: str | tuple[str, ...]) -> Any:
    """The key's value from the text of a word or a file's scalar, or from the texts of a file's list."""
    if isinstance(raw, tuple):
        _check_text(key, *raw)
        return raw
    return _text_value(key, raw) if key.is_text else _number(key, raw)


def _noting(config: Config, names: tuple[str, ...]) -> Config:
    """Note in the config which keys the user gave, if it has a field for them."""
    if "asked" not in {field.name for field in dataclasses.fields(cast(Any, config))}:
        return config
    return dataclasses.replace(cast(Any, config), asked=names)


def _recipe(config: type, values: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The values that the named recipe sets for keys that are not given; {} for a command without recipes."""
    keys = keys_of(config)
    if "recipe" not in keys:
        return {}
    name, aggregator = (str(values.get(key) or keys[key].default) for key in ("recipe", "aggregator"))
    return {key: _value(keys[key], text) for key, text in _composed(name, aggregator).items() if key not in values}


@functools.cache
def _composed(name: str, aggregator: str) -> Mapping[str, str]:
    """The recipe as Hydra composes it from its files, by key, in the form in which a user would type it."""
    groups = recipe_groups(name, aggregator)
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="recipe_of_a_command", node={"defaults": [*groups, "_self_"]})
    with initialize_config_module("flows.config", version_base="1.3"):
        composed = compose("recipe_of_a_command")
    return {str(key): str(value) for key, value in composed.items()}


def _text_value(key: Key, value: str) -> Any:
    if issubclass(key.kind, Enum):
        return _member(key, value)
    _check_text(key, value)
    if issubclass(key.kind, tuple):
        # `[a,b]` as in YAML and Hydra, or `a,b`; a bracket inside a path stays
        inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        return tuple(part for part in inner.split(",") if part)
    if not value and key.required:
        raise ConfigError(f"{key.name}= needs a value")
    return None if key.optional and value.lower() in _NONE else value


def _check_text(key: Key, *texts: str) -> None:
    for text in texts:
        if _UNFIT.search(text):
            raise ConfigError(f"{key.name}={text!r}: control characters and broken UTF-8 cannot be part of it")


def _member(key: Key, value: str) -> Enum | None:
    if key.optional and value.lower() in _NONE:
        return None
    try:
        member: Enum = key.kind[value]  # type: ignore[index]
    except KeyError:
        allowed = ", ".join(member.name for member in key.kind)  # type: ignore[attr-defined]
        raise ConfigError(f"{key.name}={value!r} is not one of {allowed}") from None
    return member


def _number(key: Key, value: str) -> float | bool | None:
    """A number, in one plain notation only, so that no slip of typing becomes another number."""
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}[key.kind]
    text = value.strip()
    if key.optional and text.lower() in (*_NONE, _AUTO):
        return None
    try:
        if key.kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if key.kind is int and str(int(text)) == text.removeprefix("+"):
            return int(text)
        if key.kind is float and math.isfinite(float(text)) and "_" not in text:
            return float(text)
    except ValueError:
        pass
    decimal = _DECIMAL_COMMA.fullmatch(text) if key.kind is float else None
    advice = f"; write {text.replace(',', '.')}" if decimal else ""
    raise ConfigError(f"{key.name}={value!r} is not {wanted}{advice}")


def _suggest(name: str, keys: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_").lower(), keys, n=1, cutoff=0.6)
    return close[0] if close else None
