"""Paired differences between models that were judged on the same held-out bags.

Both are evaluated on the same draws of patients, so that what they have in common cancels out. For the AUROC of two
classes, one bag a patient and one seed, DeLong's test replaces the bootstrap. Where several folds hold out a bag, folds
are paired instead, and there is no interval: their test and training bags overlap.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import (
    HeldOut,
    Rows,
    bag_differences,
    by_fold,
    by_seed,
    class_targets,
    logits_of,
    repeated_bags,
)
from mhim_core.evaluation.row_metrics import (
    Bind,
    Bootstrap,
    Censoring,
    TrainTargets,
    bind_fold,
    bind_rows,
    bind_seeds,
    censoring_of,
    metrics_of,
    patients_of,
)
from mhim_core.metrics import (
    BoundMetric,
    Metric,
    UndefinedMetricError,
    delong,
    percentile_interval,
    ranking_scores,
    replicate_values,
)
from mhim_core.metrics.arrays import Floats
from mhim_core.task import Task, TaskKind

DELONG, BOOTSTRAP, FOLDS = "DeLong", "paired bootstrap", "paired folds"


class Difference(NamedTuple):
    """One metric of two models. Plain values: the row of a table."""

    metric: str
    a: str
    b: str
    value_a: float | None
    """The mean over the seeds of a; of paired folds the mean over those in which both have a value."""
    value_b: float | None
    difference: float | None
    """value_a − value_b."""
    low: float | None
    """Of the difference's 95 % interval."""
    high: float | None
    p: float | None
    """Two-sided, of no difference; where DeLong's test applies."""
    method: str
    """DeLong, paired bootstrap or paired folds."""
    num_undefined: int
    """Replicates in which the difference had no value; they were dropped."""
    reason: str
    """Why there is no difference."""


def compare(
    models: Mapping[str, Rows],
    task: Task,
    *,
    train_targets: Mapping[str, TrainTargets] | None = None,
    replicates: int = 2000,
    seed: int = 2021,
) -> tuple[Difference, ...]:
    """Every pair of models, in the order given, by every metric of the task.

    `models`: by the name to show, the held-out rows of one model each, of any seeds and folds. `train_targets`: by the
    same names, what `summarise` takes, for Uno's C. Raises InputError if there are fewer than two, or if bags, patients
    or targets differ, naming which; where several folds hold out a bag, also if the folds differ.
    """
    if len(models) < 2:
        raise InputError(f"a comparison needs two models; {len(models)} given")
    for name, rows in models.items():
        _check_one_model(name, rows)
    bootstrap = Bootstrap(replicates, seed)
    censoring = _common_censoring(models, train_targets) if task.kind is TaskKind.survival else {}
    binds = {name: partial(bind_rows, task=task, censoring=censoring.get(name)) for name in models}
    if any(repeated_bags(rows) for rows in models.values()):
        return tuple(_by_folds(models, task, binds))
    return tuple(_by_bags({name: by_seed(rows) for name, rows in models.items()}, task, binds, bootstrap))


def _by_bags(
    models: Mapping[str, Mapping[int, Rows]], task: Task, binds: Mapping[str, Bind], bootstrap: Bootstrap
) -> Iterator[Difference]:
    """`models`: by name, the rows by seed."""
    _check_same_bags(models)
    bound = {name: bind_seeds(seeds, binds[name]) for name, seeds in models.items()}
    flat = {
        f"{metric} of {name}": bound_metric
        for name, metrics in bound.items()
        for metric, bound_metric in metrics.items()
    }
    drawn = replicate_values(flat, patients_of(next(iter(models.values()))), **bootstrap._asdict())
    for a, b in combinations(models, 2):
        for metric in metrics_of(task.kind):
            values = [drawn.get(f"{metric} of {name}") for name in (a, b)]
            difference = _bootstrapped(metric, a, b, bound[a][metric], bound[b][metric], values)
            if metric == "auroc" and _delong_applies(task, models[a], models[b]):
                difference = _delong(difference, models[a], models[b])
            yield difference


