"""Does the attention show what the prediction rests on? Tiles are taken away and put back, and the model asked again.

For one bag of N tiles, `score(rows)` is what the model says of these tiles alone: the probability of the class that it
predicts from all of them, or the risk, or the number.

- sufficiency: the score of the most attended tiles alone; necessity: by how much it falls without them (DeYoung et al.
  2020, comprehensiveness).
- deletion and insertion (Petsiuk et al. 2018): the score while tiles are taken away, or put in, in the order of the
  attention; the area below it over the share of tiles, 0 to 1. The same areas in random order say what any order would
  do, and the gain is the difference, positive where attention is better than chance.

Agreement: how alike several models weigh the same tiles. It says how stable attention is, not whether it is right.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.metrics import UndefinedMetricError, bind, estimate, spearman
from mhim_core.metrics.arrays import Floats

Score = Callable[[NDArray[np.int64]], float]
"""Ascending rows of the bag, one at least → what the model says of these tiles alone."""

SCHEMA = 1
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Of the tiles, at which the curves are taken: close together where attention is high."""
TOP_SHARE = 0.05
"""Of the tiles, whose sufficiency, necessity and agreement are given."""
NUM_RANDOM = 3
FIGURES = (
    *("sufficiency", "necessity", "deletion_area", "insertion_area", "deletion_gain", "insertion_gain"),
    *("rank_correlation", "top_overlap"),
)
"""Of which the summary gives means; columns of the table."""


class Curves(NamedTuple):
    """(F,) scores at SHARES."""

    deletion: Floats
    """Without that share of the tiles; at 1 the last tile alone is left, since no model predicts from nothing."""
    insertion: Floats
    """With that share of the tiles alone; at 0 with the first one."""


class Faithfulness(NamedTuple):
    """One bag's figures by one order of its tiles."""

    score: float
    """Of all tiles."""
    sufficiency: float
    necessity: float
    by_attention: Curves
    by_chance: Curves
    """The mean over NUM_RANDOM random orders."""


class Agreement(NamedTuple):
    """Over all pairs of M models, the mean; None where there is no pair, or a model weighs all tiles alike."""

    rank_correlation: float | None
    """Spearman's, -1 to 1."""
    top_overlap: float | None
    """The share, 0 to 1, of one model's most attended tiles that are among the other's."""


def faithfulness(attention_N: ArrayLike, score: Score, key: str, top_share: float = TOP_SHARE) -> Faithfulness:
    """`key`: of the random orders, such as the bag's id: the same key gives the same orders. Raises ValueError for a
    bag without tiles."""
    order = attention_order(attention_N)
    if not len(order):
        raise ValueError("a bag without tiles explains nothing")
    known: dict[bytes, float] = {}

    def scored(rows: NDArray[np.int64]) -> float:
        ascending = np.sort(rows)
        name = ascending.tobytes()
        if name not in known:
            known[name] = score(ascending)
        return known[name]

    num = min(len(order), max(1, round(top_share * len(order))))
    full = scored(order)
    rest = order[num:] if num < len(order) else order[-1:]
    by_attention = _curves(order, scored)
    random = [_curves(each, scored) for each in random_orders(len(order), key)]
    chance = Curves(*(np.mean([getattr(each, name) for each in random], axis=0) for name in Curves._fields))
    return Faithfulness(full, scored(order[:num]), full - scored(rest), by_attention, chance)


def attention_order(attention_N: ArrayLike) -> NDArray[np.int64]:
    """Tiles by falling attention, of equal ones the first first."""
    return np.argsort(-np.asarray(attention_N, np.float64), kind="stable")


