"""The cells of the board: one method on one fold of one set with one seed, a small JSON file each.

A job is what shares bags and stage 1: cells of one aggregator at one place. Stage 1 is fitted once for all its
recipes that have the same architecture (mhim-v1 has another activation, and so a stage 1 of its own).
"""

import datetime
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from board_methods import PLAIN, Method
from board_sets import FIRST_SEED, BoardSet, FitBags, Place
from cross_validation import Fitted, Recipe, fit_stages
from pair_joins import log_odds
from planted_bags import auroc_of
from planted_sets import LOUD, QUIET

from flows.config.recipes import DEFAULT_RECIPE
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint
from mhim_core.metrics import auroc
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, Score
from mhim_core.mil.scoring import score_instances
from mhim_core.storage import LocalStorage
from mhim_core.train.plan import FoldBags

NAMES = {"plain": "plain", "mhim": "student", "teacher": "teacher", "pair": "pair"}
"""A model's name in a cell, by its name in `cross_validation`."""


class Cell(NamedTuple):
    """One fit and its test figures."""

    set: str
    method: str
    seed: int
    fold: int
    identity: str
    """Fingerprint of what determines the figures beside the data."""
    data: str
    """Digest of the set's files."""
    auroc: dict[str, dict[str, float]]
    """On test bags, by model (plain; of a recipe also student, teacher, pair) and by kind."""
    masked: dict[str, float]
    """Of stage 1 on test bags with both kinds of evidence: which share of the loud and of the quiet instances is among
    the 3 % of the bag that it would mask; empty: unknown."""
    validation: dict[str, float | None]
    """AUROC by stage; nothing was chosen by it."""
    seconds: float
    """CPU time, on one thread."""
    date: str

    @property
    def place(self) -> Place:
        return Place(self.seed, self.fold)


class Job(NamedTuple):
    """Cells of one aggregator at one place. Picklable."""

    bags: BoardSet
    methods: tuple[Method, ...]
    family: tuple[Method, ...]
    """All methods of the aggregator, which may need the same stage 1."""
    place: Place
    out: Path
    data: str
    until: float
    """`time.time()` after which no further cell is begun."""

    def path(self, method: Method) -> Path:
        name = f"seed-{self.place.seed}-fold-{self.place.fold}.json"
        return self.out / "cells" / self.bags.name / method.name / name

    @property
    def models(self) -> Path:
        place = f"seed-{self.place.seed}-fold-{self.place.fold}"
        return self.out / "models" / self.bags.name / self.methods[0].aggregator / place


def identity_of(bags: BoardSet, method: Method) -> str:
    """Of everything but data, seed and fold."""
    mhim = None if method.recipe == PLAIN else method.mhim()
    settings = bags.settings() | {"method": method.name, "architecture": method.model(bags.model), "mhim": mhim}
    return fingerprint(settings)[:16]


def read_cell(job: Job, method: Method) -> Cell | None:
    """The finished cell, or None. Raises ConflictError if it was made with other options or data."""
    path = job.path(method)
    if not path.exists():
        return None
    cell = Cell(**json.loads(path.read_text()))
    if (cell.identity, cell.data) != (identity_of(job.bags, method), job.data):
        raise ConflictError(f"{path} was made with other options or data; choose another --out")
    return cell


def missing(job: Job) -> tuple[Method, ...]:
    """The methods whose cells are not there."""
    return tuple(method for method in job.methods if read_cell(job, method) is None)


def run_job(job: Job) -> list[Cell]:
    """The missing cells, each written as soon as it is done; until the time is up. One torch thread."""
    todo = missing(job)
    if not todo or time.time() >= job.until:
        return []
    torch.set_num_threads(1)
    bags = job.bags.open(job.place)
    cells = []
    for method in todo:
        if time.time() >= job.until:
            return cells
        cell = fit_cell(job, method, bags)
        _write(job.path(method), cell)
        cells.append(cell)
    if not missing(job._replace(methods=job.family)):
        shutil.rmtree(job.models)  # no later cell needs this stage 1
    return cells


