"""Are flipped labels found? Five per cent of a set's labels are flipped, and lists of suspects are judged by them.

    python benchmarks/suspect_labels.py --data DIR [--seeds 3] [--sets synthetic,planted,Musk1,…]
        [--neighbours 7] [--student] [--cleanlab]

DIR holds kather_texture.npz and the classic sets, in tiles/ and bags/classic/. One thread. Five folds of plain ABMIL,
15 epochs, trained on the flipped labels (--student: and the MHIM student behind it, which then judges); each bag's
probabilities and embedding are of the model that held it out. One seed redraws bags (of the synthetic and planted
sets), flips, folds and start weights. The lists:

    suspicion        that of `mhim hardness`: half 1 − P(label), half the share of neighbours with another label,
                     among all bags of the model's fold
    held-out only    the same, neighbours among the bags that this model held out
    neighbours       that share alone          loss   P(label) alone: the order of plain loss ranking
    confident        confident learning: pruned by noise rate (Northcutt et al. 2021), by normalised margin, the rest
                     behind them in the same order; --cleanlab compares it with cleanlab's own list

Recall: the share of the flipped in the first 10 % of a list of all bags. Beside it the suspects of `mhim hardness`
(outlier and confidently wrong): how many, and which share of them was flipped. The synthetic and planted sets are 100
negative bags and 100 positive ones with loud and quiet evidence; of their `-quiet` variants half of the positive bags
hold quiet evidence alone, which plain ABMIL hardly finds: true labels that look wrong. The last line is one JSON
object.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from planted_sets import DrawnSet, Planted, Synthetic

from mhim_core.bags import BagSource
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.hardness.hardness_type import DEFAULT_NEIGHBOURS, HardnessType
from mhim_core.hardness.spaces import HeldOutSpace, judge_in_spaces
from mhim_core.hardness.suspects import judge
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.store.interop import ClassicBags
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.bag_embeddings import embed_bag
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions, Selection
from mhim_core.train.inference import Voter
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.results import read_model
from mhim_core.types import BagId, PatientId, SlideId

TASK = Task(kind=TaskKind.classification, classes=("0", "1"))
SHARE_FLIPPED, SHARE_READ = 0.05, 0.1
SPLIT = SplitOptions(scheme=SplitScheme.folds, folds=5, val_fraction=0.1)
LISTS = ("suspicion", "held-out only", "neighbours", "loss", "confident")
SETS = ("synthetic", "planted", "planted-quiet", "synthetic-quiet", "Musk1", "Elephant", "UCSB", "Fox")


class LabelledSet(NamedTuple):
    """N bags with their true classes."""

    ids: list[BagId]
    label_N: np.ndarray
    open: Callable[[Sequence[BagId]], BagSource]
    """The bags, prepared by what these training bags say."""


def draw(name: str, data: Path, seed: int) -> LabelledSet:
    family, _, variant = name.partition("-")
    if family in ("synthetic", "planted"):
        kind: Planted | Synthetic = Synthetic() if family == "synthetic" else Planted(data / "tiles/kather_texture.npz")
        drawn: DrawnSet = kind.draw(seed)
        bags = (*drawn.train[:150], *(drawn.test["quiet"][:50] if variant else drawn.train[150:]))
        return LabelledSet([bag.bag_id for bag in bags], _classes(bags), lambda train: drawn.source)
    raw = ClassicBags(data / f"bags/classic/{name}.npz")
    labels = raw.labels()
    ids = [BagId(bag_id) for bag_id in labels]
    return LabelledSet(
        ids, np.array([int(labels[bag_id]) for bag_id in ids]), lambda train: raw.standardised(raw.measure(train))
    )


def _classes(bags: Sequence[LabelledBag]) -> np.ndarray:
    return np.array([bag.target.class_index for bag in bags if isinstance(bag.target, ClassTarget)])


def flip(label_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows whose labels are flipped."""
    num = round(SHARE_FLIPPED * len(label_N))
    return np.random.default_rng([seed, 5]).permutation(len(label_N))[:num]


