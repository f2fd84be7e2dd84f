"""Folds of the tissue: several layers on each other, darker and more saturated than the tissue around.

After Kothari et al. (J Pathol Inform 2013, 4:22): the difference of saturation and intensity, and two thresholds, a
hard one and a soft one for what touches it. Theirs follow the number of objects and find something on every slide; here
they follow from what a fold is. Light goes through two layers, so that densities add up: a pixel is folded where it is
as dark and saturated as two layers of this slide's denser tissue. Blood, dense crypts and keratin can be so too.
"""

import numpy as np
from scipy import ndimage

from mhim_core.slides.channels import channel_mean, darkest
from mhim_core.slides.glass import Glass

_DENSER = 75.0
"""Percentile of the tissue's density that stands for a single layer: where half is stroma, half tumour, the tumour."""
_NEAR = 0.1
"""Relative width around it, from which the layer's colour is taken."""
_HARD_LAYERS, _SOFT_LAYERS = 2.0, 1.5
_MIN_DENSITY = 0.25
"""Optical density below which nothing is a fold: two layers of pale tissue are as dark as one of other tissue."""
_MIN_FOLD_PX = 60
"""4,000 µm² at 8 µm/px: a fold is 50 µm wide and more, and long; nuclei are smaller."""
_EDGE_PX = 5
"""How far from the hard threshold the soft one holds."""
_AROUND = np.ones((3, 3), bool)


def find_folds(smooth: np.ndarray, glass: Glass | None, is_tissue: np.ndarray) -> np.ndarray:
    """bool (rows, columns): folds in the tissue of a smoothed thumbnail at 8 µm/px; none where there is no glass."""
    if glass is None or not is_tissue.any():
        return np.zeros(is_tissue.shape, bool)
    light = np.clip(smooth / glass.rgb.astype(np.float32), 0.01, 1)
    density = -np.log10(light[is_tissue])
    layer = _layer(density)
    saturation, difference = _saturation(light), _saturation(light) - channel_mean(light)
    is_candidate = is_tissue & (channel_mean(-np.log10(light)) > _MIN_DENSITY)
    is_candidate &= saturation > _saturation(10**-layer)  # dust and pigment are dark, and no more saturated
    hard, soft = (
        is_candidate & (difference > _saturation(10 ** (-num * layer)) - (10 ** (-num * layer)).mean())
        for num in (_HARD_LAYERS, _SOFT_LAYERS)
    )
    return _large(hard | (soft & ndimage.binary_dilation(hard, iterations=_EDGE_PX)))


def _layer(density: np.ndarray) -> np.ndarray:
    """Density of one layer in each channel, (3,); `density`: (N, 3), of the tissue."""
    mean = density.mean(axis=1)
    usual = np.percentile(mean, _DENSER)
    return np.asarray(np.median(density[np.abs(mean - usual) <= _NEAR * usual], axis=0))


def _saturation(light: np.ndarray) -> np.ndarray:
    """Of HSI, (…) of (…, 3)."""
    return np.asarray(1 - darkest(light) / np.maximum(channel_mean(light), 1e-6))


def _large(mask: np.ndarray) -> np.ndarray:
    labels, num = ndimage.label(mask, _AROUND)
    is_large = np.bincount(labels.ravel(), minlength=num + 1) >= _MIN_FOLD_PX
    is_large[0] = False
    return np.asarray(is_large[labels])
