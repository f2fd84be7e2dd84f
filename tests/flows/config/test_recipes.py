"""The named recipes."""

import dataclasses
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from flows.config.recipes import DEFAULT_RECIPE, RECIPES
from flows.config.words import recipe_values
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import MhimOptions, ModelOptions, Score, StepSchedule, StudentInit, TeacherMode

OF_MODEL = {field.name for field in dataclasses.fields(ModelOptions)}
OF_MHIM = {field.name for field in dataclasses.fields(MhimOptions)}


def options_of(recipe: str, aggregator: str = "abmil") -> MhimOptions:
    values: dict[str, Any] = recipe_values(recipe, aggregator)
    ModelOptions(aggregator=aggregator, **{key: value for key, value in values.items() if key in OF_MODEL})
    return MhimOptions(**{key: value for key, value in values.items() if key in OF_MHIM})


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil", "clam-sb"])
def test_a_recipe_sets_known_keys_to_values_that_the_options_take(recipe: str, aggregator: str) -> None:
    values = recipe_values(recipe, aggregator)
    assert set(values) <= OF_MODEL | OF_MHIM
    # every key of the method, so that a recipe stays what it is when a default moves
    assert set(values) >= OF_MHIM
    options = dataclasses.asdict(options_of(recipe, aggregator))
    assert all(options[key] == value for key, value in values.items() if key in OF_MHIM)


def test_the_default_recipe_is_the_defaults() -> None:
    assert options_of(DEFAULT_RECIPE) == MhimOptions()
    assert RECIPES == ("mhim", "mhim-v2", "mhim-v1", "published-code")


def test_v2_recycles_at_test_and_the_published_code_does_not() -> None:
    text, code = options_of("mhim-v2"), options_of("published-code")
    assert (text.random_mask_ratio, text.consistency_weight, text.ema_momentum) == (0.8, 0.5, "0.9997")
    assert text.recycles_at_test
    assert (text.score, text.teacher_mode) == (Score.margin, TeacherMode.eval)
    assert (code.random_mask_ratio, code.consistency_weight, code.ema_momentum) == (0.2, 0.5, "0.9997")
    assert not code.recycles_at_test
    assert (code.score, code.teacher_mode, code.student_init) == (
        Score.softmax_max,
        TeacherMode.train,
        StudentInit.fresh,
    )


def test_v1_masks_as_its_aggregator_was_published_and_recycles_nothing() -> None:
    abmil, transmil = options_of("mhim-v1"), options_of("mhim-v1", "transmil")
    assert (abmil.v1_random_mask_ratio, abmil.v1_low_mask_ratio, abmil.high_mask_ratio) == (0.5, 0.0, 0.01)
    assert (transmil.v1_random_mask_ratio, transmil.v1_low_mask_ratio, transmil.high_mask_ratio) == (0.0, 0.8, 0.03)
    assert (abmil.high_mask_schedule, transmil.high_mask_schedule) == (StepSchedule.cosine, StepSchedule.constant)
    for options in (abmil, transmil):
        assert options.high_mask_subsample == 0.5
        assert not options.recycles
        assert (options.student_init, options.ema_momentum) == (StudentInit.embed, "0.9999")
    assert options_of("mhim-v1", "dsmil") == abmil
    assert recipe_values("mhim-v1", "abmil")["embed_activation"] == "relu"


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"recipe='v3' is unknown; choose one of mhim, mhim-v2"):
        recipe_values("v3", "abmil")


def test_reading_the_recipes_imports_nothing_heavy() -> None:
    code = (
        "import sys, flows.config.recipes, mhim_core.mil.plugins;"
        "assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_table_of_recipes_is_what_they_set() -> None:
    page = (Path(__file__).parents[3] / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    written = {recipe: {row[0]: row[1 + column] for row in rows} for column, recipe in enumerate(RECIPES)}
    for recipe in RECIPES:
        values = {key: str(value) for key, value in recipe_values(recipe, "abmil").items()}
        assert {"embed_activation": "gelu"} | values == written[recipe]
    assert re.search(r"\| key " + "".join(rf"\| `{recipe}` " for recipe in RECIPES), page)


def test_every_recipe_is_a_file_and_every_file_a_recipe() -> None:
    files = resources.files("flows.config").joinpath("recipe").iterdir()
    assert {file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")} == set(RECIPES)
