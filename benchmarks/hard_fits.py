"""Fits of the hard-instance benchmark: one small JSON file per (regime, aggregator, variant, seed), kept and reused.

Stage 1 is fitted once per (regime, aggregator, seed); its model is the teacher of every variant.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hard_bags import D_IN, TASK, DrawnSet, Regime, Scores, draw_set, score_model

from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions, Selection
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model, predict_bag
from mhim_core.train.plan import FitSpec, FoldBags, Stage, TrainPlan, plan_fits
from mhim_core.train.results import FitResult, read_model

EPOCHS = 20
"""Of one stage."""


class Variant(NamedTuple):
    """One way to train: an aggregator alone for some epochs, or MHIM with some options behind the stage-1 model."""

    name: str
    mhim: MhimOptions | None = None
    epochs: int = EPOCHS


BASELINE = Variant("baseline")


class Task(NamedTuple):
    """What one process does in one go; small and picklable."""

    out: Path
    regime_name: str
    regime: Regime
    aggregator: str
    seed: int
    variants: tuple[Variant, ...]

    def record_of(self, variant: Variant) -> Path:
        return self.out / "results" / self.regime_name / self.aggregator / variant.name / f"seed-{self.seed}.json"


class Record(NamedTuple):
    """One fit's numbers, all models under inference on all instances."""

    student: Scores
    recycled: Scores | None
    """The student with the recycled tokens appended; None where it has no recycle network."""
    teacher: Scores | None
    """None in stage 1."""
    seconds: float
    """CPU time of the fit, on one thread: what else the machine does is not in it."""


def read_record(task: Task, variant: Variant) -> Record | None:
    """The finished fit's record, or None. Raises ConflictError if it is another configuration's."""
    path = task.record_of(variant)
    if not path.exists():
        return None
    raw: dict[str, Any] = json.loads(path.read_text())
    if raw["identity"] != _identity(task, variant):
        raise ConflictError(f"{path} was made with other options; choose another --out")
    scores = {name: raw[name] and Scores(**raw[name]) for name in ("student", "recycled", "teacher")}
    return Record(**scores, seconds=raw["seconds"])


def fit_variants(task: Task) -> None:
    """Fit and score what is not finished yet. One torch thread: several of these run side by side."""
    torch.set_num_threads(1)
    missing = [variant for variant in task.variants if read_record(task, variant) is None]
    if not missing:
        return
    drawn = draw_set(task.seed, task.regime)
    for variant in missing:
        record = _fit(task, variant, drawn)
        path = task.record_of(variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"identity": _identity(task, variant)} | _as_json(record))
        partial = path.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(path)


def _fit(task: Task, variant: Variant, drawn: DrawnSet) -> Record:
    start_s = time.process_time()
    storage = LocalStorage(task.out / "models" / task.regime_name / task.aggregator)
    plain, student = plan_fits([FoldBags(0, drawn.train, drawn.validation)], Stage.mhim, TASK, [task.seed])
    if variant.mhim is not None:
        specs: Sequence[FitSpec] = (plain, student._replace(name=f"{variant.name}/{student.name}"))
    elif variant.epochs != EPOCHS:
        specs = (plain._replace(name=f"{variant.name}/{plain.name}"),)
    else:
        specs = (plain,)
    result = run_fits(_plan(task, variant, tuple(specs)), drawn.source, storage, SingleProcess())[-1]
    seconds = time.process_time() - start_s
    return _score(storage, result, drawn, seconds)


def _plan(task: Task, variant: Variant, fits: tuple[FitSpec, ...]) -> TrainPlan:
    """The last epoch is taken: validation holds salient positives as well, saturates, and would choose too early."""
    return TrainPlan(
        fits=fits,
        d_in=D_IN,
        task=TASK,
        model=ModelOptions(aggregator=task.aggregator, embed_dim=64),
        mhim=variant.mhim or MhimOptions(),
        fit=FitOptions(epochs=variant.epochs, learning_rate=5e-4, selection=Selection.last, seed=task.seed),
        execution=FitExecution(checkpoint_every=0),
    )


def _score(storage: LocalStorage, result: FitResult, drawn: DrawnSet, seconds: float) -> Record:
    loaded = load_model(read_model(storage, result))
    student, teacher = loaded.student, loaded.teacher
    return Record(
        student=score_model(lambda x_NF: predict_bag(student, x_NF), drawn),
        recycled=score_model(lambda x_NF: predict_bag(student, x_NF, True), drawn) if student.recycle else None,
        teacher=score_model(lambda x_NF: predict_bag(teacher, x_NF), drawn) if teacher is not None else None,
        seconds=round(seconds, 1),
    )


def _identity(task: Task, variant: Variant) -> str:
    return fingerprint(
        {
            "regime": task.regime,
            "aggregator": task.aggregator,
            "seed": task.seed,
            "epochs": variant.epochs,
            "mhim": variant.mhim,
        }
    )


def _as_json(record: Record) -> dict[str, Any]:
    return {name: value._asdict() if isinstance(value, tuple) else value for name, value in record._asdict().items()}
