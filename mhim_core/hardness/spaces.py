"""Points judged in the spaces of the models that held them out.

Models of different folds and seeds embed bags in spaces of their own, in which distances of one mean nothing in
another. So a bag is judged within the space of one model that never saw its patient, among all other bags of that
model's fold: those that it was trained on, chosen by, and held out. What the bag's own label did to the space is thus
nothing; what its neighbours' labels did is what they are asked about. A bag that several models held out (seeds,
repeated splits) has the mean of its counts and probabilities.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.hardness.neighbours import Points, find_neighbours
from mhim_core.hardness.plane import principal_plane
from mhim_core.metrics.arrays import Bools, Floats, Ints
from mhim_core.metrics.outputs import softmax


class HeldOutSpace(NamedTuple):
    """M bags as one model embeds them, of the N of the cohort."""

    fold: int
    rows_M: Ints
    """Their places among the N."""
    x_MD: Floats
    is_held_out_M: Bools
    logits_MC: Floats


class JudgedInSpaces(NamedTuple):
    """Of the cohort's N bags; NaN (0 of counts, -1 of folds) where no model held the bag out."""

    num_same_N: Floats
    """Of its k − 1 nearest others, those with its label: the mean over the models that held it out."""
    num_models_N: Ints
    probability_NC: Floats
    """Their mean."""
    nearest: list[list[int]]
    """Of the first such model: places among the N."""
    fold_N: Ints
    """That model's."""
    map_N2: Floats
    """The bag's place in the plane of that model's space (all its M bags)."""

    @property
    def judged_rows(self) -> Ints:
        """The bags that a model held out."""
        return np.flatnonzero(self.num_models_N > 0)


def judge_in_spaces(spaces: Sequence[HeldOutSpace], label_N: Ints, patients: Sequence[str], k: int) -> JudgedInSpaces:
    """Raises InputError as `find_neighbours`: a fold may have too few bags for k."""
    num, num_classes = len(label_N), spaces[0].logits_MC.shape[1]
    same_N, models_N, probability_NC = np.zeros(num), np.zeros(num, np.int64), np.zeros((num, num_classes))
    nearest: list[list[int]] = [[] for _ in range(num)]
    fold_N, map_N2 = np.full(num, -1), np.full((num, 2), np.nan)
    for space in spaces:
        points = Points(space.x_MD, label_N[space.rows_M], [patients[row] for row in space.rows_M])
        held_out = np.flatnonzero(space.is_held_out_M)
        if not len(held_out):
            continue
        found = find_neighbours(points.at(held_out), points, k)
        rows = space.rows_M[held_out]
        same_N[rows] += found.num_same_Q
        probability_NC[rows] += softmax(space.logits_MC[held_out])
        is_first = models_N[rows] == 0
        if is_first.any():
            plane_M2 = principal_plane(space.x_MD)
        for index in np.flatnonzero(is_first):
            row = rows[index]
            nearest[row] = space.rows_M[found.nearest_QK[index]].tolist()
            fold_N[row], map_N2[row] = space.fold, plane_M2[held_out[index]]
        models_N[rows] += 1
    with np.errstate(invalid="ignore"):
        return JudgedInSpaces(same_N / models_N, models_N, probability_NC / models_N[:, None], nearest, fold_N, map_N2)
