"""Paired differences between models that were judged on the same held-out bags.

Both are weighed by the same draws of patients, so what the bags have in common cancels. For the AUROC of two classes,
one bag a patient and one seed, DeLong's test takes the bootstrap's place.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import HeldOut, Rows, bag_differences, by_seed, class_probabilities, class_targets
from mhim_core.evaluation.judge import (
    Bootstrap,
    Censoring,
    TrainTargets,
    bind_rows,
    bind_seeds,
    censoring_of,
    metrics_of,
    patients_of,
)
from mhim_core.metrics import (
    BoundMetric,
    UndefinedMetricError,
    delong,
    percentile_interval,
    replicate_values,
)
from mhim_core.metrics.arrays import Floats
from mhim_core.task import Task, TaskKind

DELONG, BOOTSTRAP = "DeLong", "paired bootstrap"


class Difference(NamedTuple):
    """One metric of two models. Plain values: the row of a table."""

    metric: str
    a: str
    b: str
    value_a: float | None
    """The mean over the seeds of a."""
    value_b: float | None
    difference: float | None
    """value_a − value_b."""
    low: float | None
    """Of the difference's 95 % interval."""
    high: float | None
    p: float | None
    """Two-sided, of no difference; where DeLong's test applies."""
    method: str
    """DeLong or paired bootstrap."""
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
    or targets differ, naming which.
    """
    if len(models) < 2:
        raise InputError(f"a comparison needs two models; {len(models)} given")
    seeds = {name: by_seed(_of_one_model(name, rows)) for name, rows in models.items()}
    _check_same_bags(seeds)
    bootstrap = Bootstrap(replicates, seed)
    censoring = _common_censoring(models, train_targets) if task.kind is TaskKind.survival else {}
    bound = {
        name: bind_seeds(found, partial(bind_rows, task=task, censoring=censoring.get(name)))
        for name, found in seeds.items()
    }
    flat = {f"{metric} of {name}": one for name, found in bound.items() for metric, one in found.items()}
    drawn = replicate_values(flat, patients_of(next(iter(seeds.values()))), **bootstrap._asdict())
    differences = []
    for a, b in combinations(models, 2):
        for metric in metrics_of(task.kind):
            values = [drawn.get(f"{metric} of {name}") for name in (a, b)]
            one = _bootstrapped(metric, a, b, bound[a][metric], bound[b][metric], values)
            if metric == "auroc" and _delong_applies(task, seeds[a], seeds[b]):
                one = _delong(one, seeds[a], seeds[b])
            differences.append(one)
    return tuple(differences)


def _bootstrapped(
    metric: str, a: str, b: str, bound_a: BoundMetric, bound_b: BoundMetric, drawn: Sequence[Floats | None]
) -> Difference:
    value_a, value_b = bound_a.metric.value, bound_b.metric.value
    empty = Difference(metric, a, b, value_a, value_b, None, None, None, None, BOOTSTRAP, 0, "")
    if value_a is None or value_b is None:
        return empty._replace(reason=bound_a.metric.reason or bound_b.metric.reason)
    found = empty._replace(difference=value_a - value_b)
    first, second = drawn
    if first is None or second is None or not len(first):
        return found
    low, high, num_undefined = percentile_interval(first - second)
    return found._replace(low=low, high=high, num_undefined=num_undefined)


def _delong_applies(task: Task, a: Mapping[int, Rows], b: Mapping[int, Rows]) -> bool:
    patients = patients_of(a)
    return len(task.classes) == 2 and len(a) == len(b) == 1 and len(set(patients)) == len(patients)


def _delong(one: Difference, a: Mapping[int, Rows], b: Mapping[int, Rows]) -> Difference:
    """The difference with DeLong's interval; as it is where the test has no variance to work with."""
    (rows_a,), (rows_b,) = a.values(), b.values()
    try:
        found = delong(class_targets(rows_a), class_probabilities(rows_a), class_probabilities(rows_b))
    except UndefinedMetricError:
        return one
    return one._replace(low=found.low, high=found.high, p=found.p, method=DELONG, num_undefined=0)


def _of_one_model(name: str, rows: Rows) -> Rows:
    if not rows:
        raise InputError(f"{name} has no held-out predictions")
    names = sorted({row.model for row in rows})
    if len(names) > 1:
        raise InputError(f"{name} holds the predictions of several models ({', '.join(names)}); compare one of them")
    return rows


def _check_same_bags(seeds: Mapping[str, Mapping[int, Rows]]) -> None:
    def bags(name: str) -> dict[str, HeldOut]:
        return {row.bag_id: row for row in next(iter(seeds[name].values()))}

    first, *others = seeds
    for other in others:
        if found := bag_differences(first, bags(first), other, bags(other)):
            raise InputError(f"{first} and {other} were not judged on the same bags: {found}")


def _common_censoring(
    models: Mapping[str, Rows], train_targets: Mapping[str, TrainTargets] | None
) -> dict[str, Censoring]:
    """With one tau for all, so that the same events count; empty unless every model's training targets are given."""
    given = {name: censoring_of((train_targets or {}).get(name)) for name in models}
    known = {name: one for name, one in given.items() if one is not None}
    if len(known) < len(models):
        return {}
    tau = min(one.tau for one in known.values())
    return {name: one._replace(tau=tau) for name, one in known.items()}
