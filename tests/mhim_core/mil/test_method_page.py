"""docs/method.md says what the code does: its example runs, its table is the recipes', its names exist."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.plugins import load_plugin
from mhim_core.mil.probe import check_plugin
from mhim_core.mil.registry import AGGREGATOR_NAMES
from mhim_core.task import Task, TaskKind

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/method.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:mil|train)/[\w/]+\.py)(?::[^`]*)?`", PAGE)))
NAMES = sorted(set(re.findall(r"`((?:mil|train)/[\w/]+)\.py: (\w+)", PAGE)))


def test_the_example_of_a_plug_in_is_fit_for_mining() -> None:
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    plugin = load_plugin(example.group(1).encode(), "two_heads.py")
    assert plugin.names == ("two-heads",)
    for kind, classes in ((TaskKind.classification, ("a", "b")), (TaskKind.survival, ()), (TaskKind.regression, ())):
        options = ModelOptions(aggregator="two-heads", embed_dim=16)
        check_plugin(plugin, options, Task(kind=kind, classes=classes), mining=True, dtype=torch.float64)


@pytest.mark.parametrize("path", FILES)
def test_the_files_that_it_names_exist(path: str) -> None:
    assert (ROOT / "mhim_core" / path).is_file()


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_names_that_it_places_in_a_file_are_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module("mhim_core." + module.replace("/", ".")), name)


@pytest.mark.parametrize("name", AGGREGATOR_NAMES)
def test_every_aggregator_is_on_it(name: str) -> None:
    assert f"`{name}`" in PAGE or f"**{name}" in PAGE or f"{name}**" in PAGE
