"""Does the student find quiet evidence, and does it keep the loud? Real tiles, planted in bags of known truth.

    python benchmarks/planted_bags.py --data DIR [--seeds 3] [--jobs 2] [--aggregator abmil] [--out DIR]
        [--set planted|synthetic] [--loud adipose] [--quiet tumour] [--sweep]

DIR holds kather_texture.npz. Positive bags of training hold two kinds of evidence: a few loud tiles, on which stage 1
settles, and more quiet ones. Compared on test bags that hold both, or one alone: stage 1 (plain), the student of the
papers, which sees masked bags only (mhim), and the default, with what it predicts with. AUROC against the same
negatives; `all`: of the bags with both and with quiet evidence alone. The last line is one JSON object.

--sweep: other weights of the full view and other masks, and every way to join stage 1 and student. With --out, finished
fits are kept, and an interrupted command goes on where it stopped. On one core about a minute a seed, the sweep 3.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from intervals import paired_interval
from pair_fits import BASELINE, PLAIN, Row, Task, Variant, fit_all, read_row
from pair_joins import JOINS, Given, Logits, log_odds
from planted_sets import Planted, Synthetic

from mhim_core.metrics import auroc
from mhim_core.mil.model_options import MhimOptions
from mhim_core.train.prediction import PredictOptions, PredictWith

KINDS = ("all", "quiet", "loud")
Scores = dict[str, list[float]]
"""AUROC by kind, a number a seed."""


def _student(name: str, **options: Any) -> Variant:
    """The papers' student but for `options`."""
    return Variant(name, MhimOptions(**{"full_view_weight": 0.0} | options))


PAPERS = _student("mhim")
SWEEP = (
    *(_student(f"view={weight}", full_view_weight=weight) for weight in (0.25, 0.5, 0.95)),
    _student("view=0.5 beta=.05", full_view_weight=0.5, high_mask_ratio=0.05),
    _student("view=0.5 random=.5", full_view_weight=0.5, random_mask_ratio=0.5),
    _student("view=0.5 alpha=0", full_view_weight=0.5, consistency_weight=0.0),
)
DEFAULT = next((known for known in (PAPERS, *SWEEP) if known.mhim == MhimOptions()), Variant("default", MhimOptions()))
"""Fitted once, under whatever name."""


def auroc_of(score: Callable[[str], np.ndarray]) -> dict[str, float]:
    """By kind; `score` gives the scores of a part of the test bags."""
    negative = score("negative")

    def against(*parts: str) -> float:
        positive = np.concatenate([score(part) for part in parts])
        return auroc([0] * len(negative) + [1] * len(positive), np.concatenate([negative, positive]))

    return {"all": against("both", "quiet"), "quiet": against("quiet"), "loud": against("loud")}


def own_scores(row: Row, which: str = "student") -> dict[str, float]:
    """Of one model of a row: its student or its teacher."""
    logits = getattr(row, which)
    return auroc_of(lambda part: log_odds(logits[part]))


def joined_scores(plain: Row, row: Row, rule: str) -> dict[str, float]:
    """Of stage 1 and student together."""
    labels = np.array(row.validation_labels)

    def score(part: str) -> np.ndarray:
        models = (Logits(each.student["validation"], each.student[part]) for each in (plain, row))
        return JOINS[rule](Given(*models, labels))

    return auroc_of(score)


def predicted_scores(plain: Row, row: Row, predict_with: PredictWith) -> dict[str, float]:
    """Of what a run predicts with."""
    if predict_with is PredictWith.pair:
        return joined_scores(plain, row, "mean odds")
    if predict_with is PredictWith.plain:
        return own_scores(plain)
    return own_scores(row, str(predict_with))


def by_kind(scores: Iterator[dict[str, float]] | Sequence[dict[str, float]]) -> Scores:
    listed = list(scores)
    return {kind: [score[kind] for score in listed] for kind in KINDS}


def scores_of(rows: Mapping[str, Sequence[Row]], *, with_joins: bool) -> dict[str, Scores]:
    """By model: every variant's student, its teacher, and its pairs with stage 1."""
    plain = rows[PLAIN]
    scores = {PLAIN: by_kind([own_scores(row) for row in plain])}
    for name, own in rows.items():
        if name == PLAIN:
            continue
        scores[name] = by_kind([own_scores(row) for row in own])
        if with_joins:
            scores[f"{name}, teacher"] = by_kind([own_scores(row, "teacher") for row in own])
            for rule in JOINS:
                pairs = [joined_scores(first, row, rule) for first, row in zip(plain, own, strict=True)]
                scores[f"{name}, pair: {rule}"] = by_kind(pairs)
    return scores


def print_table(scores: Mapping[str, Scores]) -> None:
    """Means over the seeds, and the difference from stage 1 with its interval over seeds."""
    plain = scores[PLAIN]
    print(f"{'':38} {'all':>6} {'quiet':>6} {'loud':>6}   minus stage 1 [95 %]: all, loud")
    for name, own in scores.items():
        means = " ".join(f"{statistics.fmean(own[kind]):6.3f}" for kind in KINDS)
        deltas = "   ".join(str(paired_interval(own[kind], plain[kind])) for kind in ("all", "loud"))
        print(f"{name:38} {means}   {'' if own is plain else deltas}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--aggregator", choices=("abmil", "transmil", "dsmil"), default="abmil")
    parser.add_argument("--set", choices=("planted", "synthetic"), default="planted")
    parser.add_argument("--loud", default="adipose", help="the class of the loud tiles")
    parser.add_argument("--quiet", default="tumour", help="the class of the quiet tiles")
    parser.add_argument("--out", type=Path, help="keep and reuse finished fits there")
    parser.add_argument("--sweep", action="store_true", help="other students as well, and every way to join")
    options = parser.parse_args()
    tiles = Planted(options.data / "kather_texture.npz", options.loud, options.quiet)
    bags = tiles if options.set == "planted" else Synthetic()
    variants = dict.fromkeys((BASELINE, PAPERS, DEFAULT, *(SWEEP if options.sweep else ())))
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        tasks = [
            Task(out, bags, options.aggregator, seed, variant) for variant in variants for seed in range(options.seeds)
        ]
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            fit_all(tasks, lambda fit, some: list(pool.map(fit, some)))
        rows: dict[str, list[Row]] = {}
        for task in tasks:
            row = read_row(task)
            assert row is not None
            rows.setdefault(task.variant.name, []).append(row)
    scores = scores_of(rows, with_joins=options.sweep)
    print(f"{bags.name}, {options.aggregator}, {options.seeds} seeds")
    print_table(scores)
    seconds = {name: statistics.fmean(row.seconds for row in own) for name, own in rows.items()}
    print("CPU seconds a fit: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    choice = PredictOptions().predict_with
    default = by_kind([predicted_scores(*both, choice) for both in zip(rows[PLAIN], rows[DEFAULT.name], strict=True)])
    summary = {"plain_all": scores[PLAIN]["all"], "mhim_all": scores[PAPERS.name]["all"]}
    summary |= {f"default_{kind}": default[kind] for kind in KINDS}
    means = {name: round(statistics.fmean(values), 4) for name, values in summary.items()}
    print(json.dumps(means | {"default": str(choice)}))


if __name__ == "__main__":
    main()
