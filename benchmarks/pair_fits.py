"""Fits of stage 1 and of students on one drawn set: a small JSON file each of validation's and the test bags' logits.

What joins two models, or which of them predicts, is judged from these files without another fit. Stage 1 is fitted once
per (set, aggregator, seed); its model is the teacher of every student.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hard_bags import TASK
from planted_sets import DrawnSet, Planted, Synthetic

from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions, Selection
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model, predict_bag
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.results import read_model

EPOCHS = 20
"""Of one stage."""
FIT = FitOptions(epochs=EPOCHS, learning_rate=5e-4, selection=Selection.last)
"""The last epoch: validation holds loud evidence as well, saturates, and would choose too early."""
PLAIN = "plain"


class Variant(NamedTuple):
    """Stage 1, or a student with these options behind it."""

    name: str
    mhim: MhimOptions | None = None


BASELINE = Variant(PLAIN)


class Task(NamedTuple):
    """What one process does in one go; small and picklable."""

    out: Path
    bags: Planted | Synthetic
    aggregator: str
    seed: int
    variant: Variant

    @property
    def path(self) -> Path:
        return self.out / "rows" / self.bags.name / self.aggregator / self.variant.name / f"seed-{self.seed}.json"

    @property
    def identity(self) -> str:
        return fingerprint([self.bags.name, self.aggregator, self.seed, EPOCHS, self.variant.mhim])


class Row(NamedTuple):
    """One fit's logits, all under inference on all instances."""

    student: dict[str, Any]
    """By part of the test bags, and of `validation`: (bags, 2)."""
    teacher: dict[str, Any] | None
    """None in stage 1."""
    validation_labels: list[int]
    seconds: float
    """CPU time of the fit, on one thread."""


def read_row(task: Task) -> Row | None:
    """The finished fit's row, or None. Raises ConflictError if it is another configuration's."""
    if not task.path.exists():
        return None
    raw: dict[str, Any] = json.loads(task.path.read_text())
    if raw.pop("identity") != task.identity:
        raise ConflictError(f"{task.path} was made with other options; choose another --out")
    return Row(**{**raw, "student": _arrays(raw["student"]), "teacher": raw["teacher"] and _arrays(raw["teacher"])})


def fit_row(task: Task) -> None:
    """Fit and predict unless that is done. One torch thread: several of these run side by side."""
    torch.set_num_threads(1)
    if read_row(task) is not None:
        return
    drawn, start_s = task.bags.draw(task.seed), time.process_time()
    storage = LocalStorage(task.out / "models" / task.bags.name / task.aggregator)
    plain, student = plan_fits([FoldBags(0, drawn.train, drawn.validation)], Stage.mhim, TASK, [task.seed])
    specs = (plain,)
    if task.variant.mhim is not None:
        specs = (plain, student._replace(name=f"{task.variant.name}/{student.name}"))
    plan = TrainPlan(
        fits=specs,
        d_in=drawn.source.dim,
        task=TASK,
        model=ModelOptions(aggregator=task.aggregator, embed_dim=64),
        mhim=task.variant.mhim or MhimOptions(),
        fit=dataclasses.replace(FIT, seed=task.seed),
        execution=FitExecution(checkpoint_every=0),
    )
    result = run_fits(plan, drawn.source, storage, SingleProcess())[-1]
    seconds = time.process_time() - start_s
    loaded = load_model(read_model(storage, result))
    row = Row(
        student=_logits(loaded.student, drawn),
        teacher=None if loaded.teacher is None else _logits(loaded.teacher, drawn),
        validation_labels=[bag.target.class_index for bag in drawn.validation],
        seconds=round(seconds, 1),
    )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    partial = task.path.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": task.identity} | row._asdict()) + "\n")
    partial.replace(task.path)


def _logits(model: MilModel, drawn: DrawnSet) -> dict[str, list[list[float]]]:
    def of(bags: Sequence[LabelledBag]) -> list[list[float]]:
        return [predict_bag(model, drawn.source.read(bag.bag_id)).logits_C.double().tolist() for bag in bags]

    return {"validation": of(drawn.validation)} | {part: of(bags) for part, bags in drawn.test.items()}


def _arrays(logits: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {part: np.array(values, dtype=np.float64) for part, values in logits.items()}


def fit_all(tasks: Sequence[Task], run: Callable[[Callable[[Task], None], list[Task]], object]) -> None:
    """Stage 1 first, since its models are the teachers. `run`: a map over tasks, in processes or here."""
    for is_first in (True, False):
        run(fit_row, [task for task in tasks if (task.variant.mhim is None) is is_first])
