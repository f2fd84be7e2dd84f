"""Aggregators by the name a user types: the built-in ones, and those of a user's own file. Standard library only.

The built-in ones are registered by the decorators in `aggregators/`. Their names are read from the source, so that
`mhim --help` knows them without torch; a class is imported when it is first needed.

A configuration can never name arbitrary code: a name is looked up here, and a file of a user's gets here only through
`plugins.load_plugin`. A plug-in is identified by its name and the sha256 of its file, so that several versions of a
file can be loaded in one process and a model always finds its own.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from mhim_core.errors import InputError
from mhim_core.mil import aggregators
from mhim_core.registrations import Reference, registrations

AggregatorClass = TypeVar("AggregatorClass", bound=type)


class AggregatorKey(NamedTuple):
    """What identifies an aggregator."""

    name: str
    plugin_sha256: str | None
    """Of the file that registered it; None for a built-in one."""


class _Loading(NamedTuple):
    plugin_sha256: str
    classes: dict[str, type]


AGGREGATORS: dict[AggregatorKey, type] = {}
"""Classes, constructed with `(num_classes, options)`; a built-in one is added when it is first imported."""

_NEWEST: dict[str, str] = {}
"""A plug-in's name → the sha256 of the file that registered it last."""
_LOADING: ContextVar[_Loading | None] = ContextVar("_LOADING", default=None)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def register_aggregator(
    name: str, *, mining: bool = False, options: type | None = None
) -> Callable[[AggregatorClass], AggregatorClass]:
    """A class decorator: `aggregator=<name>` is this class. See docs/method.md, section Plug-ins.

    `mining`: the class weighs single instances, so that a teacher of its kind can rank them for a student. `options`:
    the class of its own options (`own_options`), imported from a file that does not import torch; a plug-in has none.
    For a built-in class, name and `mining` are literals and `options` is a name, since they are read from the source;
    whether a plug-in can be mined is tried out (`probe.check_plugin`).

    In a user's file it acts where the file is loaded as a plug-in (`aggregator_file=`, `plugins.load_plugin`); where it
    is imported as any module is, it leaves the class as it is and registers nothing. Raises InputError for the name of
    a built-in aggregator, for one that is no plain word, for one that the file uses twice, and for options.
    """

    def register(aggregator: AggregatorClass) -> AggregatorClass:
        loading = _LOADING.get()
        if aggregator.__module__.startswith("mhim_core."):
            assert _BUILT_IN[name].module == aggregator.__module__, name
            AGGREGATORS[AggregatorKey(name, None)] = aggregator
        elif loading is not None:
            _check_name(name, loading)
            if options is not None:
                raise InputError(
                    f"the aggregator {name!r}: a plug-in has no options of its own; make them constants of its file, "
                    "whose sha256 is part of the model's identity"
                )
            loading.classes[name] = aggregator
        return aggregator

    return register


@contextmanager
def registering(plugin_sha256: str) -> Iterator[dict[str, type]]:
    """The classes decorated in the block, by name; they are registered if it ends without an error, else none is."""
    loading = _Loading(plugin_sha256, {})
    token = _LOADING.set(loading)
    try:
        yield loading.classes
    finally:
        _LOADING.reset(token)
    for name, aggregator in loading.classes.items():
        AGGREGATORS[AggregatorKey(name, plugin_sha256)] = aggregator
        _NEWEST[name] = plugin_sha256


def aggregator_class(name: str, plugin_sha256: str | None) -> type[Any]:
    """The class of that name, of that file where it is a plug-in's. Raises InputError if the file is not loaded."""
    if plugin_sha256 is None:
        importlib.import_module(_BUILT_IN[name].module)
    aggregator = AGGREGATORS.get(AggregatorKey(name, plugin_sha256))
    if aggregator is None:
        loaded = f" (another version of it is, {_NEWEST[name][:16]}…)" if name in _NEWEST else ""
        raise InputError(
            f"the aggregator {name!r} is a plug-in, of the file with sha256 {plugin_sha256}, which is not loaded"
            f"{loaded}; give that file with aggregator_file="
        )
    return aggregator


def options_classes() -> dict[type, tuple[str, ...]]:
    """The built-in aggregators' own options: each class with the names of the aggregators that have these options."""
    names: dict[type, tuple[str, ...]] = {}
    for entry in _BUILT_IN.values():
        reference = entry.options.get("options")
        if reference is not None:
            assert isinstance(reference, Reference), f"{entry.name}: options= is the name of an imported class"
            assert reference.module != entry.module, f"{reference.name} must be in a file that does not import torch"
            kind: type = getattr(importlib.import_module(reference.module), reference.name)
            names[kind] = (*names.get(kind, ()), entry.name)
    return names


def newest_plugin(name: str) -> str | None:
    """The sha256 of the loaded file that registered this name last; None where none did."""
    return _NEWEST.get(name)


def _check_name(name: str, loading: _Loading) -> None:
    if name in AGGREGATOR_NAMES:
        raise InputError(f"the aggregator {name!r} is built in; register yours under another name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"the aggregator name {name!r} must be of a-z, 0-9, - and _, and begin with a letter or digit")
    if name in loading.classes:
        raise InputError(f"the aggregator {name!r} is registered twice in one file")


_BUILT_IN = {entry.name: entry for entry in registrations(aggregators, register_aggregator.__name__)}
AGGREGATOR_NAMES = tuple(_BUILT_IN)
"""The built-in ones."""
MINING_AGGREGATORS = tuple(entry.name for entry in _BUILT_IN.values() if entry.options.get("mining", False))
"""Those of them that weigh single instances."""
