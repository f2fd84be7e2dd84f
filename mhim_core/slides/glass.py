"""The slide's own glass: its colour, how far it strays, and how much darker than it a pixel is."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mhim_core.slides.channels import brightest, channel_mean, darkest
from mhim_core.slides.spec import GlassRule

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_MIN_SHARE = 0.005
"""Of the scanned area that must look like glass before it is believed to be."""
_MIN_SHARE_AMID_BLACK = 0.1
"""The same where most of the slide is black: fluorescence has bright spots, a framed scan has glass."""
_MAX_OWN_SATURATION = 0.1
"""Beyond it a bright surface is stain, not tinted glass."""
_PADDING = 254
"""All channels at least this: an over-exposed glass or what a converter painted around the scan."""
_MIN_PEAK = 0.4
"""Share of the pixels around the brightest peak that lie within ±2 levels of it: glass is narrow, pale tissue wide."""
_MAX_TINT = 0.03
"""Saturation of glass beside pure white: pale tissue has more."""
_MIN_FRAME_PX = 625
"""40,000 µm² at 8 µm/px: smaller black is dust, a fold or pigment."""
_FRAME_EDGE_PX = 2


class Glass(NamedTuple):
    """What bare glass looks like on this slide."""

    rgb: np.ndarray
    """float64 (3,), 0 to 1."""
    saturation_p99: float
    """99th percentile of the glass's own saturation, once divided by its colour."""


def find_glass(pixels: np.ndarray, smooth: np.ndarray, is_scanned: np.ndarray, rule: GlassRule) -> Glass | None:
    """The glass of a thumbnail, uint8 (rows, columns, 3), and `smoothed`; None where nothing on it looks like glass.

    It is the most frequent luminance among bright pixels of little colour. Pure white counts only where no darker
    glass is there: converters pad with it.
    """
    luminance = np.rint(smooth @ _LUMINANCE * 255).astype(np.int64)
    value = brightest(smooth)
    is_bright = is_scanned & (luminance >= rule.min_background_value * 255)
    is_bright &= 1 - darkest(smooth) / np.maximum(value, 1e-6) <= _MAX_OWN_SATURATION
    is_padding = darkest(pixels) >= _PADDING
    for candidates in (is_bright & ~is_padding, is_bright):
        peak = _peak(luminance[candidates])
        if peak is None:
            continue
        is_glass = candidates & (np.abs(luminance - peak) <= 2)
        around = candidates & (np.abs(luminance - peak) <= 15)
        least = _MIN_SHARE if is_scanned.mean() > 0.5 else _MIN_SHARE_AMID_BLACK
        if is_glass.sum() < max(1, least * is_scanned.sum()):
            continue
        rgb = np.median(smooth[is_glass], axis=0)
        is_all = candidates is is_bright or not (is_bright & is_padding).any()
        if not is_all and (is_glass.sum() < _MIN_PEAK * around.sum() or 1 - rgb.min() / rgb.max() > _MAX_TINT):
            continue  # pale tissue on pure white glass is no glass
        own = saturation_beside(smooth, rgb)[is_glass]
        return Glass(rgb, float(np.percentile(own, 99)))
    return None


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """float32 (rows, columns, 3), 0 to 1: JPEG and sensor noise out, edges of 10 µm in."""
    return _blurred(pixels.astype(np.float32) / 255)


def saturation_beside(smooth: np.ndarray, glass_rgb: np.ndarray) -> np.ndarray:
    """HSV saturation of the picture as if its glass were neutral, float32 (rows, columns)."""
    balanced = _blurred(np.clip(smooth / glass_rgb.astype(np.float32), 0, 1))
    return np.asarray(1 - darkest(balanced) / np.maximum(brightest(balanced), 1e-6))


def density_beside(smooth: np.ndarray, glass_rgb: np.ndarray) -> np.ndarray:
    """Optical density of the channels' mean against the glass, float32 (rows, columns); glass is 0."""
    ratio = ndimage.gaussian_filter(channel_mean(smooth), 1.0, mode="nearest") / np.float32(glass_rgb.mean())
    return np.asarray(-np.log10(np.clip(ratio, 0.01, 1)))


def is_black_frame(pixels: np.ndarray, rule: GlassRule) -> np.ndarray:
    """bool (rows, columns): black areas too large for a fold or dust, with the grey that blurs their edges."""
    labels, num = ndimage.label(brightest(pixels) < rule.min_value * 255)
    sizes = np.bincount(labels.ravel(), minlength=num + 1)
    is_frame = sizes > _MIN_FRAME_PX
    is_frame[0] = False
    return np.asarray(ndimage.binary_dilation(is_frame[labels], iterations=_FRAME_EDGE_PX))


def _peak(luminance: np.ndarray) -> int | None:
    if not luminance.size:
        return None
    # over five levels: a smoothed peak, not the luckiest level
    counts = np.bincount(luminance, minlength=258).astype(np.float64)
    return int(np.convolve(counts, [0.5, 1, 1, 1, 0.5], "same").argmax())


def _blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(picture, (1.0, 1.0, 0), mode="nearest"))
