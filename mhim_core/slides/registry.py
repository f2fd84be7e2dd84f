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


def register_backend(name: str, *, version: int, pixels_of: str = "") -> Callable[[BackendClass], BackendClass]:
    """A class decorator: `backend=<name>` is this class of `backends/`. Name, version and `pixels_of` are literals.

    `version` is raised when the backend's pixels change; it is part of the tiling's identity. `pixels_of` names the
    backend whose pixels these are, to the last bit: its identity is this one's as well.
    """

    def register(backend: BackendClass) -> BackendClass:
        from mhim_core.features import BackendUsed  # which imports numpy

        assert _REGISTERED[name].module == backend.__module__, name
        backend.name, same = name, PIXELS_OF[name]
        backend.used = BackendUsed(same, BACKEND_VERSIONS[same])
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
PIXELS_OF: dict[str, str] = {name: entry.options.get("pixels_of") or name for name, entry in _REGISTERED.items()}
"""The backend that an identity names, which is another one where that has the same pixels."""
