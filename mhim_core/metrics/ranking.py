"""Scores to order slides by, from logits.

Float64 probabilities end at 1 − 1e-16: logits that differ by more than about 37 give the probability 1, and slides that
a model tells apart would tie. The log-odds of the same probabilities keep their order.
"""

import numpy as np
from numpy.typing import ArrayLike

from mhim_core.metrics.arrays import Floats


def ranking_scores(logits: ArrayLike) -> Floats:
    """(N, C): each class's log-odds, log p/(1 − p), from logits (N, C), C ≥ 2.

    That is logit_c − logsumexp of the others; of two classes the second column is logit_1 − logit_0. They order slides
    as the probabilities do where those do not saturate, and are no probabilities. A row that is not finite stays so.
    """
    logits_NC = np.asarray(logits, dtype=np.float64)
    if logits_NC.ndim != 2 or logits_NC.shape[1] < 2:
        raise ValueError(f"logits have shape {logits_NC.shape}; (N, C) with C ≥ 2 is needed")
    others_NCC = np.where(np.eye(logits_NC.shape[1], dtype=bool), -np.inf, logits_NC[:, None, :])
    peak_NC = others_NCC.max(axis=2)
    with np.errstate(invalid="ignore"):
        log_sum_NC = np.log(np.exp(others_NCC - peak_NC[:, :, None]).sum(axis=2)) + peak_NC
        return np.asarray(logits_NC - log_sum_NC)
