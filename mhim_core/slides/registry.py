"""Backends by the name a user types. Standard library only: the command line reads the names.

They are what the classes of `backends/` are decorated with, read from the source: a class, and with it the library that
decodes, is imported when its first file is opened.
"""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from mhim_core.registrations import registrations
from mhim_core.slides import backends

BackendClass = TypeVar("BackendClass", bound=type[Any])

_CLASSES: dict[str, type[Any]] = {}


def register_backend(name: str, *, version: int) -> Callable[[BackendClass], BackendClass]:
    """A class decorator: `backend=<name>` is this class of `backends/`. Name and version are literals.

    `version` is raised when the backend's pixels change; it is part of the tiling's identity.
    """

    def register(backend: BackendClass) -> BackendClass:
        from mhim_core.features import BackendUsed  # which imports numpy

        assert _REGISTERED[name].module == backend.__module__, name
        backend.used = BackendUsed(name, version)
        _CLASSES[name] = backend
        return backend

    return register


def backend_class(name: str) -> type[Any]:
    """The registered `Backend` of that name."""
    importlib.import_module(_REGISTERED[name].module)
    return _CLASSES[name]


_REGISTERED = {entry.name: entry for entry in registrations(backends, register_backend.__name__)}
BACKEND_VERSIONS: dict[str, int] = {name: entry.options["version"] for name, entry in _REGISTERED.items()}
BACKEND_NAMES = tuple(BACKEND_VERSIONS)
