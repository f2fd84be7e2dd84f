"""The registered checks of the gate: a function each, in the files of `gate_checks/`, in the order that they state."""

import importlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache

from mhim_core.registrations import Registration, registrations
from mhim_core.registry import gate_checks
from mhim_core.registry.contest import Check, Contest

GateCheck = Callable[[Contest], Iterator[Check]]


class Subject(StrEnum):
    """What a check is about; the checks are made and listed in this order."""

    models = "models"
    """The two cards and the holdout."""
    predictions = "predictions"
    """The predictions as such: there are figures only where all of these checks pass."""
    performance = "performance"
    """What the predictions are worth."""


_FUNCTIONS: dict[str, GateCheck] = {}


def register_check(name: str, *, subject: str, order: int) -> Callable[[GateCheck], GateCheck]:
    """A decorator: this function of `gate_checks/` is a check of the gate. All arguments are literals.

    `subject`: a name of `Subject`. `order`: its place among the checks of that subject, each of which has another.
    """

    def register(check: GateCheck) -> GateCheck:
        assert _registered()[name].module == check.__module__, name
        _FUNCTIONS[name] = check
        return check

    return register


def checks_of(subject: Subject) -> tuple[GateCheck, ...]:
    """In order."""
    entries = sorted(
        (entry for entry in _registered().values() if Subject(entry.options["subject"]) is subject),
        key=lambda entry: entry.options["order"],
    )
    places = [entry.options["order"] for entry in entries]
    assert len({*places}) == len(places), f"two checks of {subject} have one order: {places}"
    for entry in entries:
        importlib.import_module(entry.module)
    return tuple(_FUNCTIONS[entry.name] for entry in entries)


@cache
def _registered() -> dict[str, Registration]:
    return {entry.name: entry for entry in registrations(gate_checks, register_check.__name__)}
