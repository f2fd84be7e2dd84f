"""Whether a slide's colours were read wrongly: channels in another order, or of another colour space."""

import numpy as np

from mhim_core.slides.glass import Glass

_MIN_SHARE = 0.2
"""Of the scan in the colour that glass would have."""
_NEUTRAL, _AROUND = 128, 8
"""The chroma of what is grey, and how far glass strays from it."""
_MAX_RED_BLUE = 1.5
"""Density of red against blue over all tissue. Of 24 H&E slides it is 0.4 to 1.3; swapped, eosin is blue."""
_MIN_TISSUE_PX = 1_000


def colour_warning(pixels: np.ndarray, is_read: np.ndarray, is_tissue: np.ndarray, glass: Glass | None) -> str:
    """What a person should look at, of a thumbnail uint8 (rows, columns, 3); empty: nothing.

    A swap of red and blue is seen on slides with much eosin only: haematoxylin swapped looks like eosin.
    """
    red, green, blue = np.moveaxis(pixels, -1, 0)
    num_read = max(1, int(is_read.sum()))

    def share(is_so: np.ndarray) -> float:
        return float((is_so & is_read).sum()) / num_read

    def is_neutral(channel: np.ndarray) -> np.ndarray:
        return np.asarray((channel >= _NEUTRAL - _AROUND) & (channel <= _NEUTRAL + _AROUND))

    if share(is_neutral(green) & is_neutral(blue) & (red > 180)) > _MIN_SHARE:
        return "its glass is salmon: YCbCr was read as RGB; look at how the file states its colours"
    if share((red > 230) & (blue > 230) & (green < 170)) > _MIN_SHARE:
        return "its glass is magenta: RGB was read as YCbCr; look at how the file states its colours"
    if glass is None or is_tissue.sum() < _MIN_TISSUE_PX:
        return ""
    density = -np.log10(np.clip(pixels[is_tissue] / 255 / glass.rgb, 0.004, 1)).mean(axis=0)
    if density[0] > _MAX_RED_BLUE * density[2]:
        return "its tissue is blue: if it is stained with H&E, red and blue are swapped in the file"
    return ""
