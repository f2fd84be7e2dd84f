"""What is to be fitted: folds × stages, as plain data. Light: no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from mhim_core.errors import ConfigError, SplitError
from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.train.options import FitExecution, FitOptions
from mhim_core.types import BagId


class Stage(StrEnum):
    """plain: the aggregator alone (stage 1, also the baseline); mhim: its masked student (stage 2)."""

    plain = "plain"
    mhim = "mhim"


class LabelledBag(NamedTuple):
    """A bag and the index of its class."""

    bag_id: BagId
    label_index: int


class FoldBags(NamedTuple):
    """One fold's bags for fitting. The test bags are not here: fitting never sees them."""

    fold: int
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]


class FitSpec(NamedTuple):
    """One fit: a stage on a fold with a seed."""

    name: str
    """Its folder below `fits/`, such as fold-0/plain."""
    fold: int
    stage: Stage
    seed: int
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    teacher: str | None
    """The name of the stage-1 fit of the same fold and seed; None in stage 1."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Everything that identifies the results of one training command, and how to execute it."""

    fits: tuple[FitSpec, ...]
    d_in: int
    """Features per tile."""
    classes: tuple[str, ...]
    """Class names in the order of the label indices."""
    model: ModelOptions
    mhim: MhimOptions
    fit: FitOptions
    provenance: dict[str, str] = field(default_factory=dict)
    """What the features are (manifest, encoder fingerprint, …); kept in every model file and part of its identity."""
    execution: FitExecution = FitExecution()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if any(spec.stage is Stage.mhim for spec in self.fits):
            self.model.require_mining()


def plan_fits(folds: Sequence[FoldBags], stage: Stage, num_classes: int, seed: int) -> tuple[FitSpec, ...]:
    """The fits of a method in an order in which every teacher precedes its student: per fold plain, then mhim.

    Raises SplitError if a fold's training or validation bags are empty, overlap, or lack a class in training.
    """
    if num_classes < 2:
        raise ConfigError(f"{num_classes} class in the cohort; training needs at least 2")
    if len({fold.fold for fold in folds}) < len(folds):
        raise ConfigError(f"fold numbers repeat: {[fold.fold for fold in folds]}")
    fits = []
    for fold in folds:
        _check_fold(fold, num_classes)
        plain = f"fold-{fold.fold}/{Stage.plain}"
        # sorted, so that the order of a table's rows changes no result
        bags = tuple(sorted(fold.train)), tuple(sorted(fold.validation))
        fits.append(FitSpec(plain, fold.fold, Stage.plain, seed, *bags, None))
        if stage is Stage.mhim:
            fits.append(FitSpec(f"fold-{fold.fold}/{Stage.mhim}", fold.fold, Stage.mhim, seed, *bags, plain))
    return tuple(fits)


def _check_fold(fold: FoldBags, num_classes: int) -> None:
    where = f"fold {fold.fold}"
    ids = Counter(bag.bag_id for bag in (*fold.train, *fold.validation))
    repeated = sorted(bag_id for bag_id, count in ids.items() if count > 1)
    if repeated:
        raise SplitError(f"{where}: bags used twice in training and validation: {', '.join(repeated[:10])}")
    if not fold.train or not fold.validation:
        raise SplitError(
            f"{where}: {len(fold.train)} training and {len(fold.validation)} validation bags; both are required, "
            "since the model is selected on validation and never on test"
        )
    labels = {bag.label_index for bag in (*fold.train, *fold.validation)}
    if not labels <= set(range(num_classes)):
        raise SplitError(f"{where}: label indices {sorted(labels)} are not all among 0 to {num_classes - 1}")
    missing = sorted(set(range(num_classes)) - {bag.label_index for bag in fold.train})
    if missing:
        raise SplitError(f"{where}: no training bag of the classes with index {missing}")
