"""What is to be fitted: seeds × folds × stages, as plain data. Light: no torch."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from mhim_core.errors import ConfigError, SplitError
from mhim_core.fingerprint import neutral_fields
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget, fit_task
from mhim_core.train.fit_options import FitExecution, FitOptions
from mhim_core.types import BagId


class Stage(StrEnum):
    """plain: the aggregator alone (stage 1, also the baseline); mhim: its masked student (stage 2)."""

    plain = "plain"
    mhim = "mhim"


class LabelledBag(NamedTuple):
    """A bag and what is to be predicted of it."""

    bag_id: BagId
    target: Target


class FoldBags(NamedTuple):
    """One fold's bags for fitting. The test bags are not here: fitting never sees them."""

    fold: int
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    weights: Mapping[BagId, float] = MappingProxyType({})
    """How often each training bag is drawn, relative to the others; empty: every bag once an epoch."""


@neutral_fields(weights=())
class FitSpec(NamedTuple):
    """One fit: a stage on a fold with a seed."""

    name: str
    """Its folder below `fits/`, such as seed-2021/fold-0/plain."""
    fold: int
    stage: Stage
    seed: int
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    teacher: str | None
    """The name of the stage-1 fit of the same fold and seed; None in stage 1."""
    weights: tuple[float, ...] = ()
    """Of each of `train`, as `FoldBags.weights`; empty: every bag once an epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Everything that identifies the results of one training command, and how to execute it."""

    fits: tuple[FitSpec, ...]
    d_in: int
    """Features per tile."""
    task: Task
    """What is predicted; time bins and scales are each fit's own."""
    model: ModelOptions
    mhim: MhimOptions
    fit: FitOptions
    warm_start: dict[int, str] = field(default_factory=dict)
    """By seed the sha256 of the model file, already in the run's storage, whose weights every stage of that seed starts
    from; empty: from the seed's own draw."""
    provenance: dict[str, str] = field(default_factory=dict)
    """What the features are (manifest, encoder fingerprint, …); kept in every model file and part of its identity. A
    finished fit is adopted by its identity, which knows the features by this alone: state what distinguishes yours."""
    about: dict[str, str] = field(default_factory=dict)
    """What else a model's card records (versions, …); identifies nothing."""
    execution: FitExecution = FitExecution()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if any(spec.stage is Stage.mhim for spec in self.fits):
            self.model.require_mining()
        self.fit.check_task(self.task.kind)
        self.model.check_task(self.task)
        cold = sorted({spec.seed for spec in self.fits} - self.warm_start.keys())
        if self.warm_start and cold:
            raise ConfigError(f"no model to start from for the seeds {', '.join(map(str, cold))}")


def plan_fits(
    folds: Sequence[FoldBags], stage: Stage, task: Task, seeds: Sequence[int], *, with_stage_one: bool = True
) -> tuple[FitSpec, ...]:
    """The fits of a method in an order in which every teacher precedes its student: per seed and fold plain, then mhim.

    Every seed trains on the same folds. `with_stage_one=False`: the stage-1 results are there already, another run's.
    Raises SplitError if a fold's training or validation bags are empty, overlap, or lack a class (or, in survival, an
    event) in training, drawn ones alone where there are weights.
    """
    if len({fold.fold for fold in folds}) < len(folds):
        raise ConfigError(f"fold numbers repeat: {[fold.fold for fold in folds]}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be given and differ: {list(seeds)}")
    for fold in folds:
        _check_fold(fold, task)
    fits = []
    for seed in seeds:
        for fold in folds:
            plain = fit_name(seed, fold.fold, Stage.plain)
            # sorted, so that the order of a table's rows changes no result
            bags = tuple(sorted(fold.train)), tuple(sorted(fold.validation))
            weights = tuple(fold.weights[bag.bag_id] for bag in bags[0]) if fold.weights else ()
            if with_stage_one or stage is Stage.plain:
                fits.append(FitSpec(plain, fold.fold, Stage.plain, seed, *bags, None, weights))
            if stage is Stage.mhim:
                fits.append(FitSpec(fit_name(seed, fold.fold, stage), fold.fold, stage, seed, *bags, plain, weights))
    return tuple(fits)


def fit_name(seed: int, fold: int, stage: Stage | str) -> str:
    """The fit's folder below `fits/`."""
    return f"seed-{seed}/fold-{fold}/{stage}"


def _check_fold(fold: FoldBags, task: Task) -> None:
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
    expected = _TARGET_OF[task.kind]
    strange = [bag.bag_id for bag in (*fold.train, *fold.validation) if not isinstance(bag.target, expected)]
    if strange:
        raise SplitError(f"{where}: bags without a target of the task {task.kind}: {', '.join(strange[:10])}")
    if task.kind is TaskKind.classification:
        _check_classes(fold, len(task.classes), where)
    if fold.weights:
        _check_weights(fold, where)
    unusable = [bag.bag_id for bag in (*fold.train, *fold.validation) if not _is_finite(bag.target)]
    if unusable:
        raise SplitError(f"{where}: targets that are not finite numbers: {', '.join(unusable[:10])}")
    try:
        fit_task(task, [bag.target for bag in fold.train])  # of every fold, before the first is trained
    except ConfigError as error:
        raise SplitError(f"{where}: {error}") from None


_TARGET_OF = {
    TaskKind.classification: ClassTarget,
    TaskKind.survival: SurvivalTarget,
    TaskKind.regression: ValueTarget,
}


def _is_finite(target: Target) -> bool:
    if isinstance(target, ClassTarget):
        return True
    return math.isfinite(target.time if isinstance(target, SurvivalTarget) else target.value)


def _check_weights(fold: FoldBags, where: str) -> None:
    absent = sorted(bag.bag_id for bag in fold.train if bag.bag_id not in fold.weights)
    if absent:
        raise SplitError(f"{where}: training bags without a weight: {', '.join(absent[:10])}")
    if unusable := [bag_id for bag_id, weight in fold.weights.items() if not 0 <= weight < math.inf]:
        raise SplitError(f"{where}: weights that are no numbers from 0 on: {', '.join(unusable[:10])}")
    drawn = {bag.target for bag in fold.train if fold.weights[bag.bag_id] > 0}
    if not drawn:
        raise SplitError(f"{where}: no training bag has a weight above 0")
    never = {bag.target for bag in fold.train if isinstance(bag.target, ClassTarget)} - drawn
    if never:
        listed = sorted(target.class_index for target in never if isinstance(target, ClassTarget))
        raise SplitError(f"{where}: by their weights no training bag of the classes with index {listed} would be drawn")


def _check_classes(fold: FoldBags, num_classes: int, where: str) -> None:
    def classes(bags: Sequence[LabelledBag]) -> set[int]:
        return {bag.target.class_index for bag in bags if isinstance(bag.target, ClassTarget)}

    present = classes((*fold.train, *fold.validation))
    if not present <= set(range(num_classes)):
        raise SplitError(f"{where}: class indices {sorted(present)} are not all among 0 to {num_classes - 1}")
    missing = sorted(set(range(num_classes)) - classes(fold.train))
    if missing:
        raise SplitError(f"{where}: no training bag of the classes with index {missing}")
