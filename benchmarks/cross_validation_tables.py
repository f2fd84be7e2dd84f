"""Numbers and lines of a cross-validation: fold mean ± deviation, pooled, and paired differences."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cross_validation import FoldRecord
from intervals import Interval

from mhim_core.metrics import (
    BoundMetric,
    Metric,
    UndefinedMetricError,
    accuracy,
    auroc,
    bind_classification,
    mean_of,
    percentile_interval,
    replicate_values,
)

MetricOf = Callable[[Sequence[int], Sequence[float]], float]


def accuracy_at_half(labels: Sequence[int], positive: Sequence[float]) -> float:
    """Argmax of two classes; no threshold is tuned."""
    return accuracy(labels, [int(value > 0.5) for value in positive])


METRICS: dict[str, MetricOf] = {"accuracy": accuracy_at_half, "auroc": auroc}


class Pooled(NamedTuple):
    """One seed's test predictions of all folds, in the order of the bag ids."""

    patients: list[str]
    labels: list[int]
    positive: list[float]


def pool(folds: Sequence[FoldRecord], method: str) -> Pooled:
    bags = sorted(
        bag
        for fold in folds
        for bag in zip(fold.bag_ids, fold.patients, fold.labels, fold.positive[method], strict=True)
    )
    return Pooled(*(list(column) for column in list(zip(*bags, strict=True))[1:]))


def _pools(records: dict[int, list[FoldRecord]], method: str) -> list[Pooled]:
    return [pool(folds, method) for folds in records.values()]


def mean_and_deviation(values: Sequence[float]) -> str:
    deviation = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "  –  "
    return f"{statistics.fmean(values):.3f} ± {deviation}"


def describe(records: dict[int, list[FoldRecord]], method: str) -> str:
    """Per metric: mean ± deviation over folds × seeds, and pooled over the folds of a seed, mean ± over seeds."""
    cells = []
    for metric in METRICS.values():
        per_fold = []
        for fold in (fold for folds in records.values() for fold in folds):
            try:
                per_fold.append(metric(fold.labels, fold.positive[method]))
            except UndefinedMetricError:
                per_fold.clear()
                break
        pooled = [metric(seed.labels, seed.positive) for seed in _pools(records, method)]
        cells.append(f"{mean_and_deviation(per_fold) if per_fold else 'undefined    '} | {mean_and_deviation(pooled)}")
    return " | ".join(cells)


def difference(records: dict[int, list[FoldRecord]], name: str, method: str = "mhim", other: str = "plain") -> Interval:
    """Of the pooled metric, mean over seeds; 95 % bootstrap interval over patients, drawn in all seeds alike."""
    ours, theirs = (
        mean_of(
            [bind_classification(seed.labels, seed.positive, names=[name])[name] for seed in _pools(records, which)]
        )
        for which in (method, other)
    )
    value = (ours.metric.value or 0.0) - (theirs.metric.value or 0.0)
    paired = BoundMetric(Metric(value), lambda weights_RN: ours.kernel(weights_RN) - theirs.kernel(weights_RN))
    patients = _pools(records, method)[0].patients
    interval = percentile_interval(replicate_values({name: paired}, patients)[name])
    return Interval(value, interval.low or 0.0, interval.high or 0.0)


def print_lines(title: str, records: dict[int, list[FoldRecord]], published: str = "") -> None:
    """A line a method, and one of differences."""
    some = next(iter(records.values()))[0]
    for method in some.positive:
        print(f"{title:22} {method:8} {describe(records, method)}   {published if method == 'plain' else ''}")
    for method in (name for name in ("mhim", "pair") if name in some.positive):
        gains = ", ".join(f"{name} {difference(records, name, method)}" for name in METRICS)
        print(f"{title:22} {f'{method} - plain, pooled':20} {gains}")
    seconds = sum(fold.seconds for folds in records.values() for fold in folds)
    num_folds = sum(len(folds) for folds in records.values())
    print(f"{title:22} {len(records)} seeds, {num_folds} folds, {seconds:.0f} CPU s", flush=True)


HEADER = (
    f"{'':31} accuracy: folds × seeds | pooled, over seeds | AUROC: folds × seeds | pooled, over seeds"
    "   published accuracy"
)
