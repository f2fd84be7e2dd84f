"""Sets of bags in which quiet evidence stands beside loud evidence, of known truth: real tiles or synthetic instances.

**Planted**: the 5,000 tiles of Kather 2016 as 80 texture features, standardised over all tiles and clipped to ±6. By a
coin each tile is in the training or in the test pool. A bag holds 150 to 249 background tiles in equal shares of four
classes; a positive one 2 to 4 tiles of the loud class, 8 to 14 of the quiet class, or both. One seed redraws the bags.
**Synthetic**: the bags of `hard_bags`, whose salient instances are the loud ones.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

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
_CLIP = 6.0


class DrawnSet(NamedTuple):
    """All bags of one seed."""

    source: BagSource
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    test: dict[str, tuple[LabelledBag, ...]]
    """By `PARTS`."""


class Synthetic(NamedTuple):
    """The hard instances of `hard_bags`."""

    name: str = "synthetic"

    def draw(self, seed: int) -> DrawnSet:
        drawn = draw_synthetic(seed, Regime())
        test = dict(zip(PARTS, (drawn.test[kind] for kind in (NEGATIVE, BOTH, SUBTLE, SALIENT)), strict=True))
        return DrawnSet(drawn.source, drawn.train, drawn.validation, test)


class Planted(NamedTuple):
    """Tiles of two classes planted among four others."""

    path: Path
    """kather_texture.npz: X (tiles, features), label (tiles,), names of the classes."""
    loud: str = "adipose"
    quiet: str = "tumour"

    @property
    def name(self) -> str:
        return f"planted-{self.loud}-{self.quiet}"

    def draw(self, seed: int) -> DrawnSet:
        """100 + 100 bags to train on, 20 + 20 to validate, 300 to test."""
        bags = _PlantedBags(self, seed)
        train = bags.draw("negative", 100, in_training=True) + bags.draw("both", 100, in_training=True)
        validation = bags.draw("negative", 20, in_training=True) + bags.draw("both", 20, in_training=True)
        test = {part: bags.draw(part, num, in_training=False) for part, num in _NUM_TEST.items()}
        return DrawnSet(bags, train, validation, test)


class _PlantedBags:
    """Draws bags; a `BagSource` of those drawn so far."""

    def __init__(self, planted: Planted, seed: int) -> None:
        self._planted = planted
        self._random = np.random.default_rng(seed)
        self._tiles = _read_tiles(planted.path)
        self.dim = self._tiles.x.shape[1]
        self.bags: dict[BagId, torch.Tensor] = {}
        self.classes: dict[BagId, np.ndarray] = {}
        """(N,) names: of which class each tile of a bag is."""

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.bags[bag_id].clone()

    def draw(self, part: str, num: int, *, in_training: bool) -> tuple[LabelledBag, ...]:
        return tuple(self._draw_one(part, in_training) for _ in range(num))

    def _draw_one(self, part: str, in_training: bool) -> LabelledBag:
        num = int(self._random.integers(150, 250))
        chosen = [self._pick(name, num // 4, in_training) for name in _BACKGROUND]
        if part in ("both", "loud"):
            chosen.append(self._pick(self._planted.loud, int(self._random.integers(2, 5)), in_training))
        if part in ("both", "quiet"):
            chosen.append(self._pick(self._planted.quiet, int(self._random.integers(8, 15)), in_training))
        rows = self._random.permutation(np.concatenate(chosen))
        bag_id = BagId(f"{part}-{len(self.bags):04d}")
        self.bags[bag_id] = torch.from_numpy(self._tiles.x[rows])
        self.classes[bag_id] = np.array(self._tiles.names)[self._tiles.label[rows]]
        return LabelledBag(bag_id, ClassTarget(int(part != "negative")))

    def _pick(self, name: str, num: int, in_training: bool) -> np.ndarray:
        return self._random.choice(self._tiles.pool(name, in_training), num)


class _Tiles(NamedTuple):
    """Standardised features, and where each tile belongs."""

    x: np.ndarray
    """float32 (tiles, features)."""
    label: np.ndarray
    names: list[str]
    in_training: np.ndarray

    def pool(self, name: str, in_training: bool) -> np.ndarray:
        """Indices of the class's tiles in one of the pools."""
        return np.flatnonzero((self.label == self.names.index(name)) & (self.in_training == in_training))


@cache
def _read_tiles(path: Path) -> _Tiles:
    with np.load(path) as raw:
        x, label, names = raw["X"].astype(np.float64), raw["label"], raw["names"].tolist()
    x = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -_CLIP, _CLIP)
    in_training = np.random.default_rng(7).random(len(x)) < 0.5
    return _Tiles(x.astype(np.float32), label, names, in_training)