def fit_spaces(bags: LabelledSet, given_N: np.ndarray, seed: int, stage: Stage) -> list[HeldOutSpace]:
    """The five models' spaces, trained on these labels."""
    rows = [
        CohortRow(SlideId(bag_id), "", PatientId(bag_id), str(label))
        for bag_id, label in zip(bags.ids, given_N, strict=True)
    ]
    row_of = {bag_id: row for row, bag_id in enumerate(bags.ids)}
    spaces = []
    for split in make_splits(rows, TASK, SPLIT, seed):

        def labelled(part: Sequence[str]) -> tuple[LabelledBag, ...]:
            return tuple(LabelledBag(BagId(each), ClassTarget(int(given_N[row_of[BagId(each)]]))) for each in part)

        fold = FoldBags(split.fold, labelled(split.train), labelled(split.validation))
        source = bags.open([bag.bag_id for bag in fold.train])
        plan = TrainPlan(
            fits=plan_fits([fold], stage, TASK, [seed]),
            d_in=source.dim,
            task=TASK,
            model=ModelOptions(embed_dim=64, dropout=0.5),
            mhim=MhimOptions(),
            fit=FitOptions(
                epochs=15, learning_rate=1e-3, weight_decay=1e-3, global_batch=4, selection=Selection.last, seed=seed
            ),
            execution=FitExecution(checkpoint_every=0, pack_instances=2048),
        )
        with tempfile.TemporaryDirectory() as folder:
            storage = LocalStorage(Path(folder))
            *_, result = run_fits(plan, source, storage, SingleProcess())
            loaded = load_model(read_model(storage, result))
        voter = Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)
        embedded = [embed_bag(source.read(bag_id), voter) for bag_id in bags.ids]
        held_out = {str(bag_id) for bag_id in split.test}
        spaces.append(
            HeldOutSpace(
                split.fold,
                np.arange(len(bags.ids)),
                np.stack([each.feature_D for each in embedded]),
                np.array([bag_id in held_out for bag_id in bags.ids]),
                np.stack([each.logits_C for each in embedded]),
            )
        )
    return spaces


class Judged(NamedTuple):
    """One set and seed."""

    recall: dict[str, float]
    num_suspects: int
    share_flipped: float | None
    """Of the suspects."""
    accuracy: float
    """Out of fold, against the true labels."""
    num_outliers: int
    agreement: float | None
    """Of our confident learning's first tenth with cleanlab's."""
    seconds: float


