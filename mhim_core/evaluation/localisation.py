"""Does the attention lie where the disease is? It is compared with outlines drawn by a pathologist or by the demo.

Shapes: N tiles of one slide, without overlap.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

INSIDE = 0.25
"""Least share of a tile's area inside an outline for the tile to count as inside."""


def attention_dice(attention_N: ArrayLike, share_N: ArrayLike) -> float:
    """Dice's coefficient of two areas, 0 to 1: the tiles that got more than an even share of attention, 1/N of its sum,
    and what is inside the outlines (Dice 1945: twice the common area over the sum of both).

    `share_N`: of each tile's area inside the outlines, 0 to 1. The threshold does not depend on the outlines. NaN where
    nothing is inside.
    """
    attention, share = _checked(attention_N, share_N)
    is_attended = attention > attention.sum() / max(len(attention), 1)
    if not share.any():
        return float("nan")
    return float(2 * share[is_attended].sum() / (is_attended.sum() + share.sum()))


def share_of_top(attention_N: ArrayLike, share_N: ArrayLike, num: int = 10) -> float:
    """The share, 0 to 1, of the `num` most attended tiles that lie inside (INSIDE); ties by the lower index.

    A slide with fewer tiles inside than `num` cannot reach 1: see `most_of_top`. NaN for a slide without tiles.
    """
    attention, share = _checked(attention_N, share_N)
    top = np.argsort(-attention, kind="stable")[:num]
    return float((share[top] >= INSIDE).mean()) if len(top) else float("nan")


def most_of_top(share_N: ArrayLike, num: int = 10) -> float:
    """The largest value that `share_of_top` can have on this slide."""
    share = np.asarray(share_N, dtype=np.float64)
    shown = min(num, len(share))
    return float(min((share >= INSIDE).sum(), shown) / shown) if shown else float("nan")


def _checked(attention_N: ArrayLike, share_N: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    attention, share = np.asarray(attention_N, dtype=np.float64), np.asarray(share_N, dtype=np.float64)
    if attention.ndim != 1 or attention.shape != share.shape:
        raise ValueError(f"attention has shape {attention.shape} and shares {share.shape}; both are (N,)")
    return attention, share
