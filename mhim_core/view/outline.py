"""The outline of a slide's tissue, as polygons in level-0 pixels."""

from typing import NamedTuple

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from mhim_core.features import MppUsed
from mhim_core.slides.reader import SlideReader
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.slides.tissue import find_tissue

_TOLERANCE_PX = 0.75
"""How far a simplified outline may lie from the mask's, in mask pixels (8 µm)."""
_LEAST_POINTS = 8


class TissueOutline(NamedTuple):
    """Closed rings of points (v, 2): x, y in level-0 pixels; holes are rings as well."""

    rings: list[np.ndarray]
    tissue_mm2: float


def outline_of(reader: SlideReader, mpp: MppUsed, spec: TileSpec) -> TissueOutline | None:
    """The tissue as the tiling's rule finds it; None where a file of the user's says what tissue is.

    Raises SlideError where the slide cannot be read.
    """
    if spec.tissue in (TissueMethod.mask, TissueMethod.file):
        return None
    found = find_tissue(reader, mpp, spec)
    return TissueOutline(_rings(found.mask.is_tissue, found.mask.mask_mpp, mpp), found.view.tissue_mm2)


def _rings(is_tissue: np.ndarray, mask_mpp: float, mpp: MppUsed) -> list[np.ndarray]:
    padded = np.pad(is_tissue.astype(np.float32), 1)
    to_l0 = np.array([mask_mpp / mpp.x, mask_mpp / mpp.y])
    rings = []
    for contour in find_contours(padded, 0.5):
        simple = approximate_polygon(contour, _TOLERANCE_PX)
        if len(contour) < _LEAST_POINTS or len(simple) < 4:
            continue
        # contours run through pixel centres of the padded mask: half a pixel off its corners
        rings.append((simple[:, ::-1] - 0.5) * to_l0)
    return rings
