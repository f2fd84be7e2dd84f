"""Pen on the glass: blue, green and red marks, distinguished from stain by the channel that they absorb.

Under haematoxylin and eosin green is absorbed most: density red/green stays below 1.05 on every slide measured, blue
and green ink are above 1.2. Red ink absorbs green and blue alike and no red; blood and DAB absorb some red. Black ink
has no colour and is no tissue anyway.
"""

import numpy as np
from scipy import ndimage

from mhim_core.slides.channels import brightest
from mhim_core.slides.glass import Glass

_MIN_DENSITY = 0.12
_BLUE_GREEN = 1.2
"""Least red/green density of blue and green ink."""
_EDGE = 1.05
"""The same at a mark's blurred edge."""
_RED_MIN_DENSITY, _RED_MAX_RED, _RED_MIN_BLUE = 0.3, 0.12, 0.85
_MIN_MARK_PX = 625
"""40,000 µm² at 8 µm/px: a pen's line is 300 µm wide and more; pigment and refraction are smaller."""
_EDGE_PX = 4


def find_pen(smooth: np.ndarray, glass: Glass, is_scanned: np.ndarray) -> np.ndarray:
    """bool (rows, columns): ink in a smoothed thumbnail at 8 µm/px, its edges included."""
    density = -np.log10(np.clip(smooth / glass.rgb.astype(np.float32), 0.004, 1))
    red, green, blue = np.moveaxis(density, -1, 0)
    is_blue_green = (red > _MIN_DENSITY) & (red > _BLUE_GREEN * green)
    is_red = (green > _RED_MIN_DENSITY) & (red < _RED_MAX_RED * green) & (blue > _RED_MIN_BLUE * green)
    core = _large((is_blue_green | is_red) & is_scanned)
    if not core.any():
        return core
    near = ndimage.binary_dilation(core, iterations=_EDGE_PX)
    is_edge = (red > _EDGE * green) | (red < _RED_MAX_RED * green)
    return np.asarray(core | (near & is_edge & is_scanned & (brightest(density) > 0.01)))


def _large(mask: np.ndarray) -> np.ndarray:
    labels, num = ndimage.label(mask)
    is_large = np.bincount(labels.ravel(), minlength=num + 1) > _MIN_MARK_PX
    is_large[0] = False
    return np.asarray(is_large[labels])