def judge_set(name: str, data: Path, seed: int, k: int, stage: Stage, with_cleanlab: bool) -> Judged:
    start_s = time.process_time()
    bags = draw(name, data, seed)
    flipped = flip(bags.label_N, seed)
    given_N = bags.label_N.copy()
    given_N[flipped] = 1 - given_N[flipped]
    spaces, patients = fit_spaces(bags, given_N, seed, stage), [str(bag_id) for bag_id in bags.ids]
    among_all = judge_in_spaces(spaces, given_N, patients, k)
    alone = judge_in_spaces([_held_out_only(space) for space in spaces], given_N, patients, k)
    probability_NC = among_all.probability_NC
    judgement = judge(probability_NC, given_N, among_all.num_same_N, k)
    own_N = probability_NC[np.arange(len(given_N)), given_N]
    orders = {
        "suspicion": judgement.order,
        "held-out only": judge(probability_NC, given_N, alone.num_same_N, k).order,
        "neighbours": np.lexsort((own_N, among_all.num_same_N)),
        "loss": np.argsort(own_N, kind="stable"),
        "confident": confident_order(probability_NC, given_N),
    }
    num_read = -(-len(given_N) // int(1 / SHARE_READ))
    suspects = np.flatnonzero(judgement.is_suspect_N)
    return Judged(
        recall={each: float(np.isin(flipped, order[:num_read]).mean()) for each, order in orders.items()},
        num_suspects=len(suspects),
        share_flipped=float(np.isin(suspects, flipped).mean()) if len(suspects) else None,
        accuracy=float((probability_NC.argmax(axis=1) == bags.label_N).mean()),
        num_outliers=sum(kind is HardnessType.outlier for kind in judgement.types),
        agreement=_agreement(orders["confident"][:num_read], probability_NC, given_N) if with_cleanlab else None,
        seconds=round(time.process_time() - start_s, 1),
    )


def _held_out_only(space: HeldOutSpace) -> HeldOutSpace:
    own = np.flatnonzero(space.is_held_out_M)
    return HeldOutSpace(space.fold, space.rows_M[own], space.x_MD[own], space.is_held_out_M[own], space.logits_MC[own])


def confident_order(probability_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Confident learning (Northcutt et al., J. Artif. Intell. Res. 70, 2021): the confident joint (eq. 1), calibrated
    to the label counts (eq. 3); of each label i as many as it says are truly j, those with the largest p_j − p_i."""
    num_classes = probability_NC.shape[1]
    threshold_C = np.array([probability_NC[label_N == c, c].mean() for c in range(num_classes)])
    passes_NC = probability_NC >= threshold_C
    true_N = np.where(passes_NC, probability_NC, -1).argmax(axis=1)
    counted = passes_NC.any(axis=1)
    joint_CC = np.array(
        [[(counted & (label_N == i) & (true_N == j)).sum() for j in range(num_classes)] for i in range(num_classes)],
        float,
    )
    labelled_C = np.bincount(label_N, minlength=num_classes)
    joint_CC *= (labelled_C / np.maximum(joint_CC.sum(axis=1), 1))[:, None]
    rows = np.arange(len(label_N))
    others_NC = probability_NC.copy()
    others_NC[rows, label_N] = -1
    margin_N = probability_NC[rows, label_N] - others_NC.max(axis=1)
    is_flagged_N = np.zeros(len(label_N), bool)
    for i in range(num_classes):
        for j in range(num_classes):
            if i != j:
                own = np.flatnonzero(label_N == i)
                worst = own[np.argsort(probability_NC[own, i] - probability_NC[own, j], kind="stable")]
                is_flagged_N[worst[: round(joint_CC[i, j])]] = True
    return np.lexsort((margin_N, ~is_flagged_N))


def _agreement(first: np.ndarray, probability_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of cleanlab's first as many (its issues by normalised margin, the rest behind) that are among ours."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality_N = get_label_quality_scores(label_N, probability_NC, method="normalized_margin")
    issues_N = find_label_issues(label_N, probability_NC, filter_by="prune_by_noise_rate")
    theirs = np.lexsort((quality_N, ~issues_N))[: len(first)]
    return float(np.isin(theirs, first).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--neighbours", type=int, default=DEFAULT_NEIGHBOURS)
    parser.add_argument("--student", action="store_true", help="by the MHIM student behind each model, in its place")
    parser.add_argument("--cleanlab", action="store_true", help="compare with cleanlab, which must be installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stage = Stage.mhim if options.student else Stage.plain
    print(
        f"{'':10} {'seed':>4} {'accuracy':>8} "
        + " ".join(f"{name:>13}" for name in LISTS)
        + "  suspects (flipped)  CPU s"
    )
    everything: dict[str, list[Judged]] = {}
    for name in options.sets.split(","):
        for seed in range(options.seeds):
            judged = judge_set(name, options.data, seed, options.neighbours, stage, options.cleanlab)
            everything.setdefault(name, []).append(judged)
            flipped = "–" if judged.share_flipped is None else f"{judged.share_flipped:.2f}"
            recalls = " ".join(f"{judged.recall[each]:13.2f}" for each in LISTS)
            print(
                f"{name:10} {seed:4} {judged.accuracy:8.3f} {recalls}  {judged.num_suspects:8} ({flipped})"
                f"  {judged.seconds:9.1f}",
                flush=True,
            )
        means = " ".join(f"{statistics.fmean(each.recall[kind] for each in everything[name]):13.2f}" for kind in LISTS)
        print(f"{name:10} mean {'':8} {means}")
    json.dump({name: [each._asdict() for each in own] for name, own in everything.items()}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
