"""The core stands alone: nothing in it needs Ray, Hydra or the layers above."""

import importlib
import os
import pkgutil

import pytest

import mhim_core

PACKAGE_OF = {"mhim_core.mil.philox_triton": "triton"}
"""Modules that are imported only where a package is there that comes with torch for CUDA."""


def core_modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(mhim_core.__path__, "mhim_core.")]


@pytest.mark.parametrize("name", core_modules())
def test_every_core_module_imports_in_this_environment(name: str) -> None:
    if name in PACKAGE_OF:
        pytest.importorskip(PACKAGE_OF[name])
    assert importlib.import_module(name).__doc__ is not None


@pytest.mark.parametrize("name", [name for name in os.environ.get("MHIM_WITHOUT", "").split(",") if name])
def test_what_is_made_unimportable_really_is(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
