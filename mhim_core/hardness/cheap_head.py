"""A logistic regression on bag embeddings: seconds where a training takes hours, to look ahead with."""

from typing import NamedTuple

import numpy as np

from mhim_core.hardness.neighbours import standardise
from mhim_core.metrics.arrays import Floats, Ints

MAX_COMPONENTS = 32
_BAGS_PER_COMPONENT = 4
"""Fewer training bags than this a component would fit anything."""


class HeadFold(NamedTuple):
    """What one fold trains and tests on."""

    x_train_ND: Floats
    label_train_N: Ints
    x_test_QD: Floats


def fold_logits(fold: HeadFold, weight_N: Floats, num_classes: int) -> Floats:
    """(Q, C): log-probabilities of the test points by a head fitted with these weights of the training points.

    Features are standardised by all training points, whatever they weigh, and reduced to at most 32 principal
    components of unit variance, one for every four training points; the weights are scaled to a sum of N; the ridge
    penalty is half the squared norm of the coefficients.
    """
    from scipy.optimize import minimize

    train_NP, test_QP = _reduce(fold.x_train_ND, fold.x_test_QD)
    weight_N = weight_N * (len(weight_N) / weight_N.sum())
    target_NC = np.eye(num_classes)[fold.label_train_N]
    shape = (train_NP.shape[1] + 1, num_classes)

    def loss(flat: Floats) -> tuple[float, Floats]:
        coefficient_PC = flat.reshape(shape)
        log_p_NC = _log_probabilities(train_NP, coefficient_PC)
        residual_NC = weight_N[:, None] * (np.exp(log_p_NC) - target_NC)
        gradient = np.vstack([train_NP.T @ residual_NC + coefficient_PC[:-1], residual_NC.sum(axis=0)])
        value = -(weight_N[:, None] * target_NC * log_p_NC).sum() + 0.5 * (coefficient_PC[:-1] ** 2).sum()
        return float(value), gradient.ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return _log_probabilities(test_QP, found.x.reshape(shape))


def _log_probabilities(x_NP: Floats, coefficient_PC: Floats) -> Floats:
    logits_NC = x_NP @ coefficient_PC[:-1] + coefficient_PC[-1]
    log_p_NC: Floats = logits_NC - np.logaddexp.reduce(logits_NC, axis=1, keepdims=True)
    return log_p_NC


def _reduce(train_ND: Floats, test_QD: Floats) -> tuple[Floats, Floats]:
    """The leading components of the training points, each of unit variance there."""
    train_ND, test_QD = np.asarray(train_ND, np.float64), np.asarray(test_QD, np.float64)
    scaled_ND = standardise(train_ND, train_ND)
    _, values, axes = np.linalg.svd(scaled_ND, full_matrices=False)
    most = max(1, min(MAX_COMPONENTS, len(train_ND) // _BAGS_PER_COMPONENT))
    num = min(most, int((values > 1e-8 * max(values[0], 1e-300)).sum()))
    scale = values[:num] / np.sqrt(len(train_ND))
    return scaled_ND @ axes[:num].T / scale, standardise(test_QD, train_ND) @ axes[:num].T / scale
