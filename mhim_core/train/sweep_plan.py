"""What a sweep is to fit (each configuration's plan, and whose stage 1 it takes), and what became of it. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from mhim_core.train.epochs import EpochRecord
from mhim_core.train.halving import Rung, Standing, mean_standing
from mhim_core.train.plan import FitSpec, Stage, TrainPlan
from mhim_core.train.results import fit_identity


class FoldSeed(NamedTuple):
    """Which of the fits that every configuration has."""

    seed: int
    fold: int


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The configurations by name, in the order of the grid. All train on the same folds, with the same seeds."""

    plans: Mapping[str, TrainPlan]
    rungs: tuple[Rung, ...]
    """Where they are compared; the last is the end."""

    @cached_property
    def places(self) -> tuple[FoldSeed, ...]:
        """The folds and seeds, in the order in which a single training takes them."""
        return tuple(
            dict.fromkeys(FoldSeed(spec.seed, spec.fold) for plan in self.plans.values() for spec in plan.fits)
        )

    @cached_property
    def stage_one_owners(self) -> Mapping[str, str]:
        """By configuration the one whose stage-1 fits it takes: the first with a student and the same stage 1.

        Configurations that take stage 1 from another run are left out, and those of stage 1 alone that share it with no
        student: theirs is their own fit.
        """
        members: dict[str, list[str]] = {}
        for name, plan in self.plans.items():
            if plain := [spec for spec in plan.fits if spec.stage is Stage.plain]:
                members.setdefault(fit_identity(plan, plain[0], None), []).append(name)
        owners: dict[str, str] = {}
        for names in members.values():
            if taught := [name for name in names if reported_stage(self.plans[name]) is Stage.mhim]:
                owners |= dict.fromkeys(names, taught[0])
        return owners

    @property
    def num_fits(self) -> int:
        """How many are to be trained, were none cut."""
        taken = sum(owner != name for name, owner in self.stage_one_owners.items())
        return sum(len(plan.fits) for plan in self.plans.values()) - taken * len(self.places)


def reported_stage(plan: TrainPlan) -> Stage:
    """Whose fits are compared: the student's, where there is one."""
    return Stage.mhim if any(spec.stage is Stage.mhim for spec in plan.fits) else Stage.plain


def find_fit(plan: TrainPlan, place: FoldSeed, stage: Stage) -> FitSpec:
    """The plan's fit of that stage, fold and seed."""
    return next(spec for spec in plan.fits if (spec.seed, spec.fold, spec.stage) == (*place, stage))


class FitScore(NamedTuple):
    """One fit on its validation bags, by the epoch that it would keep."""

    seed: int
    fold: int
    epochs: int
    """Trained so far, or until the rung at which it is looked at."""
    best_epoch: int
    metric: float | None
    loss: float

    @classmethod
    def of(cls, place: FoldSeed, history: Sequence[EpochRecord], best: EpochRecord) -> "FitScore":
        return cls(*place, len(history), best.epoch, best.validation_metric, best.validation_loss)


class TrialStatus(StrEnum):
    """What became of a configuration."""

    finished = "finished"
    cut = "cut"
    failed = "failed"


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """One configuration of a sweep."""

    name: str
    status: TrialStatus
    reason: str = ""
    """Why it failed."""
    rung: int | None = None
    """The epochs after which it was cut."""
    fits: tuple[FitScore, ...] = ()
    """Of the reported stage; those that were made before it was cut or failed."""

    @property
    def standing(self) -> Standing:
        """Raises ValueError where no fit was made."""
        if not self.fits:
            raise ValueError(f"{self.name} has no fit")
        return mean_standing([fit.metric for fit in self.fits], [fit.loss for fit in self.fits])
