"""From tables of predictions to what the worklist says of a bag."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.prediction_table import class_values
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.view.worklist import BagOutcome


def held_out_outcomes(rows: Iterable[HeldOut], task: Task) -> dict[str, BagOutcome]:
    """By bag: the mean over all fits of one model that held it out (folds and seeds), and their deviation."""
    members: dict[str, list[HeldOut]] = defaultdict(list)
    for row in rows:
        members[row.bag_id].append(row)
    return {bag_id: _of_rows(own, task) for bag_id, own in members.items()}


def new_bag_outcome(line: Mapping[str, Any], task: Task) -> BagOutcome:
    """Of a row of `mhim predict`'s table, whose columns are already means."""
    several = line["num_models"] > 1
    if task.kind is TaskKind.classification:
        values = class_values(line, "probability", task)
        spread = class_values(line, "spread", task) if several else ()
        label = line["label"]
        error = 1 - values[task.classes.index(label)] if label in task.classes else None
        return BagOutcome(
            predicted=line["predicted"], values=values, spread=spread, error=error, num_models=line["num_models"]
        )
    name = "risk" if task.kind is TaskKind.survival else "prediction"
    value = float(line[name])
    spread = (float(line[f"{name}_spread"]),) if several else ()
    error = None
    if task.kind is TaskKind.regression and line["label"] is not None:
        error = _distance(value, str(line["label"]))
    return BagOutcome(predicted=None, values=(value,), spread=spread, error=error, num_models=line["num_models"])


def target_words(target: Target, classes: Sequence[str]) -> str:
    """What is known of a bag, as rows show it."""
    if isinstance(target, ClassTarget):
        return classes[target.class_index]
    if isinstance(target, SurvivalTarget):
        return f"{'event' if target.event else 'censored'} at {target.time:g}"
    return f"{target.value:g}"


def _of_rows(own: Sequence[HeldOut], task: Task) -> BagOutcome:
    target = own[0].target
    if isinstance(target, ClassTarget):
        values_MK = np.array([row.probabilities for row in own])
    elif isinstance(target, SurvivalTarget):
        values_MK = np.array([[row.risk] for row in own])
    else:
        values_MK = np.array([[row.value] for row in own])
    mean_K = values_MK.mean(axis=0)
    error = None
    if isinstance(target, ClassTarget):
        error = float(1 - mean_K[target.class_index])
    elif isinstance(target, ValueTarget):
        error = float(abs(mean_K[0] - target.value))
    return BagOutcome(
        predicted=task.classes[int(mean_K.argmax())] if isinstance(target, ClassTarget) else None,
        values=tuple(mean_K.tolist()),
        spread=tuple(values_MK.std(axis=0).tolist()) if len(own) > 1 else (),
        error=error,
        num_models=len(own),
        folds=tuple(sorted({row.fold for row in own})),
    )


def _distance(value: float, label: str) -> float | None:
    try:
        return abs(value - float(label))
    except ValueError:
        return None
