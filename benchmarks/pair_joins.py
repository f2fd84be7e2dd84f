"""Ways to make one prediction of two models, stage 1 and student: what `planted_bags.py --sweep` compares.

Each takes both models' logits on some bags and on validation, with its labels, and gives a score for each bag: higher
for the positive class. What has parameters takes them from validation.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import log_expit

from mhim_core.evaluation.calibration import fit_temperature
from mhim_core.task import TaskKind
from mhim_core.train.inference import join_logits


class Logits(NamedTuple):
    """Of one model."""

    validation_VC: np.ndarray
    bags_NC: np.ndarray


class Given(NamedTuple):
    """What a rule is given."""

    plain: Logits
    student: Logits
    labels_V: np.ndarray
    """Of validation."""


def log_odds(logits_NC: np.ndarray) -> np.ndarray:
    """(N,) of two classes."""
    return logits_NC[:, 1] - logits_NC[:, 0]


def _sum(given: Given) -> np.ndarray:
    return log_odds(given.plain.bags_NC) + log_odds(given.student.bags_NC)


def _tempered(given: Given) -> list[np.ndarray]:
    """Both models' log-odds, each at the temperature that its validation chooses."""
    return [
        log_odds(model.bags_NC) / (fit_temperature(given.labels_V, model.validation_VC).value or 1.0)
        for model in (given.plain, given.student)
    ]


def _tempered_sum(given: Given) -> np.ndarray:
    return np.sum(_tempered(given), axis=0)


def _mean_probability(given: Given) -> np.ndarray:
    odds = [log_odds(model.bags_NC) for model in (given.plain, given.student)]
    # log of the mean probability over log of the mean of its complement: nothing saturates and ties
    return np.logaddexp(*map(log_expit, odds)) - np.logaddexp(*(log_expit(-value) for value in odds))


def _noisy_or(given: Given) -> np.ndarray:
    """1 − (1 − p)(1 − q), as minus the logarithm of its complement."""
    return -sum(log_expit(-log_odds(model.bags_NC)) for model in (given.plain, given.student))


def _mean_odds(given: Given) -> np.ndarray:
    """What `predict_with=pair` does: like noisy-or where evidence is weak, the models' own odds where they agree."""
    return log_odds(join_logits(given.plain.bags_NC, given.student.bags_NC, TaskKind.classification))


def _tempered_noisy_or(given: Given) -> np.ndarray:
    return -sum(log_expit(-odds) for odds in _tempered(given))


def _standardised(given: Given) -> list[np.ndarray]:
    """Both models' log-odds, each by the mean and deviation of its validation negatives."""
    scaled = []
    for model in (given.plain, given.student):
        negative = log_odds(model.validation_VC)[given.labels_V == 0]
        scaled.append((log_odds(model.bags_NC) - negative.mean()) / max(float(negative.std(ddof=1)), 1e-9))
    return scaled


def _standardised_max(given: Given) -> np.ndarray:
    return np.maximum(*_standardised(given))


def _standardised_sum(given: Given) -> np.ndarray:
    return np.sum(_standardised(given), axis=0)


JOINS: Mapping[str, Callable[[Given], np.ndarray]] = {
    "sum": _sum,
    "tempered sum": _tempered_sum,
    "mean probability": _mean_probability,
    "noisy-or": _noisy_or,
    "mean odds": _mean_odds,
    "tempered noisy-or": _tempered_noisy_or,
    "standardised sum": _standardised_sum,
    "standardised max": _standardised_max,
}
