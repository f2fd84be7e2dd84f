"""Tissue is what differs from the slide's own glass, by its colour, or by a little colour and some darkness.

Pale myxoid or fatty tissue has a saturation of 0.03 where glass has 0.00 ± 0.02: a fixed floor cannot tell them, the
slide's own glass can. Grey dust and shadows are dark and colourless, stray light around tissue is coloured, not dark.
"""

import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_holes, remove_small_objects

from mhim_core.slides.channels import brightest, channel_mean, darkest
from mhim_core.slides.glass import Glass, density_beside, saturation_beside
from mhim_core.slides.spec import GlassRule

_HALO_PX = 3
"""How far smoothing carries strong stain over a faint threshold."""


def tissue_beside_glass(
    pixels: np.ndarray, smooth: np.ndarray, is_seen: np.ndarray, glass: Glass | None, rule: GlassRule
) -> np.ndarray:
    """bool (rows, columns): tissue in a thumbnail at `rule.mask_mpp`, as it is and smoothed.

    `is_seen` leaves out black frames, pen and what cannot be read.
    """
    nothing = np.zeros(is_seen.shape, bool)
    if not is_seen.any():
        return nothing
    if glass is None:
        return is_seen if _is_full(smooth, is_seen, rule) else nothing
    saturation = saturation_beside(smooth, glass.rgb)
    spread = min(rule.glass_spread * glass.saturation_p99, rule.max_glass_saturation)
    density = density_beside(smooth, glass.rgb)
    is_coloured = saturation > max(spread, rule.min_saturation)
    is_faint = (density > rule.min_density) & (saturation > max(spread, rule.faint_saturation))
    is_tissue = (is_coloured | is_faint) & is_seen & (brightest(smooth) >= rule.min_value)
    is_tissue &= ~_halo(is_tissue, pixels, glass, rule)
    return cleaned(is_tissue, rule) & is_seen


def _halo(is_tissue: np.ndarray, pixels: np.ndarray, glass: Glass, rule: GlassRule) -> np.ndarray:
    """bool: the rim that smoothing added, glass as it lies there unsmoothed."""
    ratio = np.clip(pixels / np.float32(255) / glass.rgb.astype(np.float32), 0.01, 1)
    is_glass = -np.log10(channel_mean(ratio)) < rule.min_density / 2
    is_glass &= 1 - darkest(ratio) / brightest(ratio) < rule.min_saturation
    return np.asarray(is_tissue & is_glass & ~ndimage.binary_erosion(is_tissue, iterations=_HALO_PX, border_value=1))


def cleaned(mask: np.ndarray, rule: GlassRule) -> np.ndarray:
    """Without specks, and with small holes filled, by their area."""
    if not mask.any():
        return mask
    pixel_um2 = rule.mask_mpp**2
    mask = remove_small_objects(mask, max_size=int(rule.max_speck_um2 / pixel_um2))
    return np.asarray(remove_small_holes(mask, max_size=int(rule.max_hole_um2 / pixel_um2))) if mask.any() else mask


def _is_full(smooth: np.ndarray, is_seen: np.ndarray, rule: GlassRule) -> bool:
    """No glass anywhere: is the slide full of tissue? Then it is bright, not flat, and not framed by darkness."""
    if is_seen.mean() < 0.5:
        return False
    value, seen = brightest(smooth)[is_seen], smooth[is_seen]
    saturation = 1 - darkest(seen) / np.maximum(brightest(seen), 1e-6)
    return bool(np.median(value) >= rule.min_background_value and saturation.std() > 0.01)
