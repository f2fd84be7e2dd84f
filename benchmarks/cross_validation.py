"""Plain against MHIM by cross-validation on small sets of bags with two classes; shared by the benchmarks of real bags.

One small JSON file per (set, aggregator, seed, fold), kept and reused. Every number of a table comes from test folds.
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from mhim_core.bags import BagSource
from mhim_core.cohort.splits import Split, make_splits
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MINING_AGGREGATORS, MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions
from mhim_core.train.inference import join_logits
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model, predict_bag
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.results import FitResult, read_model
from mhim_core.types import BagId, SlideId

TASK = Task(kind=TaskKind.classification, classes=("0", "1"))


class BagSet(Protocol):
    """Bags, their labels and patients. Picklable."""

    @property
    def name(self) -> str: ...

    def rows(self) -> Sequence[CohortRow]:
        """One row a bag: id, patient, label "0" or "1"."""
        ...

    def open(self, train: Sequence[BagId]) -> BagSource:
        """The bags, prepared by what the training bags alone say."""
        ...


class Recipe(NamedTuple):
    """How the bags of a set are learned from; everything that a result depends on beside bags, seed and fold."""

    model: ModelOptions
    mhim: MhimOptions
    fit: FitOptions
    split: SplitOptions
    stage: Stage = Stage.mhim
    """plain: no student; so too where the aggregator cannot be mined."""


class FoldTask(NamedTuple):
    """One process's work: both stages on one fold."""

    out: Path
    bags: BagSet
    recipe: Recipe
    seed: int
    split: Split

    @property
    def key(self) -> str:
        return f"{self.bags.name}/{self.recipe.model.aggregator}/seed-{self.seed}/fold-{self.split.fold}"

    @property
    def identity(self) -> str:
        return fingerprint([self.recipe, self.seed, self.split])


class FoldRecord(NamedTuple):
    """Test predictions of one fold, and what validation said of the chosen epochs."""

    bag_ids: list[str]
    patients: list[str]
    labels: list[int]
    positive: dict[str, list[float]]
    """Probability of class 1 by plain (the stage-1 model), mhim (the student), teacher, and pair (both models
    joined)."""
    validation: dict[str, float | None]
    """AUROC, by stage."""
    validation_loss: dict[str, float]
    seconds: float
    """CPU time, on one thread."""


def run_folds(bags: BagSet, recipe: Recipe, seeds: Sequence[int], jobs: int, out: Path) -> dict[int, list[FoldRecord]]:
    """The records of all folds by seed; folds are drawn anew by each seed."""
    rows = bags.rows()
    tasks = [
        FoldTask(out, bags, recipe, seed, split)
        for seed in seeds
        for split in make_splits(rows, TASK, recipe.split, seed)
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        records = list(pool.map(run_fold, tasks))
    return {seed: [record for task, record in zip(tasks, records, strict=True) if task.seed == seed] for seed in seeds}


def run_fold(task: FoldTask) -> FoldRecord:
    """Fit and predict one fold, or read what was kept of it. One torch thread."""
    path = task.out / "results" / f"{task.key}.json"
    if path.exists():
        raw: dict[str, Any] = json.loads(path.read_text())
        if raw.pop("identity") != task.identity:
            raise ConflictError(f"{path} was made with other options; choose another --out")
        return FoldRecord(**raw)
    torch.set_num_threads(1)
    record = _fit_fold(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": task.identity} | record._asdict()) + "\n")
    partial.replace(path)
    return record


def _fit_fold(task: FoldTask) -> FoldRecord:
    start_s = time.process_time()
    rows = {row.slide_id: row for row in task.bags.rows()}

    def labelled(slide_ids: Sequence[SlideId]) -> tuple[LabelledBag, ...]:
        return tuple(LabelledBag(BagId(slide_id), ClassTarget(_label(rows[slide_id]))) for slide_id in slide_ids)

    recipe, split = task.recipe, task.split
    train, validation, test = map(labelled, (split.train, split.validation, split.test))
    source = task.bags.open([bag.bag_id for bag in train])
    storage = LocalStorage(task.out / "models" / task.key)
    fitted = fit_stages(source, FoldBags(split.fold, train, validation), recipe, task.seed, storage)
    logits = {name: torch.from_numpy(logits_NC) for name, logits_NC in fitted.predict(source, test).items()}
    positive = {name: logits_NC.softmax(dim=1).double()[:, 1].tolist() for name, logits_NC in logits.items()}
    return FoldRecord(
        bag_ids=[bag.bag_id for bag in test],
        patients=[rows[SlideId(bag.bag_id)].patient_id for bag in test],
        labels=[_label(rows[SlideId(bag.bag_id)]) for bag in test],
        positive=positive,
        validation={str(result.stage): result.metric for result in fitted.results},
        validation_loss={str(result.stage): result.validation_loss for result in fitted.results},
        seconds=round(time.process_time() - start_s, 1),
    )


class Fitted(NamedTuple):
    """Both stages on one fold, or stage 1 alone."""

    results: Sequence[FitResult]
    models: Mapping[str, "Predictor"]
    """plain, and then mhim (the student) and teacher."""

    def predict(self, source: BagSource, bags: Sequence[LabelledBag]) -> dict[str, np.ndarray]:
        """Logits (bags, 2) by model; beside plain and mhim their pair."""
        logits = {name: predictor.logits(source, bags) for name, predictor in self.models.items()}
        if "mhim" in logits:
            logits["pair"] = join_logits(logits["plain"], logits["mhim"], TaskKind.classification)
        return logits


class Predictor(NamedTuple):
    """A model, and whether inference appends recycled tokens."""

    model: MilModel
    append_recycled: bool

    def logits(self, source: BagSource, bags: Sequence[LabelledBag]) -> np.ndarray:
        """(bags, 2)."""
        predictions = [predict_bag(self.model, source.read(bag.bag_id), self.append_recycled) for bag in bags]
        return torch.stack([prediction.logits_C for prediction in predictions]).numpy()


def fit_stages(
    source: BagSource, fold: FoldBags, recipe: Recipe, seed: int, storage: LocalStorage, student: str = ""
) -> Fitted:
    """Fit what is not finished in `storage`. `student`: a folder there, so that several share one stage 1."""
    stage = recipe.stage if recipe.model.aggregator in MINING_AGGREGATORS else Stage.plain
    specs = [
        spec._replace(name=f"{student}/{spec.name}") if student and spec.teacher else spec
        for spec in plan_fits([fold], stage, TASK, [seed])
    ]
    plan = TrainPlan(
        fits=tuple(specs),
        d_in=source.dim,
        task=TASK,
        model=recipe.model,
        mhim=recipe.mhim,
        fit=recipe.fit,
        execution=FitExecution(checkpoint_every=0),
    )
    results = run_fits(plan, source, storage, SingleProcess())
    return Fitted(results, _models(storage, results))


def _label(row: CohortRow) -> int:
    return TASK.classes.index(str(row.label))


def _models(storage: LocalStorage, results: Sequence[FitResult]) -> dict[str, Predictor]:
    plain, *later = (load_model(read_model(storage, result)) for result in results)
    models = {"plain": Predictor(plain.student, False)}
    for loaded in later:
        models["mhim"] = Predictor(loaded.student, loaded.card.append_recycled)
        assert loaded.teacher is not None
        models["teacher"] = Predictor(loaded.teacher, False)
    return models
