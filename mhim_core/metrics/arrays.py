"""Array types of the metrics, and runs of equal values."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class TieGroups(NamedTuple):
    """Runs of equal values in sorted order."""

    ends: Ints
    """(T,): The sorted position of each run's last member."""
    order: Ints
    """(N,): what sorts the values."""


def tie_groups(values_N: Floats) -> TieGroups:
    order = np.argsort(values_N, kind="stable")
    ordered = values_N[order]
    return TieGroups(np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)), order)


def group_sums(values_RN: Floats, ends_T: Ints) -> Floats:
    """(R, T): sums over the runs of columns that are in sorted order."""
    starts = np.append(0, ends_T[:-1] + 1)
    return np.add.reduceat(values_RN, starts, axis=1)


def weighted_midranks(weights_RN: Floats, values_N: Floats) -> Floats:
    """(R, N): the rank 1 … of each value where value n occurs `weights` times; equal values share their mean rank."""
    ends, order = tie_groups(values_N)
    weight_RT = group_sums(weights_RN[:, order], ends)
    rank_RT = np.cumsum(weight_RT, axis=1) - (weight_RT - 1) / 2
    run_N = np.empty(len(values_N), dtype=np.int64)
    run_N[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    return rank_RT[:, run_N]


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator != 0)
