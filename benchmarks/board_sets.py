"""The sets of bags of the board: what each is, how it is fitted, and the bags of one fit.

Every set is two classes. A **drawn** set is drawn anew by each seed and tested on 300 bags of known truth; a
**folded** set is a fixed one, cut into stratified folds of patients anew by each seed.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import atlas_bags
import classic_bags
import numpy as np
import pair_fits
from atlas_bags import AtlasSet
from classic_bags import ClassicSet
from cross_validation import TASK, BagSet
from planted_sets import Planted, Synthetic
from planted_slides import PlantedSlides

from mhim_core.bags import BagSource
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.errors import NotFoundError
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.mil.model_options import ModelOptions
from mhim_core.task import ClassTarget
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

EMBED_DIM = 64
CLASSIC_FOLDS = 5
FIRST_SEED = 10
"""Options were chosen on draws and folds of the seeds before."""
KINDS = ("all", "quiet", "loud")
"""What AUROC is of; `quiet` and `loud` of drawn sets alone."""


class Place(NamedTuple):
    """Which fit of a set."""

    seed: int
    fold: int


class FitBags(NamedTuple):
    """What one fit learns from and is tested on."""

    source: BagSource
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    test: Mapping[str, tuple[LabelledBag, ...]]
    """By part: those of `planted_sets.PARTS`, or `test` alone."""
    evidence: Mapping[BagId, np.ndarray]
    """What each instance is (`planted_sets`); empty: unknown."""


@dataclass(frozen=True, kw_only=True)
class BoardSet:
    """One set, without its bags. Picklable."""

    name: str
    title: str
    group: str
    files: tuple[Path, ...] = ()
    """What it is made of; folders with all that is in them."""
    model: ModelOptions = ModelOptions(embed_dim=EMBED_DIM)  # noqa: RUF009 - frozen
    """A recipe's options are laid over these."""
    fit: FitOptions = pair_fits.FIT
    min_seeds: int
    """Before a row may enter."""
    num_seeds: int
    """That the board wants."""
    folds: int = 1
    looked_at: bool = False
    """Whether the recipe `mhim` was chosen on it, or on other draws of it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """That AUROC is given of."""
        raise NotImplementedError

    @property
    def test_over_train(self) -> float:
        """See `intervals.paired_interval`."""
        return 1 / (self.folds - 1) if self.folds > 1 else 0.0

    def open(self, place: Place) -> FitBags:
        """The bags of one fit."""
        raise NotImplementedError

    def settings(self) -> dict[str, object]:
        """What beside the method determines a result."""
        return {"name": self.name, "model": self.model, "fit": self.fit, "folds": self.folds}

    def data_digest(self) -> str:
        """Of the files. Raises NotFoundError if one is absent."""
        return fingerprint([_digest(path) for path in self.files])[:16]


@dataclass(frozen=True, kw_only=True)
class DrawnSet(BoardSet):
    """Three seeds before a row enters, since there is an interval over seeds alone."""

    bags: Planted | Synthetic | PlantedSlides
    min_seeds: int = 3
    num_seeds: int = 5

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS

    def open(self, place: Place) -> FitBags:
        drawn = self.bags.draw(place.seed)
        return FitBags(drawn.source, drawn.train, drawn.validation, drawn.test, drawn.evidence)

    def settings(self) -> dict[str, object]:
        bags = self.bags._asdict()
        return super().settings() | {"bags": {key: bags[key] for key in sorted(bags.keys() - {"path", "folder"})}}


@dataclass(frozen=True, kw_only=True)
class FoldedSet(BoardSet):
    """One seed is five folds, and so enters with an interval."""

    bags: BagSet
    split: SplitOptions
    min_seeds: int = 1
    num_seeds: int = 3

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS[:1]

    def open(self, place: Place) -> FitBags:
        rows = self.bags.rows()
        target = {row.slide_id: ClassTarget(TASK.classes.index(row.label)) for row in rows if row.label is not None}
        splits = {split.fold: split for split in make_splits(rows, TASK, self.split, place.seed)}
        split = splits[place.fold]
        train, validation, test = (
            tuple(LabelledBag(BagId(slide_id), target[slide_id]) for slide_id in part)
            for part in (split.train, split.validation, split.test)
        )
        return FitBags(self.bags.open([bag.bag_id for bag in train]), train, validation, {"test": test}, {})

    def settings(self) -> dict[str, object]:
        return super().settings() | {"split": self.split}


def board_sets(data: Path) -> dict[str, BoardSet]:
    """All sets by name, in the order of worth. `data`: the folder of real data (see the docstring of `board`)."""
    sets = [*_drawn_sets(data), *_atlas_sets(data), *_classic_sets(data)]
    return {own.name: own for own in sets}


def _drawn_sets(data: Path) -> list[BoardSet]:
    texture = data / "tiles/kather_texture.npz"

    def planted(name: str, title: str, tiles: Planted) -> DrawnSet:
        return DrawnSet(
            name=name,
            title=title,
            group="real instances, planted truth",
            files=(texture,),
            bags=tiles,
            looked_at=name in ("planted", "planted-2"),
        )

    others = ("stroma", "mucosa", "debris", "complex")
    return [
        DrawnSet(
            name="hard", title="Synthetic hard instances", group="hard instances", bags=Synthetic(), looked_at=True
        ),
        planted("planted", "Adipose loud, tumour quiet", Planted(texture)),
        planted("planted-2", "Tumour loud, complex stroma quiet", Planted(texture, "tumour", "complex")),
        planted("planted-3", "Empty loud, complex stroma quiet", Planted(texture, "empty", "complex")),
        planted("planted-4", "Adipose loud, lymphocytes quiet", Planted(texture, "adipose", "lymphocytes", others)),
        DrawnSet(
            name="planted-slides",
            title="Atlas tiles from slide to slide, EfficientNet-lite0",
            group="real instances, planted truth",
            files=(data / "bags/atlas/cohort.csv", data / "bags/atlas/store/manifests"),
            bags=PlantedSlides(data / "bags/atlas"),
        ),
    ]


def _atlas_sets(data: Path) -> list[BoardSet]:
    folder = data / "bags/atlas"
    return [
        FoldedSet(
            name=name,
            title=title,
            group="atlas cohort",
            files=(folder / "cohort.csv", folder / "store/manifests"),
            bags=AtlasSet(folder / "cohort.csv", folder, folder / "store", column),
            split=atlas_bags.SPLIT,
            folds=atlas_bags.SPLIT.folds,
            fit=atlas_bags.FIT,
            looked_at=name == "atlas",
        )
        for name, title, column in (
            ("atlas", "Neoplastic or not", "label"),
            ("atlas-malignant", "Malignant or not", "malignant"),
        )
    ]


def _classic_sets(data: Path) -> list[BoardSet]:
    split = dataclasses.replace(classic_bags.SPLIT, folds=CLASSIC_FOLDS)
    return [
        FoldedSet(
            name=name.lower(),
            title=name,
            group="classic sets",
            files=(data / f"bags/classic/{name}.npz",),
            bags=ClassicSet(data / f"bags/classic/{name}.npz"),
            split=split,
            folds=CLASSIC_FOLDS,
            model=classic_bags.MODEL,
            fit=dataclasses.replace(classic_bags.FIT, epochs=20),
            looked_at=name in ("UCSB", "Musk1", "Elephant"),
        )
        for name in ("UCSB", "Musk1", "Musk2", "Elephant", "Fox", "Tiger")
    ]


def _digest(path: Path) -> str:
    if path.is_dir():
        return fingerprint([_digest(part) for part in sorted(path.iterdir())])
    if not path.is_file():
        raise NotFoundError(f"{path} is absent; --data is the folder that holds it")
    return sha256(path.read_bytes())
