"""The role of a key in its command: part of the result's identity, a setting of execution, or some kind of address."""

import dataclasses
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

Part = TypeVar("Part")


class Role(StrEnum):
    """Declared in a field's metadata; a part of a config may declare it for its fields that have none of their own."""

    identity = "identity"
    """Determines the result. Each record defines which of these keys are in its fingerprint."""
    execution = "execution"
    """Determines where and how the result is computed, and does not change it."""
    file = "file"
    """A small file that is read; a local one is sent with a job."""
    place = "place"
    """A folder, prefix or file that is read, and that every node must reach."""
    features = "features"
    """A feature store that is read."""
    output = "output"
    """A place that is written, by every node."""
    run = "run"
    """A training run's folder."""
    model = "model"
    """A training run's folder, or a registered model such as lung@champion."""
    node_path = "node_path"
    """A path that each node must have on its own disk."""
    mirror = "mirror"
    """A place that is written for people and read by no flow."""

    @property
    def is_address(self) -> bool:
        """Whether the value names a place that every node must be able to reach."""
        return self not in (Role.identity, Role.execution, Role.file)

    @property
    def changes_results(self) -> bool:
        """Whether another value may give another result."""
        return self not in (Role.execution, Role.mirror)


def role(kind: Role, *, listed: bool = False) -> dict[str, Any]:
    """Metadata of a field. `listed`: its text names several, separated by commas."""
    return {"role": kind, "listed": listed}


BY_HAND = "by_hand"


def by_hand(*harmless: str) -> dict[str, Any]:
    """Metadata of a field that says which code runs or who gets a token: a file in a store cannot set it.

    `harmless`: values that it may have there, beside the default.
    """
    return {BY_HAND: harmless}


NAMED = "is_name"


def named(is_name: Callable[[str], bool]) -> dict[str, Any]:
    """Metadata of a field whose text may hold several values by name, `name=value,name=value`.

    `is_name`: whether a word is such a name; what is none belongs to the value before it.
    """
    return {NAMED: is_name}


GRID = "grid"


def grid() -> dict[str, Any]:
    """Metadata of a field whose text is `key=a,b key=c,d`: a file may also give it as a mapping of keys to lists."""
    return {GRID: True}


def part(kind: type[Part], role_of_fields: Role, **defaults: Any) -> Part:
    """A field of a config that is a part, with the role of those of its fields that declare none of their own.

    `defaults`: where they are others than the part's. A part with a required key has no default itself.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    missing = dataclasses.MISSING
    needed = [item for item in fields if item.default is missing and item.default_factory is missing]
    metadata = role(role_of_fields)
    made: Any
    if needed:
        made = dataclasses.field(metadata=metadata)
    else:
        made = dataclasses.field(default_factory=lambda: kind(**defaults), metadata=metadata)
    return made  # as `dataclasses.field` does: of the field's type for a type checker
