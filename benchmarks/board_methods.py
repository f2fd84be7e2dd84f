"""The methods of the board: two controls, and every aggregator that can be mined, plain and under every recipe.

What the registries of aggregators and of recipes hold is on the board.
"""

import dataclasses
from typing import Any, NamedTuple

import torch

from flows.config.recipes import RECIPES
from flows.config.words import recipe_values
from mhim_core.bags import BagSource
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.registry import MINING_AGGREGATORS
from mhim_core.train.plan import Stage
from mhim_core.types import BagId

PLAIN = "plain"
SIMLP, MAX = "simlp", "max"
CONTROLS = (SIMLP, MAX)
"""The mean of a bag's instances, then a layer with dropout and a linear one; the maximum of embedded instances."""
_FIRST = ("abmil", "dsmil", "transmil")
AGGREGATORS = tuple(dict.fromkeys((*(name for name in _FIRST if name in MINING_AGGREGATORS), *MINING_AGGREGATORS)))
"""In the order in which their cells are computed."""


class Method(NamedTuple):
    """A control, or an aggregator alone (recipe plain) or under a recipe of MHIM."""

    aggregator: str
    recipe: str = PLAIN

    @property
    def name(self) -> str:
        return self.aggregator if self.is_control else f"{self.aggregator}/{self.recipe}"

    @property
    def is_control(self) -> bool:
        return self.aggregator in CONTROLS

    @property
    def stage(self) -> Stage:
        return Stage.plain if self.recipe == PLAIN else Stage.mhim

    def model(self, base: ModelOptions) -> ModelOptions:
        """The architecture: the recipe's options over the set's."""
        own = _of(ModelOptions, self._values())
        aggregator = "mean" if self.aggregator == SIMLP else self.aggregator
        return dataclasses.replace(base, aggregator=aggregator, **own)

    def mhim(self) -> MhimOptions:
        """The recipe's; those of no recipe without effect."""
        return MhimOptions(**_of(MhimOptions, self._values()))

    def prepare(self, source: BagSource) -> BagSource:
        """What the method is given of the bags."""
        return MeanBags(source) if self.aggregator == SIMLP else source

    def _values(self) -> dict[str, object]:
        values = {} if self.recipe == PLAIN else recipe_values(self.recipe, self.aggregator)
        if strange := values.keys() - _names(ModelOptions) - _names(MhimOptions):
            raise ConfigError(f"recipe={self.recipe} sets {', '.join(sorted(strange))}, which the board does not know")
        return values


def _of(kind: type, values: dict[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in _names(kind)}


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


class MeanBags:
    """Every bag as one instance, the mean of its own: under the aggregator `mean` that is SiMLP, a mean and an MLP."""

    def __init__(self, bags: BagSource) -> None:
        self._bags = bags
        self._means: dict[BagId, torch.Tensor] = {}
        self.dim = bags.dim

    def lengths(self) -> dict[BagId, int]:
        return dict.fromkeys(self._bags.lengths(), 1)

    def read(self, bag_id: BagId) -> torch.Tensor:
        if bag_id not in self._means:
            self._means[bag_id] = self._bags.read(bag_id).mean(dim=0, keepdim=True)
        return self._means[bag_id].clone()


def board_methods() -> dict[str, Method]:
    """All methods by name, in the order of worth."""
    methods = [Method(name) for name in CONTROLS]
    methods += [Method(aggregator, recipe) for aggregator in AGGREGATORS for recipe in (PLAIN, *RECIPES)]
    return {method.name: method for method in methods}
