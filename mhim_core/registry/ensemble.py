"""One prediction from a model's members, in the form of held-out rows.

A registered model predicts the mean over its members: of class probabilities, of survival curves, of numbers. Here the
mean becomes the logits that express it, so that every metric of `evaluation` applies to one row a bag.

Shapes: M members, C outputs.
"""

from collections.abc import Sequence

import numpy as np

from mhim_core.metrics.arrays import Floats
from mhim_core.metrics.outputs import softmax, survival_curve
from mhim_core.registry.card import Member, RegistryCard
from mhim_core.task import TaskKind

_TINY = 1e-300


def pooled_logits(logits_MC: Floats, kind: TaskKind) -> tuple[float, ...]:
    """C logits whose probabilities, risk or number are the mean over the members; all NaN where one member's is not
    finite.

    Classification: logarithms of the mean probabilities. Survival: the hazards of the mean survival curve, so that the
    risk, minus the curve's sum, is the members' mean risk. Regression: the mean.
    """
    logits_MC = np.asarray(logits_MC, dtype=np.float64)
    if len(logits_MC) == 1:
        return tuple(logits_MC[0].tolist())
    if not np.isfinite(logits_MC).all():
        return (float("nan"),) * logits_MC.shape[1]
    if kind is TaskKind.regression:
        return tuple(logits_MC.mean(axis=0).tolist())
    if kind is TaskKind.classification:
        return tuple(np.log(np.maximum(softmax(logits_MC).mean(axis=0), _TINY)).tolist())
    survival_C = np.maximum(survival_curve(logits_MC).mean(axis=0), _TINY)
    stay_C = survival_C / np.concatenate([[1.0], survival_C[:-1]])
    return tuple((np.log(np.maximum(1 - stay_C, _TINY)) - np.log(stay_C)).tolist())


def calibrated_probabilities(logits_MC: Floats, members: Sequence[Member]) -> Floats:
    """(C,): the mean of the members' probabilities, each at its own temperature (1 for one without)."""
    temperature_M = np.array([1.0 if member.temperature is None else member.temperature for member in members])
    return np.asarray(softmax(np.asarray(logits_MC, dtype=np.float64), temperature_M).mean(axis=0))


def decide(probability_C: Sequence[float], card: RegistryCard) -> int:
    """The predicted class: of two, by the model's threshold; of more, the most probable."""
    threshold = card.threshold
    if threshold is None:
        return int(np.argmax(probability_C))
    return int(probability_C[1] >= threshold)
