"""Colours as another scanner or laboratory would have made them: Macenko's and Reinhard's ways, one transform a slide.

A slide's statistics are taken once, of stained pixels of tiles all over it, and every tile is transformed alike: of
each tile alone they would say more of what it shows than of the stain, and pale tiles would be torn to full strength.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mhim_core.slides.spec import COLOUR_RULES, ColourMethod

_WHITE = 240.0
"""Intensity of unstained light, of both papers' code."""
_MIN_STAIN = 0.15
"""Optical density (natural logarithm) of stained pixels."""
_DENSITIES = -np.log((np.arange(256) + 1) / _WHITE)
"""Of the 256 levels."""
_PERCENTILE = 1.0
_MIN_PIXELS = 1_000
"""Stained, of which anything can be told."""

_MACENKO_STAINS = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
"""Optical density of haematoxylin and eosin in red, green and blue (Macenko et al., ISBI 2009; Veta's code)."""
_MACENKO_STRENGTHS = np.array([1.9705, 1.0308])
"""99th percentile of their concentrations, of the same reference."""

_RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
"""Of logarithms, after Ruderman (Reinhard et al., IEEE CG&A 2001)."""
_REINHARD_MEAN = np.array([8.74108109, -0.12440419, 0.0444982])
_REINHARD_DEVIATION = np.array([0.6135447, 0.10989545, 0.0286032])
"""Of TCGA-A2-A3XS-DX1, as Amgad et al. (Bioinformatics 2019) published them."""


class ColourTransform(NamedTuple):
    """logarithms → matrix · logarithms + offset; of intensities (Macenko), or of cones' responses (Reinhard)."""

    method: ColourMethod
    matrix: np.ndarray
    """float64 (3, 3)."""
    offset: np.ndarray
    """float64 (3,)."""

    def apply(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 (…, 3), RGB, of the same shape."""
        made = np.empty_like(tiles)
        for tile, into in zip(tiles, made, strict=True):  # one by one: they stay in the processor's cache
            into[:] = self._applied(tile)
        return made

    def _applied(self, pixels: np.ndarray) -> np.ndarray:
        if self.method is ColourMethod.macenko:
            values = [np.float32(_WHITE) * np.exp(-total) for total in _mixed_levels(self.matrix, _DENSITIES, pixels)]
            return _to_bytes(values)
        cones = [np.log(total) for total in _mixed_levels(_RGB_TO_LMS, np.maximum(np.arange(256), 1), pixels)]
        moved = [np.exp(total) for total in _mixed(self.matrix, cones, self.offset)]
        # the statistics are of stained pixels: glass keeps its colour, and what is faint is between
        (density,) = _mixed_levels(np.full((1, 3), 1 / 3), _DENSITIES, pixels)
        weight = np.clip(density / np.float32(_MIN_STAIN), 0, 1)
        values = list(_mixed(np.linalg.inv(_RGB_TO_LMS), moved, np.zeros(3)))
        return _to_bytes([weight * value + (1 - weight) * pixels[..., i] for i, value in enumerate(values)])


def fit_colour(pixels: np.ndarray, method: ColourMethod) -> ColourTransform | None:
    """The transform of a slide to the reference, from a sample of its pixels, uint8 (n, 3).

    None where too few of them are stained, or all alike.
    """
    density = _DENSITIES[pixels]
    if method is ColourMethod.macenko:
        return _fit_macenko(density)
    stained = pixels[density.mean(axis=1) >= _MIN_STAIN]
    if len(stained) < _MIN_PIXELS:
        return None
    lab = np.log(np.maximum(stained, 1) @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T
    mean, deviation = lab.mean(axis=0), lab.std(axis=0)
    if (deviation < 1e-6).any():
        return None
    inverse = np.linalg.inv(_LMS_TO_LAB)
    scale = np.diag(_REINHARD_DEVIATION / deviation)
    matrix = inverse @ scale @ _LMS_TO_LAB
    return ColourTransform(method, matrix, inverse @ (_REINHARD_MEAN - scale @ mean))


def _fit_macenko(density: np.ndarray) -> ColourTransform | None:
    """Haematoxylin and eosin are the extreme directions of the stained pixels' plane of greatest variance."""
    stained = density[(density >= _MIN_STAIN).all(axis=1)]
    if len(stained) < _MIN_PIXELS:
        return None
    values, vectors = np.linalg.eigh(np.cov(stained.T))
    if values[1] < 1e-9:
        return None  # one stain alone
    plane = vectors[:, [1, 2]]  # the second, and the first
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)  # an eigenvector's sign is any, and angles must not wrap around
    across, along = (stained @ plane).T
    extremes = np.percentile(np.arctan2(along, across), [_PERCENTILE, 100 - _PERCENTILE])
    one, other = (plane @ np.stack([np.cos(extremes), np.sin(extremes)])).T
    stains = np.stack([one, other] if one[0] > other[0] else [other, one], axis=1)  # haematoxylin absorbs more red
    amounts = np.linalg.lstsq(stains, density.T, rcond=None)[0]
    strengths = np.percentile(amounts, 99, axis=1)
    if (strengths < 1e-3).any():
        return None
    matrix = _MACENKO_STAINS @ np.diag(_MACENKO_STRENGTHS / strengths) @ np.linalg.pinv(stains)
    return ColourTransform(ColourMethod.macenko, matrix, np.zeros(3))


def _mixed_levels(matrix: np.ndarray, of_level: np.ndarray, pixels: np.ndarray) -> Iterator[np.ndarray]:
    """float32 (…,) for each row: matrix · of_level[pixels], by tables, since there are 256 levels alone."""
    for row in matrix:
        tables = (row[:, None] * of_level).astype(np.float32)
        total = tables[0][pixels[..., 0]]
        total += tables[1][pixels[..., 1]]
        total += tables[2][pixels[..., 2]]
        yield total


def _mixed(matrix: np.ndarray, channels: list[np.ndarray], offset: np.ndarray) -> Iterator[np.ndarray]:
    for row, constant in zip(matrix.astype(np.float32), offset.astype(np.float32), strict=True):
        yield row[0] * channels[0] + row[1] * channels[1] + row[2] * channels[2] + constant


def _to_bytes(channels: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.rint(np.clip(channel, 0, 255)).astype(np.uint8) for channel in channels], axis=-1)


assert COLOUR_RULES.keys() == {ColourMethod.macenko, ColourMethod.reinhard}
