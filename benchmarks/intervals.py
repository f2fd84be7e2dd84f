"""Paired differences over repetitions, with their 95 % t-interval."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student_t


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_interval(ours: Sequence[float], theirs: Sequence[float], test_over_train: float = 0.0) -> Interval:
    """mean(ours - theirs) ± t(.975, n - 1)·s·√(1/n + r) over n pairs, s the differences' deviation; NaN at n = 1.

    r = `test_over_train`: 0 for independent pairs; the number of test bags over that of training bags where they are
    folds, whose training bags overlap (Nadeau & Bengio 2003).
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, num = statistics.fmean(differences), len(differences)
    if num < 2:
        return Interval(mean, math.nan, math.nan)
    spread = statistics.stdev(differences) * math.sqrt(1 / num + test_over_train)
    half = float(student_t.ppf(0.975, num - 1)) * spread
    return Interval(mean, mean - half, mean + half)
