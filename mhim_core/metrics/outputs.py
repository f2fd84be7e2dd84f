"""From logits to class probabilities, survival curves and risks. The only place that converts them.

Shapes: C classes or time bins, on the last axis; any axes before it. float64 throughout.
"""

import numpy as np

from mhim_core.metrics.arrays import Floats


def softmax(logits: Floats, temperature: "float | Floats" = 1.0) -> Floats:
    """(N, C) probabilities of logits divided by a temperature, one or (N,)."""
    scaled_NC = np.asarray(logits, dtype=np.float64) / np.reshape(temperature, (-1, 1))
    power_NC = np.exp(scaled_NC - scaled_NC.max(axis=-1, keepdims=True))
    return np.asarray(power_NC / power_NC.sum(axis=-1, keepdims=True))


def survival_curve(logits: Floats) -> Floats:
    """S_t = ∏_{u≤t} (1 − h_u), h = σ(logit): discrete-time survival, falling from bin to bin (Zadeh & Schmid, 2020)."""
    return np.asarray(np.exp(np.cumsum(-np.logaddexp(0.0, np.asarray(logits, dtype=np.float64)), axis=-1)))


def survival_risk(logits: Floats) -> Floats:
    """−Σ_t S_t, in −C … 0; higher means an earlier event is expected."""
    return np.asarray(-survival_curve(logits).sum(axis=-1))
