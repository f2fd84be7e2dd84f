"""Named recipes: the files of `recipe/`, a config group of Hydra. A recipe sets keys of the method: it overrides the
defaults, and keys in a file or on the command line override it. Light: `mhim --help` reads the names.

`<name>.yaml` is a recipe; `<name>/<aggregator>.yaml`, if present, overrides it for that aggregator.
"""

from enum import Enum
from pathlib import Path

from mhim_core.errors import ConfigError
from mhim_core.mil.registry import AGGREGATOR_NAMES

Value = float | int | str | bool | Enum | None

DEFAULT_RECIPE = "mhim"
RECIPES = ("mhim", "mhim-v2", "mhim-v1", "published-code")
"""mhim: ours; mhim-v2: the text of IJCV 2025; mhim-v1: ICCV 2023; published-code: the commands of v2's repository."""
_FOLDER = Path(__file__).with_name("recipe")


def check_recipe(name: str) -> None:
    """Raises ConfigError if unknown."""
    if name not in RECIPES:
        raise ConfigError(f"recipe={name!r} is unknown; choose one of {', '.join(RECIPES)}")


def recipe_groups(name: str, aggregator: str) -> list[dict[str, str]]:
    """The choices of the config group, as Hydra's defaults list has them. Raises ConfigError if unknown."""
    check_recipe(name)
    has_own = aggregator in AGGREGATOR_NAMES and (_FOLDER / name / f"{aggregator}.yaml").is_file()
    return [{"recipe": name}, *([{f"recipe/{name}": aggregator}] if has_own else [])]
