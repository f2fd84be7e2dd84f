"""Concordance for patients with weights: (R, N) weights, (N,) times, events, risks → (R,) results.

R bootstrap replicates, N patients, E of them a block with an event. All pairs of an event with everybody are compared,
a block at a time, and one matrix product serves all replicates: 2,000 of 1,000 patients take about a second.
"""

import numpy as np

from mhim_core.metrics.arrays import Bools, Floats, divide

_MAX_PAIRS = 1_000_000
"""Compared at a time: a few arrays of 8 MB."""


def concordance(weights_RN: Floats, time_N: Floats, event_N: Bools, risk_N: Floats, event_weight_N: Floats) -> Floats:
    """Share of comparable pairs in which the earlier event has the higher risk, equal risks counted half.

    A pair is an event and a patient whose time is later, or equal and censored; it counts `event_weight` of the event.
    """
    won_R, compared_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    events = np.flatnonzero(event_N & (event_weight_N > 0))
    size = max(1, _MAX_PAIRS // max(1, len(time_N)))
    for start in range(0, len(events), size):
        block_E = events[start : start + size]
        time_E1, risk_E1 = time_N[block_E, None], risk_N[block_E, None]
        later_EN = (time_N > time_E1) | ((time_N == time_E1) & ~event_N)
        win_EN = (later_EN & (risk_N < risk_E1)) + 0.5 * (later_EN & (risk_N == risk_E1))
        mass_RE = weights_RN[:, block_E] * event_weight_N[block_E]
        compared_R += (mass_RE * (weights_RN @ later_EN.T.astype(np.float64))).sum(axis=1)
        won_R += (mass_RE * (weights_RN @ win_EN.T)).sum(axis=1)
    return divide(won_R, compared_R)
