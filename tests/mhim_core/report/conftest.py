"""Small evaluated runs of every task, without a model or a file."""

from collections.abc import Callable

import numpy as np
import pytest

from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.summary import summarise
from mhim_core.report.run_figures import EvaluatedRun
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget

TASKS = {
    "binary": Task(kind=TaskKind.classification, classes=("normal", "tumour")),
    "multiclass": Task(kind=TaskKind.classification, classes=("a", "b", "c")),
    "survival": Task(kind=TaskKind.survival),
    "regression": Task(kind=TaskKind.regression),
}
NUM_BAGS, NUM_FOLDS = 24, 3


def _target(kind: str, bag: int) -> Target:
    if kind == "survival":
        return SurvivalTarget(float(40 - bag), bag % 4 != 0)
    if kind == "regression":
        return ValueTarget(100.0 * bag)
    return ClassTarget(bag * len(TASKS[kind].classes) // NUM_BAGS)


def _logits(kind: str, bag: int, noise: float) -> tuple[float, ...]:
    seen = (bag - NUM_BAGS / 2) / 4 + noise
    if kind == "survival":
        return (seen - 2, seen - 1, seen, seen)
    if kind == "regression":
        return (100 * (bag + noise),)
    return (-seen, seen) if kind == "binary" else (-2 * seen, 0.3, 2 * seen)


@pytest.fixture(scope="session")
def evaluated() -> Callable[..., EvaluatedRun]:
    """`evaluated(kind, seeds=1, sites=())`: 24 bags of as many patients in three folds, rising in what is predicted."""

    def make(kind: str, seeds: int = 1, sites: tuple[str, ...] = (), unit: str = "slide") -> EvaluatedRun:
        test, validation = [], []
        for model in ("mhim", "plain"):
            for seed in range(2021, 2021 + seeds):
                noise = np.random.default_rng([seed, len(model)]).normal(size=(2, NUM_BAGS))
                for bag in range(NUM_BAGS):
                    site = sites[bag % len(sites)] if sites else None
                    # mixed, so that a fold holds early and late bags
                    fold, patient = bag % NUM_FOLDS, f"p{bag:02}"
                    row = HeldOut(
                        model, seed, fold, f"s{bag:02}", patient, site, _target(kind, bag),
                        _logits(kind, bag, noise[0, bag]),
                    )  # fmt: skip
                    test.append(row)
                    other = _logits(kind, bag, noise[1, bag])
                    validation.append(row._replace(fold=(fold + 1) % NUM_FOLDS, logits=other))
        train = {fold: [_target(kind, bag) for bag in range(NUM_BAGS) if bag % 3 != fold] for fold in range(NUM_FOLDS)}
        metrics = summarise(test, validation, TASKS[kind], train_targets=train, replicates=40)
        return EvaluatedRun(test, validation, TASKS[kind], unit, metrics | {"reported": "mhim"})

    return make
