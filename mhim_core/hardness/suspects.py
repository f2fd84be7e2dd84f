"""Which labels are suspect: outliers of which their own held-out models are confidently of another opinion."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.hardness.hardness_type import HardnessType, type_of
from mhim_core.metrics.arrays import Bools, Floats, Ints


class Judgement(NamedTuple):
    """Of N points."""

    types: list[HardnessType]
    suspicion_N: Floats
    """0 to 1, half of it each: 1 − the probability of the point's label, and the share of its nearest others that have
    another label."""
    is_confidently_wrong_N: Bools
    """Another class has at least the probability that it has on average among the points labelled with it: an
    off-diagonal count of the confident joint (Northcutt et al., J. Artif. Intell. Res. 70, 2021, eq. 1)."""
    is_suspect_N: Bools
    """Outlier and confidently wrong."""
    order: Ints
    """Rows from the most suspicious to the least; ties by the smaller probability of the label, then by row."""


def judge(probability_NC: Floats, label_N: Ints, num_same_N: Sequence[float] | Floats, k: int) -> Judgement:
    """`probability_NC`: by models that held the point out. `num_same_N`: of its k − 1 nearest others, those with its
    label, in the space of such a model (their mean over several)."""
    rows = np.arange(len(label_N))
    num_same_N = np.asarray(num_same_N, dtype=np.float64)
    own_N = probability_NC[rows, label_N]
    types = [type_of(float(num), k) for num in num_same_N]
    suspicion_N = ((1 - own_N) + (1 - num_same_N / (k - 1))) / 2
    is_wrong_N = confidently_wrong(probability_NC, label_N)
    is_outlier_N = np.array([kind is HardnessType.outlier for kind in types], dtype=bool)
    order = np.lexsort((rows, own_N, -suspicion_N))
    return Judgement(types, suspicion_N, is_wrong_N, is_outlier_N & is_wrong_N, order)


_ROUNDING = 1e-12
"""Of a mean of equal probabilities."""


def confidently_wrong(probability_NC: Floats, label_N: Ints) -> Bools:
    """(N,), as `Judgement.is_confidently_wrong_N`; a class that labels no point is no candidate."""
    num_classes = probability_NC.shape[1]
    threshold_C = np.array(
        [probability_NC[label_N == c, c].mean() if (label_N == c).any() else np.inf for c in range(num_classes)]
    )
    passes_NC = probability_NC >= threshold_C - _ROUNDING
    # of several classes that pass, the most probable counts (eq. 1)
    candidate_N = np.where(passes_NC, probability_NC, -1.0).argmax(axis=1)
    wrong_N: Bools = passes_NC.any(axis=1) & (candidate_N != label_N)
    return wrong_N
