"""Reductions over a picture's three channels, faster than numpy's over `axis=-1`, which goes pixel by pixel.

Of integers, float32 and float64 they give the same bits.
"""

import functools

import numpy as np


def brightest(pixels: np.ndarray) -> np.ndarray:
    """The largest of the channels, (rows, columns) of a picture (rows, columns, channels)."""
    return np.asarray(functools.reduce(np.maximum, np.moveaxis(pixels, -1, 0)))


def darkest(pixels: np.ndarray) -> np.ndarray:
    """The smallest of the channels, (rows, columns) of a picture (rows, columns, channels)."""
    return np.asarray(functools.reduce(np.minimum, np.moveaxis(pixels, -1, 0)))


def channel_mean(pixels: np.ndarray) -> np.ndarray:
    """The channels' mean, (rows, columns); float64 of integers."""
    first, *others = np.moveaxis(pixels, -1, 0)
    total = first.astype(np.result_type(pixels, np.float32) if pixels.dtype.kind == "f" else np.float64)
    for channel in others:
        total += channel
    total /= total.dtype.type(pixels.shape[-1])
    return np.asarray(total)
