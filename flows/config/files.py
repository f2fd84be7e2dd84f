"""Files of keys: those that `config=my.yaml` names, and those that commands write so that they can be repeated.

    cohort: my.csv
    folds: 5
    split_files: [fold0.csv, fold1.csv]

One YAML mapping of a command's flat keys. A scalar is taken as its text and read like a word on the command line:
`out: 2026_11` is a name, not a number. Relative paths are relative to the current folder, not to the file's.
"""

import json
import os
import re
from collections.abc import Container, Mapping
from enum import Enum
from typing import Any

import yaml

from cluster.storage import read_bytes
from flows.config.flat import Key, flat, keys_of
from flows.config.words import CONFIG, unknown_key
from mhim_core.errors import ConfigError, NotFoundError
from mhim_core.storage import Storage

RESOLVED = "resolved.yaml"
"""Beside a command's outputs: every key as it was resolved."""
AS_TYPED = "MHIM_AS_TYPED"
"""Set in a job: JSON {key: [its value in the job, its value where the job was submitted]} of the keys that differ."""

_MAX_BYTES = 2**20


def read_keys(uri: str, keys: Mapping[str, Key], command: str) -> dict[str, str | tuple[str, ...]]:
    """The file's keys with the text of each, or the texts of a list.

    Raises ConfigError if the file is missing, larger than 1 MiB or no mapping of the command's keys; StorageError (6).
    """
    root = _compose(uri)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"config={uri} is no mapping of keys; write one `key: value` a line")
    values: dict[str, str | tuple[str, ...]] = {}
    for name_node, node in root.value:
        if not isinstance(name_node, yaml.ScalarNode):  # as text, nested aliases would be as long as memory
            raise ConfigError(f"config={uri} is no mapping of keys; write one `key: value` a line")
        name = str(name_node.value)
        if name not in keys:
            if name == CONFIG.name:
                raise ConfigError(f"config={uri} names another file with config; only the command line may name one")
            raise ConfigError(f"config={uri}: {unknown_key(name, list(keys), command)}")
        if name in values:
            raise ConfigError(f"config={uri} gives key {name!r} twice; give it once")
        values[name] = _text(uri, keys[name], node)
    return values


def _compose(uri: str) -> yaml.Node | None:
    try:
        data = read_bytes(uri)
    except NotFoundError:
        raise ConfigError(f"config={uri}: there is no such file") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"config={uri}: has {len(data):,} bytes; a file of keys may have {_MAX_BYTES:,} at most")
    try:
        root: yaml.Node | None = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"config={uri} is no YAML file: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"config={uri} is nested too deeply; write one `key: value` a line") from None
    return root


def resolved(config: Any, command: str, names: Container[str] | None = None) -> bytes:
    """The content of a file with which `mhim <command> config=<file>` repeats the command, from the same folder.

    `names`: the keys in it; None: all. In a job it holds the values of the machine that submitted it, since files sent
    with the job are gone afterwards.
    """
    lines = [f"# mhim {command} config=<this file> does this again; relative paths are of the folder it was started in"]
    for name, value in _as_typed(config).items():
        if names is not None and name not in names:
            continue
        in_line = None if isinstance(value, tuple) else False
        text = yaml.safe_dump({name: _plain(value)}, allow_unicode=True, width=1e9, default_flow_style=in_line)
        lines.append(text.rstrip("\n"))
    return ("\n".join(lines) + "\n").encode()


def has_resolved(storage: Storage, folder: str = "") -> bool:
    """Whether the file is in that folder of outputs: a command that was killed may have left it out."""
    try:
        storage.get(f"{folder}/{RESOLVED}".lstrip("/"))
    except NotFoundError:
        return False
    return True


def write_resolved(
    storage: Storage, config: Any, command: str, folder: str = "", names: Container[str] | None = None
) -> None:
    """Put the file, with all keys or those of these names, into the command's folder of outputs, unless it is there
    with the same content."""
    key, text = f"{folder}/{RESOLVED}".lstrip("/"), resolved(config, command, names)
    try:
        present = storage.get(key)
    except NotFoundError:
        present = None
    if present != text:  # a command that finds everything done writes nothing
        storage.put(key, text)


def _as_typed(config: Any) -> dict[str, Any]:
    values, keys = flat(config), keys_of(type(config))
    for name, (in_job, typed) in json.loads(os.environ.get(AS_TYPED, "{}")).items():
        if name in values and keys[name].changed(values[name], str) == in_job:
            values[name] = tuple(typed) if isinstance(typed, list) else typed
    return values


def _text(uri: str, key: Key, node: yaml.Node) -> str | tuple[str, ...]:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    is_list = isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value)
    if is_list and issubclass(key.kind, tuple):
        return tuple(str(item.value) for item in node.value)
    if is_list and key.listed:
        return ",".join(str(item.value) for item in node.value)
    if key.is_grid and isinstance(node, yaml.MappingNode):
        return " ".join(f"{_word(uri, key, name)}={_words(uri, key, values)}" for name, values in node.value)
    raise ConfigError(f"config={uri}: {key.name} takes one value" + (" or a list of them" if key.listed else ""))


def _words(uri: str, key: Key, node: yaml.Node) -> str:
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return ",".join(_word(uri, key, item) for item in items)


def _word(uri: str, key: Key, node: yaml.Node) -> str:
    """The text of a scalar that can stand in `key=a,b key=c,d`."""
    if isinstance(node, yaml.ScalarNode) and not _SEPARATOR.search(str(node.value)):
        return str(node.value)
    raise ConfigError(
        f"config={uri}: {key.name} is a mapping of keys to lists of their values, which hold no comma, = or space"
    )


_SEPARATOR = re.compile(r"[\s,=\[\]]")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    return list(value) if isinstance(value, tuple) else value