def fit_cell(job: Job, method: Method, bags: FitBags) -> Cell:
    """Fit both stages (a stage 1 that another cell of the job has fitted is taken), and test."""
    start_s = time.process_time()
    model = method.model(job.bags.model)
    recipe = Recipe(model, method.mhim(), job.bags.fit, SplitOptions(), method.stage)
    source = method.prepare(bags.source)
    fold = FoldBags(job.place.fold, bags.train, bags.validation)
    storage = LocalStorage(job.models / fingerprint(model)[:16])
    fitted = fit_stages(source, fold, recipe, job.place.seed, storage, method.recipe)
    return Cell(
        set=job.bags.name,
        method=method.name,
        seed=job.place.seed,
        fold=job.place.fold,
        identity=identity_of(job.bags, method),
        data=job.data,
        auroc=_auroc(fitted, bags, source),
        masked={} if method.is_control or not bags.evidence else _masked(fitted, bags),
        validation={str(result.stage): result.metric for result in fitted.results},
        seconds=round(time.process_time() - start_s, 1),
        date=datetime.date.today().isoformat(),
    )


def _auroc(fitted: Fitted, bags: FitBags, source: Any) -> dict[str, dict[str, float]]:
    odds: dict[str, dict[str, np.ndarray]] = {}
    for part, part_bags in bags.test.items():
        for name, logits_NC in fitted.predict(source, part_bags).items():
            odds.setdefault(NAMES[name], {})[part] = log_odds(logits_NC.astype(np.float64))
    return {name: _scores(by_part, bags) for name, by_part in odds.items()}


def _scores(odds: Mapping[str, np.ndarray], bags: FitBags) -> dict[str, float]:
    """AUROC by kind."""
    if odds.keys() != {"test"}:
        scores = auroc_of(odds.__getitem__)
    else:
        scores = {"all": auroc([bag.target.class_index for bag in bags.test["test"]], odds["test"].tolist())}
    return {kind: round(value, 6) for kind, value in scores.items()}


@torch.no_grad()
def _masked(fitted: Fitted, bags: FitBags) -> dict[str, float]:
    """See `Cell.masked`. By the default recipe's ratio and score."""
    model: MilModel = fitted.models["plain"].model
    counts = np.zeros((3, 2))  # by what instances are: masked, all
    for bag in bags.test["both"]:
        h_ND = model.embed_instances(bags.source.read(bag.bag_id))
        score_N = score_instances(model, h_ND, model.aggregator(h_ND), Score.margin).mean(dim=0).numpy()
        kinds_N = bags.evidence[bag.bag_id]
        num = math.ceil(MhimOptions().high_mask_ratio * len(score_N))
        top = kinds_N[np.argsort(-score_N, kind="stable")[:num]]
        counts += np.stack([np.bincount(top, minlength=3), np.bincount(kinds_N, minlength=3)], axis=1)
    share = counts[:, 0] / counts[:, 1]
    return {"loud": round(float(share[LOUD]), 4), "quiet": round(float(share[QUIET]), 4)}


def _write(path: Path, cell: Cell) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(cell._asdict()) + "\n")
    partial.replace(path)


def read_cells(out: Path) -> list[Cell]:
    """All that are there, in the order of their paths."""
    return [Cell(**json.loads(path.read_text())) for path in sorted((out / "cells").rglob("*.json"))]


def order_jobs(
    sets: Sequence[BoardSet], methods: Sequence[Method], out: Path, data: Mapping[str, str], until: float
) -> list[Job]:
    """All jobs by worth: first what a row needs, more seeds last.

    In both aggregator by aggregator over all sets, alone and under the default recipe before the others.
    """
    families: dict[str, list[Method]] = {}
    for method in methods:
        families.setdefault(method.aggregator, []).append(method)
    jobs = []
    for more in (False, True):
        for family in families.values():
            first = [method for method in family if method.recipe in (PLAIN, DEFAULT_RECIPE)]
            for tier in (first, [method for method in family if method not in first]):
                for bags in sets if tier else ():
                    seeds = range(bags.min_seeds, bags.num_seeds) if more else range(bags.min_seeds)
                    places = [Place(FIRST_SEED + seed, fold) for seed in seeds for fold in range(bags.folds)]
                    own = tuple(tier), tuple(family)
                    jobs += [Job(bags, *own, place, out, data[bags.name], until) for place in places]
    return jobs
