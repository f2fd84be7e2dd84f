"""The nearest neighbours of points, and how many of them have the point's own label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.errors import InputError
from mhim_core.hardness.hardness_type import MIN_NEIGHBOURS, HardnessType, type_of
from mhim_core.metrics.arrays import Floats, Ints

_MAX_CELLS = 4_000_000
"""Of the (queries, reference) distances held at a time: 32 MB."""
_DECIMALS = 9
"""To which a mean squared difference of standardised features is rounded, so that a tie does not depend on the order
in which a sum is taken; ties go by the lower index."""


class Points(NamedTuple):
    """N points with their labels and patients."""

    x_ND: Floats
    label_N: Ints
    patients: Sequence[str]
    """(N,)."""

    def at(self, rows: Ints) -> "Points":
        """The points of these rows."""
        return Points(self.x_ND[rows], self.label_N[rows], [self.patients[row] for row in rows])


class Neighbours(NamedTuple):
    """Of Q points."""

    num_same_Q: Ints
    """How many of the k − 1 nearest others have the point's label."""
    nearest_QK: Ints
    """Rows of the reference, the nearest first, K = k − 1."""


def standardise(x_ND: Floats, reference_RD: Floats) -> Floats:
    """By mean and standard deviation of the reference; a feature that is constant there becomes 0."""
    mean_D, deviation_D = reference_RD.mean(axis=0), reference_RD.std(axis=0)
    # of equal values rounding may leave a deviation of 1e-17
    is_constant_D = reference_RD.max(axis=0) == reference_RD.min(axis=0)
    scaled_ND: Floats = np.where(is_constant_D, 0.0, (x_ND - mean_D) / np.where(is_constant_D, 1.0, deviation_D))
    return scaled_ND


def find_neighbours(queries: Points, reference: Points, k: int) -> Neighbours:
    """The k − 1 nearest points of other patients in the reference, Euclidean, on features standardised by it.

    A patient's own slides are no neighbours: they are nearly the same picture under the same label, and would vouch for
    each other. A query may itself be in the reference, where it is one of its patient's. Raises InputError if k is
    below 5, or if a point has fewer than k − 1 others.
    """
    _check_k(queries, reference, k)
    reference_RD = standardise(np.asarray(reference.x_ND, np.float64), np.asarray(reference.x_ND, np.float64))
    query_QD = standardise(np.asarray(queries.x_ND, np.float64), np.asarray(reference.x_ND, np.float64))
    norm_R = (reference_RD**2).sum(axis=1)
    reference_patient_R = np.asarray(reference.patients, dtype=str)
    step = max(1, _MAX_CELLS // len(reference_RD))
    parts = []
    for start in range(0, len(query_QD), step):
        rows = slice(start, start + step)
        query_qD = query_QD[rows]
        squared_qR = (query_qD**2).sum(axis=1)[:, None] + norm_R - 2 * (query_qD @ reference_RD.T)
        distance_qR = np.round(squared_qR / reference_RD.shape[1], _DECIMALS) + 0.0  # no -0
        distance_qR[np.asarray(queries.patients[rows], dtype=str)[:, None] == reference_patient_R] = np.inf
        parts.append(_smallest(distance_qR, k - 1))
    nearest_QK = np.concatenate(parts)
    is_same_QK = reference.label_N[nearest_QK] == queries.label_N[:, None]
    return Neighbours(is_same_QK.sum(axis=1), nearest_QK)


def types_among(points: Points, k: int) -> list[HardnessType]:
    """(N,): the type of each point among the others. Raises InputError as `find_neighbours`."""
    return [type_of(float(num), k) for num in find_neighbours(points, points, k).num_same_Q]


def _smallest(distance_QR: Floats, num: int) -> Ints:
    """(Q, num): columns of the smallest values, rising, ties by the lower column."""
    limit_Q1 = np.partition(distance_QR, num - 1, axis=1)[:, num - 1 : num]
    rows = []
    for distance_R, limit in zip(distance_QR, limit_Q1[:, 0], strict=True):
        columns = np.flatnonzero(distance_R <= limit)
        rows.append(columns[np.argsort(distance_R[columns], kind="stable")[:num]])
    return np.stack(rows)


def _check_k(queries: Points, reference: Points, k: int) -> None:
    if k < MIN_NEIGHBOURS:
        raise InputError(f"{k} neighbours are too few: at least {MIN_NEIGHBOURS}, the point itself included")
    patients, counts = np.unique(np.asarray(reference.patients, dtype=str), return_counts=True)
    own = dict(zip(patients.tolist(), counts.tolist(), strict=True))
    fewest = min((len(reference.patients) - own.get(patient, 0) for patient in queries.patients), default=k)
    if fewest < k - 1:
        raise InputError(
            f"{k} neighbours, the point itself included, need {k - 1} points of other patients, and there are {fewest}"
        )
