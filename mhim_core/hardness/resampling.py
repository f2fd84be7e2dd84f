"""What sampling by type would do, before it is applied: slides and draws by class and type, and its effect on a cheap
head in cross-validation."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.hardness.cheap_head import HeadFold, fold_logits
from mhim_core.hardness.hardness_type import HardnessType, TypeWeights
from mhim_core.metrics import bind_classification, percentile_interval, ranking_scores, replicate_values
from mhim_core.metrics.arrays import Floats, Ints

PROPOSED = ("outlier:0", "borderline:2,rare:2", "borderline:2,rare:2,outlier:0", "safe:0.5")
"""Weights whose effect is shown where nobody asks for others: without outliers, more of the hard, both, less of the
safe."""
SHOWN_METRICS = ("auroc", "balanced_accuracy", "brier")


class DrawCount(NamedTuple):
    """One class and type in one fold's training part."""

    label: str
    type: HardnessType
    num_bags: int
    draws: float
    """In an epoch, expected: of as many turns as there are training bags."""


def count_draws(
    labels: Sequence[str], types: Sequence[HardnessType], weights: TypeWeights, classes: Sequence[str]
) -> list[DrawCount]:
    """For every class and type, also those without a bag. Nothing is drawn where no bag has a weight above 0."""
    total = sum(weights.of(kind) for kind in types)
    counts = []
    for label in classes:
        for kind in HardnessType:
            num = sum(pair == (label, kind) for pair in zip(labels, types, strict=True))
            draws = len(types) * num * weights.of(kind) / total if total else 0.0
            counts.append(DrawCount(label, kind, num, draws))
    return counts


class TypedFold(NamedTuple):
    """One fold of the cross-validation."""

    points: HeadFold
    types_train: Sequence[HardnessType]
    """(N,): of its training points among themselves."""
    label_test_Q: Ints
    patients_test: Sequence[str]


class Effect(NamedTuple):
    """A row of a table: one metric of the head with weights by type against the head without."""

    weights: str
    head: str
    """What the head is fitted on."""
    metric: str
    even: float | None
    """Every training bag alike."""
    weighted: float | None
    difference: float | None
    """weighted − even."""
    low: float | None
    """Of the difference's 95 % interval."""
    high: float | None
    num_left_out: int
    """Training bags of weight 0, over all folds."""
    reason: str
    """Why there is no figure."""


def effects_of(
    folds: Sequence[TypedFold],
    head: str,
    weightings: Sequence[TypeWeights],
    classes: Sequence[str],
    replicates: int = 2000,
    seed: int = 2021,
) -> list[Effect]:
    """Paired differences, pooled over the folds' test bags, patients drawn with replacement.

    No test bag has a part in the types, weights and features of the fold that it is tested in. The interval is of the
    choice of test patients; that the folds share training bags is not in it.
    """
    even_QC = _pooled(folds, TypeWeights(), len(classes))
    effects = []
    for weights in weightings:
        num_left_out = sum(weights.of(kind) == 0 for fold in folds for kind in fold.types_train)
        reason = why_not(folds, weights, classes)
        if reason:
            effects += [
                Effect(str(weights), head, metric, None, None, None, None, None, num_left_out, reason)
                for metric in SHOWN_METRICS
            ]
            continue
        weighted_QC = _pooled(folds, weights, len(classes))
        compared = _compare(folds, even_QC, weighted_QC, replicates, seed)
        effects += [
            Effect(
                str(weights), head, metric, own.even, own.weighted, own.difference, own.low, own.high, num_left_out, ""
            )
            for metric, own in compared.items()
        ]
    return effects


def why_not(folds: Sequence[TypedFold], weights: TypeWeights, classes: Sequence[str]) -> str:
    """Why these weights cannot be applied: a class of which nothing would be drawn; empty: they can."""
    for number, fold in enumerate(folds):
        drawn = {
            int(label)
            for label, kind in zip(fold.points.label_train_N, fold.types_train, strict=True)
            if weights.of(kind) > 0
        }
        missing = [name for index, name in enumerate(classes) if index not in drawn]
        if missing:
            return f"in fold {number} of {len(folds)} no bag of {', '.join(missing)} would be drawn"
    return ""


def _pooled(folds: Sequence[TypedFold], weights: TypeWeights, num_classes: int) -> Floats:
    logits = [
        fold_logits(fold.points, np.array([weights.of(kind) for kind in fold.types_train]), num_classes)
        for fold in folds
    ]
    return np.concatenate(logits)


class _Figures(NamedTuple):
    even: float | None
    weighted: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def _compare(
    folds: Sequence[TypedFold], even_QC: Floats, weighted_QC: Floats, replicates: int, seed: int
) -> Mapping[str, _Figures]:
    truth = np.concatenate([fold.label_test_Q for fold in folds])
    patients = [patient for fold in folds for patient in fold.patients_test]
    bound = {
        name: bind_classification(truth, np.exp(logits_QC), ranking=ranking_scores(logits_QC))
        for name, logits_QC in (("even", even_QC), ("weighted", weighted_QC))
    }
    flat = {f"{metric} {name}": bound[name][metric] for name in bound for metric in SHOWN_METRICS}
    drawn = replicate_values(flat, patients, replicates=replicates, seed=seed)
    figures: dict[str, _Figures] = {}
    for metric in SHOWN_METRICS:
        even, weighted = bound["even"][metric].metric.value, bound["weighted"][metric].metric.value
        if even is None or weighted is None:
            figures[metric] = _Figures(even, weighted)
            continue
        low, high = None, None
        if replicates:
            interval = percentile_interval(drawn[f"{metric} weighted"] - drawn[f"{metric} even"])
            low, high = interval.low, interval.high
        figures[metric] = _Figures(even, weighted, weighted - even, low, high)
    return figures
