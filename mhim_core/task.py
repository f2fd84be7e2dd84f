"""What is predicted: a class, the time to an event, or a number. Ground: standard library only.

A `Task` is what the cohort says; a `FittedTask` adds what the training bags of one fit fix (time bins, the target's
scale), so that it travels with the model.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

from mhim_core.errors import ConfigError


class TaskKind(StrEnum):
    """The members are named as a user types them."""

    classification = "classification"
    survival = "survival"
    regression = "regression"


class ClassTarget(NamedTuple):
    """A bag's class."""

    class_index: int
    """Its place among the task's classes."""


class SurvivalTarget(NamedTuple):
    """When a patient's event was seen, or until when none was."""

    time: float
    """In the cohort's unit, not negative."""
    event: bool
    """False: censored, no event was seen until `time`."""


class ValueTarget(NamedTuple):
    """A number, in the cohort's unit."""

    value: float


Target = ClassTarget | SurvivalTarget | ValueTarget


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted. C outputs: a logit per class, a hazard's logit per time bin, or one number."""

    kind: TaskKind
    classes: tuple[str, ...] = ()
    """Classification: names in the order of the logits; of two, the second is the positive one."""
    time_bins: int = 4
    """Survival: the number of time bins; otherwise unused."""

    def __post_init__(self) -> None:
        if self.kind is TaskKind.classification and len(self.classes) < 2:
            raise ConfigError(f"{len(self.classes)} class in the cohort; training needs at least 2")
        if self.kind is TaskKind.survival and self.time_bins < 2:
            raise ConfigError(f"time_bins={self.time_bins} must be at least 2")

    @property
    def num_outputs(self) -> int:
        """C."""
        return {
            TaskKind.classification: len(self.classes),
            TaskKind.survival: self.time_bins,
            TaskKind.regression: 1,
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class FittedTask(Task):
    """A task with what the training bags of one fit fix."""

    inner_edges: tuple[float, ...] = ()
    """Survival: the C - 1 edges between the bins, rising; the first bin begins at -inf, the last ends at +inf."""
    target_mean: float = 0.0
    """Regression: of the training targets, in the cohort's unit."""
    target_deviation: float = 1.0
    """Regression: their standard deviation, by which targets are standardised; never 0."""

    @property
    def unfitted(self) -> Task:
        """The cohort's task, without what a fit adds."""
        return Task(**{field.name: getattr(self, field.name) for field in fields(Task)})

    def time_bin(self, time: float) -> int:
        """The bin [edge, next edge) that holds `time`."""
        return bisect.bisect_right(self.inner_edges, time)

    def standardise(self, value: float) -> float:
        return (value - self.target_mean) / self.target_deviation

    def in_users_unit(self, output: float) -> float:
        """The inverse of `standardise`."""
        return output * self.target_deviation + self.target_mean


def fit_task(task: Task, targets: Sequence[Target]) -> FittedTask:
    """The task with the time bins or the scale of these training targets (N of them, any order).

    Survival: the inner edges are the C-quantiles (linear interpolation) of the uncensored times; the same edges hold
    for the censored. Regression: mean and population standard deviation, 1 where all targets are equal.
    Raises ConfigError if no training bag has an event, or if its times have too few distinct values for the bins.
    """
    edges: tuple[float, ...] = ()
    mean, deviation = 0.0, 1.0
    if task.kind is TaskKind.survival:
        edges = _quantiles(targets, task.time_bins)
    elif task.kind is TaskKind.regression:
        values = [target.value for target in targets if isinstance(target, ValueTarget)]
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        deviation = 1.0 if min(values) == max(values) else deviation  # rounding may make it a little more than 0
    return FittedTask(
        **{field.name: getattr(task, field.name) for field in fields(Task)},
        inner_edges=edges,
        target_mean=mean,
        target_deviation=deviation,
    )


def _quantiles(targets: Sequence[Target], num_bins: int) -> tuple[float, ...]:
    times = sorted(target.time for target in targets if isinstance(target, SurvivalTarget) and target.event)
    if not times:
        raise ConfigError("no training bag has an event: time bins are quantiles of the uncensored times")
    edges = []
    for index in range(1, num_bins):
        position = index / num_bins * (len(times) - 1)
        low = math.floor(position)
        high = min(low + 1, len(times) - 1)
        edges.append(times[low] + (position - low) * (times[high] - times[low]))
    if len(set(edges)) < len(edges):
        raise ConfigError(
            f"the {len(times)} uncensored times of the training bags have too few distinct values for "
            f"time_bins={num_bins}; set time_bins lower"
        )
    return tuple(edges)
