"""The tissue finder of version 0.1: saturation at a fixed µm/px, Otsu within bounds, cleaned by area.

Works on what all stains share: tissue is coloured and glass is not (Otsu 1979 on HSV saturation, as CLAM and TRIDENT's
classical path do). The guards refuse what is no bright-field picture: fluorescence, label masks, flat colours, blanks.
"""

import numpy as np
from skimage.color import rgb2hsv
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from mhim_core.slides.reader import Thumbnail
from mhim_core.slides.spec import TissueRule


def tissue_of(thumbnail: Thumbnail, rule: TissueRule) -> np.ndarray:
    """bool (rows, columns): tissue in a thumbnail taken at `rule.mask_mpp`."""
    saturation, value = _saturation_and_value(thumbnail.pixels, rule)
    is_seen = ~thumbnail.is_unreadable & (value >= rule.min_value)
    nothing = np.zeros(is_seen.shape, bool)
    if not is_seen.any():
        return nothing
    seen = saturation[is_seen]
    threshold = threshold_otsu(seen) if np.ptp(seen) > 0 else 1.0
    threshold = min(max(float(threshold), rule.min_saturation), rule.max_saturation)
    is_tissue = is_seen & (saturation > threshold)
    is_glass = ~is_tissue & ~thumbnail.is_unreadable
    if not is_tissue.any() or not _is_bright_field(saturation, value, is_tissue, is_glass, rule):
        return nothing
    pixel_um2 = rule.mask_mpp**2
    is_tissue = remove_small_objects(is_tissue, max_size=int(rule.max_speck_um2 / pixel_um2))
    return np.asarray(remove_small_holes(is_tissue, max_size=int(rule.max_hole_um2 / pixel_um2)))


def _saturation_and_value(pixels: np.ndarray, rule: TissueRule) -> tuple[np.ndarray, np.ndarray]:
    """HSV saturation and value, float64 (rows, columns), of the lightly smoothed picture."""
    smooth = gaussian(pixels.astype(np.float64) / 255, sigma=1.0, channel_axis=-1, mode="nearest")
    hsv = rgb2hsv(np.clip(smooth, 0, 1))
    return hsv[..., 1], hsv[..., 2]


def _is_bright_field(
    saturation: np.ndarray, value: np.ndarray, is_tissue: np.ndarray, is_glass: np.ndarray, rule: TissueRule
) -> bool:
    """Bright where no tissue is, and tissue stands out; a slide full of tissue is judged by its own brightness."""
    if not is_glass.any():
        return bool(np.median(value[is_tissue]) >= rule.min_background_value and saturation.std() > 0.01)
    if np.median(value[is_glass]) < rule.min_background_value:
        return False
    return bool(saturation[is_tissue].mean() - saturation[is_glass].mean() >= rule.min_contrast)
