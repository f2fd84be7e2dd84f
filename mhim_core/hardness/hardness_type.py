"""The four types of points, and weights by type. Standard library only: `mhim --help` reads this.

Types: Napierała and Stefanowski (J. Intell. Inf. Syst. 46, 2016), with the shares of HardVis (Chatzimparmpas et al.,
Comput. Graph. Forum 2023). k counts the point itself; of its k − 1 nearest others s have its label:
safe s ≥ .8k, borderline s ≥ .5k, rare s ≥ .2k, else outlier.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from mhim_core.errors import ConfigError

MIN_NEIGHBOURS, DEFAULT_NEIGHBOURS = 5, 7
"""Of k. Below 5 a safe point does not exist: its k − 1 others are fewer than .8k."""


class HardnessType(StrEnum):
    """How a point lies among its nearest neighbours, from easy to hard."""

    safe = "safe"
    borderline = "borderline"
    rare = "rare"
    outlier = "outlier"


_LEAST_SHARE = {HardnessType.safe: 0.8, HardnessType.borderline: 0.5, HardnessType.rare: 0.2}


def type_of(num_same: float, k: int) -> HardnessType:
    """The type of a point with `num_same` of its k − 1 nearest others under its own label; a mean over several spaces
    may be a fraction."""
    for kind, share in _LEAST_SHARE.items():
        if num_same >= share * k - _ROUNDING:
            return kind
    return HardnessType.outlier


_ROUNDING = 1e-9
"""Of a mean over spaces, and of .8k."""


@dataclass(frozen=True, kw_only=True)
class TypeWeights:
    """How often a bag of each type is drawn in training, relative to a bag of weight 1."""

    safe: float = 1.0
    borderline: float = 1.0
    rare: float = 1.0
    outlier: float = 1.0

    def __post_init__(self) -> None:
        for kind in HardnessType:
            if not 0 <= self.of(kind) < math.inf:
                raise ConfigError(f"the weight of {kind} is {self.of(kind)}; a weight is a number and not negative")
        if not any(self.of(kind) for kind in HardnessType):
            raise ConfigError("no type has a weight above 0: nothing would be drawn")

    @classmethod
    def parse(cls, text: str) -> "TypeWeights":
        """Of `outlier:0,rare:2`; types that are not named weigh 1. Raises ConfigError."""
        weights: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, number = (part.strip() for part in item.partition(":"))
            if name not in HardnessType.__members__:
                raise ConfigError(f"{item}: write type:weight, with one of the types {', '.join(HardnessType)}")
            if name in weights:
                raise ConfigError(f"{name} has two weights; give one")
            try:
                weights[name] = float(number)
            except ValueError:
                raise ConfigError(f"{item}: the weight of {name} must be a number, such as {name}:2") from None
        return cls(**weights)

    def of(self, kind: HardnessType) -> float:
        weight: float = getattr(self, kind.value)
        return weight

    @property
    def is_even(self) -> bool:
        """Whether every type weighs the same, so that nothing changes."""
        return len({self.of(kind) for kind in HardnessType}) == 1

    def __str__(self) -> str:
        return ",".join(f"{kind}:{self.of(kind):g}" for kind in HardnessType if self.of(kind) != 1) or "even"
