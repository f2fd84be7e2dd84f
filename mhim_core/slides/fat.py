"""Fat: thin membranes around cells that are empty as glass, 50 to 100 µm wide.

Seen at 8 µm/px it is as pale as myxoid tissue on average; what tells them is that fat is empty in between.
"""

import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_objects

from mhim_core.slides.channels import channel_mean
from mhim_core.slides.glass import Glass

_CELL_PX = 7
"""56 µm, a fat cell's width: so much of fat holds a pixel as empty as glass, of pale tissue it holds none."""
_EMPTY_DENSITY = 0.006
_WINDOW_PX = 25
"""200 µm: a few fat cells."""
_MIN_EMPTY_SHARE = 0.7
_MAX_DENSITY = 0.06
"""Mean optical density of a window: denser is tissue with gaps."""
_MIN_AREA_PX = 782
"""50,000 µm² at 8 µm/px."""


def find_fat(pixels: np.ndarray, is_tissue: np.ndarray, glass: Glass) -> np.ndarray:
    """bool (rows, columns): fat within the tissue of a thumbnail at 8 µm/px."""
    density = -np.log10(np.clip(channel_mean(pixels) / 255 / glass.rgb.mean(), 0.01, 1))
    weight = np.maximum(_window_mean(is_tissue.astype(np.float64)), 1e-6)
    is_by_empty = ndimage.minimum_filter(density, _CELL_PX) < _EMPTY_DENSITY
    empty = _window_mean(is_tissue & is_by_empty) / weight
    mean = _window_mean(np.where(is_tissue, density, 0.0)) / weight
    is_fat = is_tissue & (empty > _MIN_EMPTY_SHARE) & (mean < _MAX_DENSITY)
    return np.asarray(remove_small_objects(is_fat, max_size=_MIN_AREA_PX))


def _window_mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.uniform_filter(values.astype(np.float64), _WINDOW_PX, mode="constant"))
