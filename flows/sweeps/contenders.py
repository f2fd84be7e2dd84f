"""The runs of a sweep's configurations: each is what `mhim train` makes of its keys, and stands on its own."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from cluster.storage import open_storage
from flows.config.commands import TrainConfig
from flows.config.files import write_resolved
from flows.runs.folder import PinnedFeatures, Run
from flows.runs.training_data import TrainingData
from flows.runs.training_places import TrainingPlaces
from flows.runs.training_runs import check_plan, new_start, open_run, take_teachers, train_plan, try_plugin
from flows.runs.warm_start import Start, take_start
from flows.sweeps.configurations import Configuration
from mhim_core.cohort.table import Cohort
from mhim_core.errors import ConfigError
from mhim_core.train.plan import LabelledBag, TrainPlan
from mhim_core.train.sweep_plan import TrialOutcome, TrialStatus


class Contender(NamedTuple):
    """A configuration that can be trained."""

    name: str
    config: TrainConfig
    places: TrainingPlaces
    run: Run
    plan: TrainPlan
    start: Start | None

    def prepare(self) -> None:
        """Before the first fit: what the run takes from elsewhere, and the keys that repeat it."""
        write_resolved(self.run.storage, self.config, "train")
        if self.config.protocol.teacher:
            take_teachers(self.run, self.places)
        if self.config.warm_start:
            take_start(self.run, self.config, self.start)


class Sorted(NamedTuple):
    """The configurations of a sweep."""

    trainable: list[tuple[str, TrainConfig]]
    refused: list[TrialOutcome]


def sort_out(points: Sequence[Configuration], data: TrainingData) -> Sorted:
    """Which configurations can be trained on these data, and why the others cannot.

    Raises ConfigError where none can, with the first's reason.
    """
    trainable, refused = [], []
    for point in points:
        reason = point.reason
        if point.config is not None:
            try:
                try_plugin(point.config, data)
                check_plan(point.config, data)
            except ConfigError as error:
                reason = str(error)
            else:
                trainable.append((point.name, point.config))
                continue
        refused.append(refusal(point.name, reason))
    if not trainable:
        raise ConfigError(refused[0].reason)
    return Sorted(trainable, refused)


def refusal(name: str, reason: str) -> TrialOutcome:
    """Of a configuration that was never trained."""
    return TrialOutcome(name=name, status=TrialStatus.failed, reason=reason)


class Opened(NamedTuple):
    """The runs of a sweep."""

    contenders: list[Contender]
    refused: list[TrialOutcome]


def open_contenders(
    trainable: Sequence[tuple[str, TrainConfig]],
    places: TrainingPlaces,
    cohort: Cohort,
    features: PinnedFeatures,
    data: TrainingData,
) -> Opened:
    """Create the runs or resume them, all on the same features; refused are those that the model of `teacher=` or
    `warm_start=` does not fit.

    Raises ConfigError where that is all of them, ConflictError (5) where a folder holds a run of another configuration.
    """
    contenders, refused = [], []
    bags: dict[tuple[LabelledBag, ...], tuple[LabelledBag, ...]] = {}
    for name, config in trainable:
        own = dataclasses.replace(places, out=open_storage(config.out))
        try:
            start = new_start(config, own)
            run = open_run(config, own, cohort, features, data, start)
        except ConfigError as error:
            refused.append(refusal(name, str(error)))
            continue
        plan = train_plan(run, config)
        contenders.append(Contender(name, config, own, run, _sharing(plan, bags), start))
    if not contenders:
        raise ConfigError(refused[0].reason)
    return Opened(contenders, refused)


def _sharing(plan: TrainPlan, bags: dict[tuple[LabelledBag, ...], tuple[LabelledBag, ...]]) -> TrainPlan:
    """The plan with the tuples of `bags` that equal its own: the plans are sent to the workers, and each would hold
    every bag of every fold anew."""
    fits = tuple(
        spec._replace(
            train=bags.setdefault(spec.train, spec.train), validation=bags.setdefault(spec.validation, spec.validation)
        )
        for spec in plan.fits
    )
    return dataclasses.replace(plan, fits=fits)
