"""All fits of a sweep in one group of workers: shared stage 1, lists of fits a fold, halving, failures as outcomes.

As in `loop`, every function is collective: all ranks call it alike. What is decided here follows from results that all
ranks have, so that all decide alike.
"""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mhim_core.bags import BagSource
from mhim_core.errors import DivergedError, InputError
from mhim_core.storage import Storage
from mhim_core.train.context import TrainContext, from_rank_zero
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.events import FitEvent
from mhim_core.train.fit_options import Selection
from mhim_core.train.halving import Rung, rank
from mhim_core.train.loop import advance_fit
from mhim_core.train.plan import FitSpec, Stage
from mhim_core.train.results import FitResult, import_stage_one, read_result
from mhim_core.train.sweep_events import OnSweepEvent, TrialCost, TrialEnd, TrialEvent
from mhim_core.train.sweep_plan import (
    FitScore,
    FoldSeed,
    SweepPlan,
    TrialOutcome,
    TrialStatus,
    find_fit,
    reported_stage,
)
from mhim_core.train.validation import is_better


class TrialFit(NamedTuple):
    """A fit of one configuration."""

    trial: str
    spec: FitSpec

    @property
    def key(self) -> tuple[str, str]:
        """Of the configuration and of the fit in its run."""
        return self.trial, self.spec.name


History = tuple[EpochRecord, ...]


class Failure(NamedTuple):
    """Why a fit came to nothing."""

    reason: str


def run_sweep(
    sweep: SweepPlan,
    bags: BagSource,
    storages: Mapping[str, Storage],
    context: TrainContext,
    on_event: OnSweepEvent = lambda event: None,
) -> list[TrialOutcome]:
    """Every configuration's outcome, in the order of the grid. `storages`: of each configuration's run.

    What is finished is adopted, what was interrupted or paused goes on from its checkpoint: run again, a sweep ends as
    if it had not been interrupted. Raises what `advance_fit` raises, but for what concerns one configuration: a loss
    that is no longer finite, options that cannot be trained, and on a single worker an error of torch such as a lack
    of memory on the GPU.
    """
    work = _SweepWork(sweep, bags, storages, context, on_event)
    for rung in sweep.rungs:
        for place in sweep.places:
            work.train_stage_one(place)
            work.train(place, rung)
        work.cut(rung)
    return work.outcomes()


