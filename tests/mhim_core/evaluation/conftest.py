"""Made held-out predictions of every task: folds by patient, several seeds, sites, validation rows."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from mhim_core.evaluation.held_out import HeldOut
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget

TASKS = {
    "binary": Task(kind=TaskKind.classification, classes=("normal", "tumour")),
    "multiclass": Task(kind=TaskKind.classification, classes=("a", "b", "c")),
    "survival": Task(kind=TaskKind.survival),
    "regression": Task(kind=TaskKind.regression),
}


class Predictions(NamedTuple):
    task: Task
    test: list[HeldOut]
    validation: list[HeldOut]
    train_targets: dict[int, list[Target]]


def _target(kind: str, hidden: float, generator: np.random.Generator) -> Target:
    if kind == "binary":
        return ClassTarget(int(hidden > 0))
    if kind == "multiclass":
        return ClassTarget(int(np.digitize(hidden, [-0.5, 0.5])))
    if kind == "survival":
        return SurvivalTarget(float(np.round(np.exp(-hidden) * generator.exponential(10), 1) + 0.1), bool(hidden > -1))
    return ValueTarget(float(np.round(100 * hidden)))


def _logits(kind: str, seen: float) -> tuple[float, ...]:
    if kind == "binary":
        return (-seen, seen)
    if kind == "multiclass":
        return (-2 * seen, 0.3, 2 * seen)
    if kind == "survival":
        return (seen - 2, seen - 1, seen, seen)
    return (80 * seen + 5,)


@pytest.fixture(scope="session")
def make() -> Callable[..., Predictions]:
    """`make(kind, num=60, seeds=1, folds=3, models=("mhim",), noise=0.8, sites=())`: the same bags for every noise."""

    def build(kind, num=60, seeds=1, folds=3, models=("mhim",), noise=0.8, sites=(), slides_per_patient=1):
        truth = np.random.default_rng(99)
        hidden = truth.normal(size=num)
        targets = [_target(kind, value, truth) for value in hidden]
        test, validation = [], []
        for model_index, model in enumerate(models):
            for seed in range(seeds):
                drawn = np.random.default_rng([seed, model_index])
                for bag in range(num):
                    patient = bag // slides_per_patient
                    fold = patient % folds
                    site = sites[patient % len(sites)] if sites else None
                    row = HeldOut(
                        model, seed, fold, f"s{bag:03}", f"p{patient:03}", site, targets[bag],
                        _logits(kind, hidden[bag] + noise * drawn.normal()),
                    )  # fmt: skip
                    test.append(row)
                    # its patients are another fold's validation
                    logits = _logits(kind, hidden[bag] + noise * drawn.normal())
                    validation.append(row._replace(fold=(fold + 1) % folds, logits=logits))
        train = {fold: [target for bag, target in enumerate(targets) if bag % folds != fold] for fold in range(folds)}
        return Predictions(TASKS[kind], test, validation, train)

    return build
