"""Which of a slide's tiles to embed by a large encoder, told by features of a small one (rows of a feature file).

N tiles, D features. Both rules name rows in ascending order.
"""

import hashlib
import math

import numpy as np

_PROJECTED_DIM = 64
_LEVELS = 255
"""To which projected features are rounded: distances are then sums of integers below 2^24, exact in float32."""
_GROUP_TILES = 16_384
"""Tiles among which the spread is made at once: its cost grows with their square."""


def num_chosen(num_tiles: int, share: float) -> int:
    """How many of them: the share, rounded up; one at least, unless there is none."""
    return min(num_tiles, math.ceil(round(num_tiles * share, 9)))


def highest_rows(scores: np.ndarray, num: int) -> np.ndarray:
    """int64 (num,): the rows of the highest scores (N,); of equal ones the first."""
    return np.sort(np.argsort(-np.asarray(scores, np.float64), kind="stable")[:num])


def spread_rows(features: np.ndarray, num: int) -> np.ndarray:
    """int64 (num,): tiles spread over all that the slide shows, by farthest-point traversal of float16 features (N, D).

    Each next one is the tile that is least like those chosen so far (Gonzalez 1985), the first the one nearest to the
    mean, so that what is rare on a slide is among them. Distances are Euclidean, in a random projection by signs
    (Achlioptas 2003). Sums of float16 by signs are exact in float64, and what follows are integers: the same tiles on
    every machine. More than 16,384 tiles are first dealt out to groups, neighbours to different ones.
    """
    num_tiles, dim = features.shape
    if num >= num_tiles:
        return np.arange(num_tiles)
    values = features.astype(np.float64)
    if dim > _PROJECTED_DIM:
        values = values @ _signs(dim)
    span = np.abs(values).max()
    points = np.rint(values * (_LEVELS / span)) if span else values
    num_groups = min(num, math.ceil(num_tiles / _GROUP_TILES))
    chosen = []
    for group in range(num_groups):
        num_here = num // num_groups + (group < num % num_groups)
        chosen.append(group + num_groups * _traversed(points[group::num_groups], num_here))
    return np.sort(np.concatenate(chosen))


def _traversed(points: np.ndarray, num: int) -> np.ndarray:
    """int64 (num,): rows of points (N, d), whole numbers; each is the farthest from those before, of equal ones the
    first."""
    start = ((points - np.rint(points.mean(axis=0))) ** 2).sum(axis=1).argmin()
    exact = points.astype(np.float32)
    square = (exact * exact).sum(axis=1)
    distance = np.full(len(points), np.inf, np.float32)
    chosen = np.empty(num, np.int64)
    for place in range(num):
        chosen[place] = start if place == 0 else distance.argmax()
        row = chosen[place]
        np.minimum(distance, square - 2 * (exact @ exact[row]) + square[row], out=distance)
        distance[row] = -1  # never again, also where all are alike
    return chosen


def _signs(dim: int) -> np.ndarray:
    """float64 (dim, 64) of -1 and 1, which no version of a random generator can change."""
    stream = hashlib.shake_256(b"mhim tile selection 1").digest(dim * _PROJECTED_DIM // 8)
    return np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(dim, _PROJECTED_DIM) * 2.0 - 1.0