class _SweepWork:
    """A sweep under way."""

    def __init__(
        self,
        sweep: SweepPlan,
        bags: BagSource,
        storages: Mapping[str, Storage],
        context: TrainContext,
        on_event: OnSweepEvent,
    ) -> None:
        self.sweep, self.bags, self.storages, self.context, self.on_event = sweep, bags, storages, context, on_event
        self.scores: dict[str, dict[FoldSeed, FitScore]] = {name: {} for name in sweep.plans}
        self.out: dict[str, TrialOutcome] = {}
        """Of the configurations that no longer go on."""
        self.ended: dict[tuple[str, str], History] = {}
        """The fits that have come to their end, by `TrialFit.key`."""

    def going(self) -> list[str]:
        """The configurations that are neither cut nor failed."""
        return [name for name in self.sweep.plans if name not in self.out]

    def train_stage_one(self, place: FoldSeed) -> None:
        """The stage-1 fits of one fold and seed: each is trained once for all that share it, then copied, verified.

        It is trained also where the configuration that owns it is out, as long as another needs it.
        """
        owners = self.sweep.stage_one_owners
        needing = [name for name in self.going() if name in owners]
        owning = dict.fromkeys(owners[name] for name in needing)
        results = self.run_list([self.fit_of(name, place, Stage.plain) for name in owning], None)
        for name in needing:
            result = results[owners[name]]
            if isinstance(result, Failure):
                self.fail(name, result.reason)
            elif name != owners[name]:
                self.take_stage_one(self.fit_of(name, place, Stage.plain), owners[name], result)

    def take_stage_one(self, fit: TrialFit, owner: str, history: History) -> None:
        """Copy the owner's fit of that name into this configuration's run, unless it is there."""
        if fit.key in self.ended:
            return
        source, target, name = self.storages[owner], self.storages[fit.trial], fit.spec.name

        def take() -> bytes:
            if read_result(target, name) is None:
                import_stage_one(source, target, name)
            return b""

        from_rank_zero(self.context, take)
        self.ended[fit.key] = history

    def train(self, place: FoldSeed, rung: Rung) -> None:
        """The fits of one fold and seed that are compared, up to the rung."""
        plans = self.sweep.plans
        fits = [self.fit_of(name, place, reported_stage(plans[name])) for name in self.going()]
        for name, result in self.run_list(fits, rung.epochs).items():
            if isinstance(result, Failure):
                self.fail(name, result.reason)
                continue
            seen = result[: rung.epochs]
            self.scores[name][place] = FitScore.of(place, seen, kept_epoch(seen, plans[name].fit.selection))

    def run_list(self, fits: Sequence[TrialFit], until: int | None) -> dict[str, History | Failure]:
        """The fits of several configurations on one fold and seed, up to `until` epochs: by configuration.

        They read the same bags, one fit after another. What trains several models on one read of a bag has its place
        here.
        """
        results: dict[str, History | Failure] = {}
        for fit in fits:
            if fit.key in self.ended:
                results[fit.trial] = self.ended[fit.key]
                continue
            started_s = time.monotonic()
            try:
                results[fit.trial] = self.run_one(fit, until)
            except self.own_failures as error:
                results[fit.trial] = Failure(str(error))
            self.tell(TrialCost(fit.trial, fit.spec.name, time.monotonic() - started_s))
        return results

    def run_one(self, fit: TrialFit, until: int | None) -> History:
        def tell(event: FitEvent) -> None:
            self.on_event(TrialEvent(fit.trial, event))

        plan, storage = self.sweep.plans[fit.trial], self.storages[fit.trial]
        result = advance_fit(plan, fit.spec, self.bags, storage, self.context, tell, until)
        if isinstance(result, FitResult):
            self.ended[fit.key] = result.history
        return result.history

    def fit_of(self, name: str, place: FoldSeed, stage: Stage) -> TrialFit:
        return TrialFit(name, find_fit(self.sweep.plans[name], place, stage))

    @property
    def own_failures(self) -> tuple[type[Exception], ...]:
        """The errors that concern one configuration, and that all ranks raise alike: of several, one that raised alone
        would leave the others waiting."""
        return (DivergedError, InputError, *([RuntimeError] if self.context.world_size == 1 else []))

    def fail(self, name: str, reason: str) -> None:
        self.end(TrialOutcome(name=name, status=TrialStatus.failed, reason=reason, fits=self.fits_of(name)))

    def cut(self, rung: Rung) -> None:
        """Of those that still go on, all but the best `rung.keep`."""
        names = self.going()
        standings = [
            TrialOutcome(name=name, status=TrialStatus.cut, fits=self.fits_of(name)).standing for name in names
        ]
        for index in rank(standings)[rung.keep :]:
            name = names[index]
            self.end(TrialOutcome(name=name, status=TrialStatus.cut, rung=rung.epochs, fits=self.fits_of(name)))

    def end(self, outcome: TrialOutcome) -> None:
        self.out[outcome.name] = outcome
        self.tell(TrialEnd(outcome))

    def fits_of(self, name: str) -> tuple[FitScore, ...]:
        return tuple(self.scores[name].values())

    def outcomes(self) -> list[TrialOutcome]:
        finished = {
            name: TrialOutcome(name=name, status=TrialStatus.finished, fits=self.fits_of(name)) for name in self.going()
        }
        return [(self.out | finished)[name] for name in self.sweep.plans]

    def tell(self, event: TrialCost | TrialEnd) -> None:
        if self.context.rank == 0:
            self.on_event(event)


def kept_epoch(history: Sequence[EpochRecord], selection: Selection) -> EpochRecord:
    """The epoch whose weights a fit with this history keeps."""
    if selection is Selection.last:
        return history[-1]
    best = None
    for record in history:
        if is_better(record, best):
            best = record
    assert best is not None
    return best