def _by_folds(models: Mapping[str, Rows], task: Task, binds: Mapping[str, Bind]) -> Iterator[Difference]:
    """Differences of fold means. The folds must hold out the same bags in all models."""
    folds = {name: by_fold(rows) for name, rows in models.items()}
    numbers = {name: sorted(own_folds) for name, own_folds in folds.items()}
    first, *rest = folds
    if different := next((name for name in rest if numbers[name] != numbers[first]), None):
        raise InputError(
            f"{first} and {different} hold out bags in several folds, and not in the same folds ({numbers[first]} and "
            f"{numbers[different]}): such runs are compared fold by fold"
        )
    for fold in numbers[first]:
        _check_same_bags({name: own_folds[fold] for name, own_folds in folds.items()}, f" in fold {fold}")
    values = {name: _fold_values(folds[name], models[name], binds[name]) for name in models}
    for a, b in combinations(models, 2):
        for metric in metrics_of(task.kind):
            yield _paired_folds(metric, a, b, values[a][metric], values[b][metric])


def _fold_values(folds: Mapping[int, Mapping[int, Rows]], rows: Rows, bind: Bind) -> dict[str, list[Metric]]:
    """Each metric by fold, the mean over its seeds."""
    bound_folds = [bind_seeds(seeds, lambda members: bind_fold(members, rows, bind)) for seeds in folds.values()]
    return {name: [bound[name].metric for bound in bound_folds] for name in bound_folds[0]}


def _paired_folds(metric: str, a: str, b: str, folds_a: Sequence[Metric], folds_b: Sequence[Metric]) -> Difference:
    pairs = [
        (x.value, y.value) for x, y in zip(folds_a, folds_b, strict=True) if x.value is not None and y.value is not None
    ]
    if not pairs:
        reason = next((fold_metric.reason for fold_metric in (*folds_a, *folds_b) if fold_metric.reason), "")
        return Difference(metric, a, b, None, None, None, None, None, None, FOLDS, 0, reason)
    value_a, value_b = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return Difference(metric, a, b, value_a, value_b, value_a - value_b, None, None, None, FOLDS, 0, "")


def _bootstrapped(
    metric: str, a: str, b: str, bound_a: BoundMetric, bound_b: BoundMetric, drawn: Sequence[Floats | None]
) -> Difference:
    value_a, value_b = bound_a.metric.value, bound_b.metric.value
    empty = Difference(metric, a, b, value_a, value_b, None, None, None, None, BOOTSTRAP, 0, "")
    if value_a is None or value_b is None:
        return empty._replace(reason=bound_a.metric.reason or bound_b.metric.reason)
    difference = empty._replace(difference=value_a - value_b)
    first, second = drawn
    if first is None or second is None or not len(first):
        return difference
    low, high, num_undefined = percentile_interval(first - second)
    return difference._replace(low=low, high=high, num_undefined=num_undefined)


def _delong_applies(task: Task, a: Mapping[int, Rows], b: Mapping[int, Rows]) -> bool:
    patients = patients_of(a)
    return len(task.classes) == 2 and len(a) == len(b) == 1 and len(set(patients)) == len(patients)


def _delong(difference: Difference, a: Mapping[int, Rows], b: Mapping[int, Rows]) -> Difference:
    """The difference with DeLong's interval; as it is where the test has no variance to work with."""
    (rows_a,), (rows_b,) = a.values(), b.values()
    try:
        test = delong(class_targets(rows_a), *(ranking_scores(logits_of(rows)) for rows in (rows_a, rows_b)))
    except UndefinedMetricError:
        return difference
    return difference._replace(low=test.low, high=test.high, p=test.p, method=DELONG, num_undefined=0)


def _check_one_model(name: str, rows: Rows) -> None:
    if not rows:
        raise InputError(f"{name} has no held-out predictions")
    names = sorted({row.model for row in rows})
    if len(names) > 1:
        raise InputError(f"{name} holds the predictions of several models ({', '.join(names)}); compare one of them")


def _check_same_bags(seeds: Mapping[str, Mapping[int, Rows]], where: str = "") -> None:
    def bags(name: str) -> dict[str, HeldOut]:
        return {row.bag_id: row for row in next(iter(seeds[name].values()))}

    first, *rest = seeds
    for name in rest:
        if differing := bag_differences(first, bags(first), name, bags(name)):
            raise InputError(f"{first} and {name} were not judged on the same bags{where}: {differing}")


def _common_censoring(
    models: Mapping[str, Rows], train_targets: Mapping[str, TrainTargets] | None
) -> dict[str, Censoring]:
    """With one tau for all, so that the same events count; empty unless every model's training targets are given."""
    censorings = {name: censoring_of((train_targets or {}).get(name)) for name in models}
    known = {name: censoring for name, censoring in censorings.items() if censoring is not None}
    if len(known) < len(models):
        return {}
    tau = min(censoring.tau for censoring in known.values())
    return {name: censoring._replace(tau=tau) for name, censoring in known.items()}
