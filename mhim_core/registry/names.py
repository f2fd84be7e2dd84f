"""The names of models: `lung`, `lung@champion`, `lung@1f0c…`; and the keys of records in the registry."""

import re
from typing import NamedTuple

from mhim_core.errors import ConfigError

CHAMPION = "champion"
CARD = "card.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9a-f]{4,64}")


class ModelReference(NamedTuple):
    """A model as the user names it: `<name>@<version>`."""

    name: str
    version: str
    """The version's first digits, or champion."""


def check_name(name: str) -> str:
    """The name itself. Raises ConfigError for what cannot be a model's name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a model: letters, digits and ._- only, 1 to 64, the first a letter or digit"
        )
    return name


def parse_reference(text: str) -> ModelReference:
    """`lung@champion` or `lung@<version>`. Raises ConfigError for anything else."""
    name, separator, version = text.partition("@")
    if not separator:
        raise ConfigError(f"model={text} names no version; write model={text}@{CHAMPION}, or {text}@ and a version")
    if version != CHAMPION and not _VERSION.fullmatch(version):
        raise ConfigError(f"model={text}: {version!r} is neither {CHAMPION} nor a version (4 or more of 0-9a-f)")
    return ModelReference(check_name(name), version)


def is_reference(text: str) -> bool:
    """Where either may be given: a reference, or the address of a run? A folder named a@b is written ./a@b."""
    return "@" in text and "/" not in text


def model_prefix(name: str, version: str) -> str:
    return f"models/{check_name(name)}/{version}"


def promotions_prefix(name: str) -> str:
    return f"models/{check_name(name)}/promotions"


def holdout_prefix(name: str) -> str:
    return f"holdouts/{check_name(name)}"


def numbered(prefix: str, number: int) -> str:
    """The key of a numbered record; keys sort as numbers do."""
    return f"{prefix}/{number:06d}.json"


def number_in(key: str) -> int | None:
    """The number of a numbered record's key; None for other keys."""
    match = re.search(r"/([0-9]{6,})\.json$", key)
    return None if match is None else int(match[1])
