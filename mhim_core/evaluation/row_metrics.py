"""The metrics of held-out rows, for every task.

With several seeds every bag has several rows: a metric is the mean of each seed's metric, in every bootstrap replicate
too, with the same draw of patients. So it estimates how good a single model is, not an ensemble.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import (
    FollowUp,
    Rows,
    by_fold,
    by_seed,
    class_probabilities,
    class_targets,
    follow_up,
    logits_of,
    repeated_bags,
    risks,
    value_targets,
)
from mhim_core.metrics import (
    CLASSIFICATION_METRICS,
    REGRESSION_METRICS,
    SURVIVAL_METRICS,
    BoundMetric,
    Estimate,
    MetricDefinition,
    bind_classification,
    bind_regression,
    bind_survival,
    censoring_weights,
    estimate,
    last_followed,
    mean_of,
    ranking_scores,
    undefined,
)
from mhim_core.task import Target, Task, TaskKind

ONE_PATIENT = "the fold holds out one patient: only pooled metrics are given"

Bind = Callable[[Rows], dict[str, BoundMetric]]
"""Rows of one model and seed → its metrics on them."""

TrainTargets = Mapping[int, Sequence[Target]]
"""The targets of the training bags by fold; the same for all seeds."""


class Bootstrap(NamedTuple):
    """How intervals are made."""

    replicates: int = 2000
    """0: no intervals."""
    seed: int = 2021


class Censoring(NamedTuple):
    """The follow-up of the training patients, for Uno's C."""

    by_fold: Mapping[int, FollowUp]
    tau: float
    """Only events before it count: the earliest, over the folds, of the last times a training patient was seen."""


def metrics_of(kind: TaskKind) -> Mapping[str, MetricDefinition]:
    """The metrics that held-out rows of this task get, in order."""
    return {
        TaskKind.classification: CLASSIFICATION_METRICS,
        TaskKind.survival: SURVIVAL_METRICS,
        TaskKind.regression: REGRESSION_METRICS,
    }[kind]


def censoring_of(train_targets: TrainTargets | None) -> Censoring | None:
    """None where no training targets are given; Uno's C then has no value."""
    if not train_targets:
        return None
    by_fold = {fold: follow_up(targets) for fold, targets in train_targets.items()}
    if empty := [fold for fold, known in by_fold.items() if not len(known.time)]:
        raise InputError(f"fold {empty[0]} has no training targets with a time and an event")
    return Censoring(by_fold, min(last_followed(known.time) for known in by_fold.values()))


def bind_rows(rows: Rows, task: Task, censoring: Censoring | None = None) -> dict[str, BoundMetric]:
    """All metrics of one model and seed on these N rows; classes by the highest probability, order by the log-odds."""
    if task.kind is TaskKind.classification:
        ranking = ranking_scores(logits_of(rows))
        return bind_classification(class_targets(rows), class_probabilities(rows), ranking=ranking)
    if task.kind is TaskKind.regression:
        return bind_regression(value_targets(rows), logits_of(rows)[:, 0])
    time, event = follow_up(row.target for row in rows)
    weights = None if censoring is None else _censoring_weights(rows, censoring)
    return bind_survival(time, event, risks(rows), weights)


def bind_fold(rows: Rows, all_rows: Rows, bind: Bind) -> dict[str, BoundMetric]:
    """The metrics of one fit, whose rows are among those of all fits; without values in leave-one-patient-out."""
    bound = bind(rows)
    if len({row.patient_id for row in rows}) == 1 < len({row.patient_id for row in all_rows}):
        return {name: undefined(ONE_PATIENT) for name in bound}
    return bound


def bind_seeds(seeds: Mapping[int, Rows], bind: Bind) -> dict[str, BoundMetric]:
    """Each metric's mean over seeds. `seeds`: rows of the same bags in the same order, as `by_seed` gives them."""
    each = [bind(rows) for rows in seeds.values()]
    return {name: mean_of([bound[name] for bound in each]) for name in each[0]}


def estimate_pooled(rows: Rows, bind: Bind, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Each metric of one model's held-out rows, the mean over seeds with its patient-clustered interval.

    Without values where several folds hold out a bag: pooled, each bag counts once, and which of its predictions that
    would be is arbitrary. Raises InputError as `by_seed`.
    """
    if reason := why_not_pooled(rows):
        first, *_ = by_fold(rows).values()
        names = bind(next(iter(first.values())))
        return {name: Estimate(None, None, None, reason=reason) for name in names}
    seeds = by_seed(rows)
    return estimate(bind_seeds(seeds, bind), patients_of(seeds), **bootstrap._asdict())


def why_not_pooled(rows: Rows) -> str:
    """Why the rows of all folds cannot be pooled: some bags are there several times; empty: they can."""
    repeated = repeated_bags(rows)
    num_bags = len({row.bag_id for row in rows})
    words = f"{len(repeated)} of {num_bags} bags are held out by several folds: only metrics over folds are given"
    return words if repeated else ""


def patients_of(seeds: Mapping[int, Rows]) -> list[str]:
    """(N,): the patient of each bag."""
    return [row.patient_id for row in next(iter(seeds.values()))]


def _censoring_weights(rows: Rows, censoring: Censoring) -> np.ndarray:
    """(N,): each row's weight by the training patients of its own fold."""
    weights = np.zeros(len(rows))
    folds = np.array([row.fold for row in rows])
    for fold in np.unique(folds):
        if fold not in censoring.by_fold:
            raise InputError(f"no training targets were given for fold {fold}")
        members = folds == fold
        time, event = follow_up(row.target for row in rows if row.fold == fold)
        weights[members] = censoring_weights(*censoring.by_fold[int(fold)], time, event, tau=censoring.tau)
    return weights