def random_orders(num_tiles: int, key: str, num: int = NUM_RANDOM) -> list[NDArray[np.int64]]:
    """Of the key and the number of tiles alone."""
    digest = hashlib.sha256(f"explanation\0{key}\0{num_tiles}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return [generator.permutation(num_tiles) for _ in range(num)]


def area(curve: ArrayLike, shares: Sequence[float] = SHARES) -> float:
    """Below a curve over the share of tiles, by trapezoids."""
    return float(np.trapezoid(np.asarray(curve, np.float64), np.asarray(shares)))


def agreement(attention_MN: ArrayLike, top_share: float = TOP_SHARE) -> Agreement:
    """Of M models that weigh the same N tiles."""
    values = np.asarray(attention_MN, np.float64)
    num = min(values.shape[1], max(1, round(top_share * values.shape[1])))
    correlations, overlaps = [], []
    for first, second in combinations(values, 2):
        try:
            correlations.append(spearman(first, second))
        except UndefinedMetricError:
            return Agreement(None, None)
        shared = np.intersect1d(attention_order(first)[:num], attention_order(second)[:num])
        overlaps.append(len(shared) / num)
    if not overlaps:
        return Agreement(None, None)
    return Agreement(float(np.mean(correlations)), float(np.mean(overlaps)))


class ExplainedBag(NamedTuple):
    """A held-out bag of the table."""

    bag_id: str
    patient_id: str
    fold: int
    num_tiles: int
    faithfulness: Faithfulness
    agreement: Agreement

    def line(self) -> dict[str, Any]:
        """Its row of the table."""
        of, by, chance = self.faithfulness, self.faithfulness.by_attention, self.faithfulness.by_chance
        deleted, inserted = area(by.deletion), area(by.insertion)
        return {
            "bag_id": self.bag_id,
            "patient_id": self.patient_id,
            "fold": self.fold,
            "num_tiles": self.num_tiles,
            "score": of.score,
            "sufficiency": of.sufficiency,
            "necessity": of.necessity,
            "deletion_area": deleted,
            "insertion_area": inserted,
            "deletion_gain": area(chance.deletion) - deleted,
            "insertion_gain": inserted - area(chance.insertion),
            "rank_correlation": self.agreement.rank_correlation,
            "top_overlap": self.agreement.top_overlap,
        }


def summarise_explanation(bags: Sequence[ExplainedBag], *, replicates: int, seed: int = 2021) -> dict[str, Any]:
    """{schema, num_bags, num_patients, num_models_compared, top_share, shares, replicates, estimates: {figure:
    estimate}, curves: {deletion, insertion, deletion_by_chance, insertion_by_chance: (F,)}}, plain JSON.

    Means over bags with 95 % intervals of the patient-clustered bootstrap.
    """
    lines = [bag.line() for bag in bags]
    bound = {}
    for name in FIGURES:
        values = np.array([np.nan if line[name] is None else line[name] for line in lines], np.float64)
        is_known = ~np.isnan(values)
        reason = "" if is_known.any() else "no bag has it"
        bound[name] = bind(_mean_kernel(np.where(is_known, values, 0), is_known), len(values), reason)
    estimates = estimate(bound, [bag.patient_id for bag in bags], replicates=replicates, seed=seed)
    curves = {
        name: np.mean([getattr(getattr(bag.faithfulness, by), kind) for bag in bags], axis=0).tolist()
        for name, by, kind in (
            ("deletion", "by_attention", "deletion"),
            ("insertion", "by_attention", "insertion"),
            ("deletion_by_chance", "by_chance", "deletion"),
            ("insertion_by_chance", "by_chance", "insertion"),
        )
    }
    return {
        "schema": SCHEMA,
        "num_bags": len(bags),
        "num_patients": len({bag.patient_id for bag in bags}),
        "top_share": TOP_SHARE,
        "shares": list(SHARES),
        "replicates": replicates,
        "estimates": {name: each._asdict() for name, each in estimates.items()},
        "curves": curves,
    }


def _mean_kernel(values_N: Floats, is_known_N: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    def kernel(weights_RN: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(weights_RN @ values_N / (weights_RN @ is_known_N))

    return kernel


def _curves(order: NDArray[np.int64], score: Score) -> Curves:
    num = len(order)
    taken = [min(num - 1, round(share * num)) for share in SHARES]
    put = [max(1, round(share * num)) for share in SHARES]
    deletion = [score(order[first:]) for first in taken]
    insertion = [score(order[:last]) for last in put]
    return Curves(np.array(deletion), np.array(insertion))


def estimate_text(estimate_of: Mapping[str, Any]) -> str:
    """`0.412 [0.310, 0.522]`, or the reason why there is none."""
    if estimate_of["value"] is None:
        return f"undefined ({estimate_of['reason']})"
    interval = "" if estimate_of["low"] is None else f" [{estimate_of['low']:.3f}, {estimate_of['high']:.3f}]"
    return f"{estimate_of['value']:.3f}{interval}"
