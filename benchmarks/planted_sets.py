"""Sets of bags in which quiet evidence stands beside loud evidence, of known truth: real tiles or synthetic instances.

**Planted**: the 5,000 tiles of Kather 2016 as 80 texture features, standardised over all tiles and clipped to ±6. By a
coin each tile is in the training or in the test pool. A bag holds 150 to 249 background tiles in equal shares of four
classes; a positive one 2 to 4 tiles of the loud class, 8 to 14 of the quiet class, or both. One seed redraws the bags.
**Synthetic**: the bags of `hard_bags`, whose salient instances are the loud ones. `planted_slides.py` plants the tiles
of slides in other slides.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from hard_bags import BOTH, NEGATIVE, SALIENT, SUBTLE, Regime
from hard_bags import draw_set as draw_synthetic

from mhim_core.bags import BagSource
from mhim_core.task import ClassTarget
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

PARTS = ("negative", "both", "quiet", "loud")
"""Of the test bags."""
_NUM_TEST = {"negative": 120, "both": 60, "quiet": 60, "loud": 60}
_BACKGROUND = ("stroma", "mucosa", "lymphocytes", "debris")
CLIP = 6.0
"""Of standardised features."""
BACKGROUND, LOUD, QUIET = range(3)
"""What an instance is."""


class DrawnSet(NamedTuple):
    """All bags of one seed."""

    source: BagSource
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    test: dict[str, tuple[LabelledBag, ...]]
    """By `PARTS`."""
    evidence: Mapping[BagId, np.ndarray]
    """What each instance is: BACKGROUND, LOUD or QUIET (N,)."""


class Synthetic(NamedTuple):
    """The hard instances of `hard_bags`."""

    name: str = "synthetic"

    def draw(self, seed: int) -> DrawnSet:
        drawn = draw_synthetic(seed, Regime())
        test = dict(zip(PARTS, (drawn.test[kind] for kind in (NEGATIVE, BOTH, SUBTLE, SALIENT)), strict=True))
        evidence = {
            bag_id: _evidence(len(x), drawn.source.salient[bag_id], drawn.source.subtle[bag_id])
            for bag_id, x in drawn.source.bags.items()
        }
        return DrawnSet(drawn.source, drawn.train, drawn.validation, test, evidence)


def _evidence(num: int, loud: torch.Tensor, quiet: torch.Tensor) -> np.ndarray:
    kinds = np.full(num, BACKGROUND)
    kinds[loud.numpy()], kinds[quiet.numpy()] = LOUD, QUIET
    return kinds


class Planted(NamedTuple):
    """Tiles of two classes planted among four others."""

    path: Path
    """kather_texture.npz: X (tiles, features), label (tiles,), names of the classes."""
    loud: str = "adipose"
    quiet: str = "tumour"
    background: tuple[str, ...] = _BACKGROUND

    @property
    def name(self) -> str:
        among = "" if self.background == _BACKGROUND else f"-in-{'-'.join(self.background)}"
        return f"planted-{self.loud}-{self.quiet}{among}"

    def draw(self, seed: int) -> DrawnSet:
        return draw_planted(_Tiles(self, _read_texture(self.path)), seed)


class Pools(Protocol):
    """Tiles that bags are drawn from."""

    @property
    def features(self) -> np.ndarray:
        """Of all tiles: (T, F) float32."""
        ...

    @property
    def evidence(self) -> np.ndarray:
        """What each tile is: BACKGROUND, LOUD or QUIET (T,)."""
        ...

    def background(self, random: np.random.Generator, num: int, in_training: bool) -> np.ndarray:
        """Rows of the about `num` background tiles of one bag."""
        ...

    def planted(self, evidence: int, in_training: bool) -> np.ndarray:
        """Rows of all tiles of that kind in one of the pools."""
        ...


def draw_planted(pools: Pools, seed: int) -> DrawnSet:
    """100 + 100 bags to train on, 20 + 20 to validate, 300 to test."""
    bags = _PlantedBags(pools, seed)
    train = bags.draw("negative", 100, in_training=True) + bags.draw("both", 100, in_training=True)
    validation = bags.draw("negative", 20, in_training=True) + bags.draw("both", 20, in_training=True)
    test = {part: bags.draw(part, num, in_training=False) for part, num in _NUM_TEST.items()}
    return DrawnSet(bags, train, validation, test, bags.evidence)


class _PlantedBags:
    """Draws bags; a `BagSource` of those drawn so far."""

    def __init__(self, pools: Pools, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._pools = pools
        self.dim = pools.features.shape[1]
        self.bags: dict[BagId, torch.Tensor] = {}
        self.evidence: dict[BagId, np.ndarray] = {}

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.bags[bag_id].clone()

    def draw(self, part: str, num: int, *, in_training: bool) -> tuple[LabelledBag, ...]:
        return tuple(self._draw_one(part, in_training) for _ in range(num))

    def _draw_one(self, part: str, in_training: bool) -> LabelledBag:
        num = int(self._random.integers(150, 250))
        chosen = [self._pools.background(self._random, num, in_training)]
        if part in ("both", "loud"):
            chosen.append(self._plant(LOUD, int(self._random.integers(2, 5)), in_training))
        if part in ("both", "quiet"):
            chosen.append(self._plant(QUIET, int(self._random.integers(8, 15)), in_training))
        rows = self._random.permutation(np.concatenate(chosen))
        bag_id = BagId(f"{part}-{len(self.bags):04d}")
        self.bags[bag_id] = torch.from_numpy(self._pools.features[rows])
        self.evidence[bag_id] = self._pools.evidence[rows]
        return LabelledBag(bag_id, ClassTarget(int(part != "negative")))

    def _plant(self, evidence: int, num: int, in_training: bool) -> np.ndarray:
        return self._random.choice(self._pools.planted(evidence, in_training), num)


class _Texture(NamedTuple):
    """Standardised features, and where each tile belongs."""

    x_TF: np.ndarray
    """float32."""
    label: np.ndarray
    names: list[str]
    in_training: np.ndarray


class _Tiles(NamedTuple):
    """The pools of a planting."""

    classes: Planted
    texture: _Texture

    @property
    def features(self) -> np.ndarray:
        return self.texture.x_TF

    @property
    def evidence(self) -> np.ndarray:
        kinds = np.full(len(self.features), BACKGROUND)
        for evidence, name in ((LOUD, self.classes.loud), (QUIET, self.classes.quiet)):
            kinds[self.texture.label == self.texture.names.index(name)] = evidence
        return kinds

    def background(self, random: np.random.Generator, num: int, in_training: bool) -> np.ndarray:
        """In equal shares of the classes."""
        share = num // len(self.classes.background)
        return np.concatenate([random.choice(self._of(name, in_training), share) for name in self.classes.background])

    def planted(self, evidence: int, in_training: bool) -> np.ndarray:
        return self._of(self.classes.loud if evidence == LOUD else self.classes.quiet, in_training)

    def _of(self, name: str, in_training: bool) -> np.ndarray:
        label = self.texture.names.index(name)
        return np.flatnonzero((self.texture.label == label) & (self.texture.in_training == in_training))


@cache
def _read_texture(path: Path) -> _Texture:
    with np.load(path) as raw:
        x, label, names = raw["X"].astype(np.float64), raw["label"], raw["names"].tolist()
    x = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -CLIP, CLIP)
    in_training = np.random.default_rng(7).random(len(x)) < 0.5
    return _Texture(x.astype(np.float32), label, names, in_training)
