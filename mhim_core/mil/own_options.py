"""An aggregator's own options: declared beside it, and fields of `ModelOptions` like all others. No torch.

On the command line, in files and in records they are flat keys. They belong to the identity of models of their
aggregator alone: for any other they have their neutral values, and so are absent from its records (ADR 12).
"""

import dataclasses
import re
import typing
from typing import Any, TypeVar

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import NEUTRAL
from mhim_core.mil.registry import options_classes
from mhim_core.task import Task

Kind = TypeVar("Kind")

DECLARED_IN = "declared_in"
"""The key of a field's metadata: the class that it was copied from, whose source has its docstring."""


def with_own_options(kind: type[Kind]) -> type[Kind]:
    """A class decorator, below `dataclass`: adds a copy of every field of the aggregators' own options.

    The name of such a field begins with the first word of its aggregator's name, it has a default, and a neutral value.
    """
    for own, aggregators in options_classes().items():
        hints = typing.get_type_hints(own)
        for field in dataclasses.fields(own):
            words = {re.split("[-_]", name)[0] for name in aggregators}
            where = f"{own.__name__}.{field.name}"
            assert field.name.split("_")[0] in words, f"{where} must begin with one of {', '.join(sorted(words))}"
            assert NEUTRAL in field.metadata, f"{where} must declare a neutral value"
            assert field.name not in kind.__annotations__, f"{where} is the name of another option of the model"
            kind.__annotations__[field.name] = hints[field.name]
            metadata = {**field.metadata, DECLARED_IN: own}
            setattr(kind, field.name, dataclasses.field(default=field.default, metadata=metadata))
    return kind


def own_options(options: Any, kind: type[Kind]) -> Kind:
    """Those of the model's options that `kind` declares, as one. Raises ConfigError where `kind` refuses a value."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def settle_own_options(options: Any, aggregator: str) -> None:
    """Check those of this aggregator, and give all others their neutral values, in place.

    Raises ConfigError where one of this aggregator is refused, or one of another aggregator was set.
    """
    for kind, aggregators in options_classes().items():
        if aggregator in aggregators:
            own_options(options, kind)
            continue
        for field in dataclasses.fields(kind):
            if getattr(options, field.name) not in (field.default, field.metadata[NEUTRAL]):
                raise ConfigError(
                    f"{field.name} is an option of aggregator={' or '.join(aggregators)}, not of {aggregator}"
                )
            object.__setattr__(options, field.name, field.metadata[NEUTRAL])


def check_task(options: Any, aggregator: str, task: Task) -> None:
    """Raises ConfigError where this aggregator cannot learn the task, or not with its own options (`check_task`)."""
    for kind, aggregators in options_classes().items():
        check = getattr(kind, "check_task", None)
        if aggregator in aggregators and check is not None:
            check(own_options(options, kind), task)
