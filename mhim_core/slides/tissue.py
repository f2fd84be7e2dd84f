"""Finding tissue on a bright-field slide, and saying what else was seen there.

Two rules: `tissue_glass`, relative to the slide's own glass, and `tissue_otsu`, that of version 0.1. What a slide holds
beside tissue (pen, black frames, what is darker than glass and yet not taken) is measured the same way under both.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mhim_core.features import MppUsed, SlideView
from mhim_core.slides.colour_check import colour_warning
from mhim_core.slides.fat import find_fat
from mhim_core.slides.folds import find_folds
from mhim_core.slides.glass import density_beside, find_glass, is_black_frame, smoothed
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.pen import find_pen
from mhim_core.slides.reader import SlideReader, Thumbnail
from mhim_core.slides.segmenter import SegmenterFile, segment
from mhim_core.slides.spec import GLASS_RULE, TISSUE_RULE, TileSpec, TissueMethod
from mhim_core.slides.tissue_glass import cleaned, tissue_beside_glass
from mhim_core.slides.tissue_mask import read_mask
from mhim_core.slides.tissue_otsu import tissue_of

_EDGE_PX = 2
"""Around tissue, darker than glass by blur."""


class FoundTissue(NamedTuple):
    """The mask, and what was seen of the slide."""

    mask: TissueMask
    view: SlideView
    pen: TissueMask
    """Where ink lies."""
    folds: TissueMask | None
    """Where the tissue is folded; None: nobody asked."""


def find_tissue(
    reader: SlideReader,
    mpp: MppUsed,
    spec: TileSpec,
    mask: bytes | None = None,
    segmenter: SegmenterFile | None = None,
) -> FoundTissue:
    """The slide's tissue at 8 µm/px.

    `mask`: with tissue=mask, the file that holds it; `segmenter`: the file of tissue=file. Raises SlideError as
    `SlideReader.thumbnail` does, BAD_ANNOTATION for a mask that is not this slide's and for a file that fails,
    NO_ANNOTATION where there is no mask.
    """
    thumbnail = reader.thumbnail(mpp, GLASS_RULE.mask_mpp)
    stated = None
    if spec.tissue is TissueMethod.mask:
        stated = read_mask(mask, reader.info(), mpp, thumbnail.is_unreadable.shape)
    elif spec.tissue is TissueMethod.file:
        stated = segment(segmenter, spec.tissue_sha256, thumbnail.pixels)
    seen = tissue_and_view(thumbnail, spec, stated)
    # what cannot be read is unknown, not empty: planned, it meets the tile reader and is recorded as bad there
    is_tissue = seen.is_tissue | thumbnail.is_unreadable
    tissue, pen = (TissueMask(is_tissue=found, mask_mpp=GLASS_RULE.mask_mpp) for found in (is_tissue, seen.is_pen))
    if seen.is_fold is None:
        return FoundTissue(tissue, seen.view, pen, None)
    return FoundTissue(tissue, seen.view, pen, TissueMask(is_tissue=seen.is_fold, mask_mpp=GLASS_RULE.mask_mpp))


class SeenThumbnail(NamedTuple):
    """What lies where in a thumbnail, bool (rows, columns) each, and the shares of what it shows."""

    is_tissue: np.ndarray
    view: SlideView
    is_pen: np.ndarray
    is_fold: np.ndarray | None
    """None: nobody asked."""


def tissue_and_view(thumbnail: Thumbnail, spec: TileSpec, stated: np.ndarray | None = None) -> SeenThumbnail:
    """Tissue and pen in a thumbnail taken at 8 µm/px, and the shares of what it shows.

    `stated`: the tissue where another than the thumbnail's finders says it, bool (rows, columns).
    """
    smooth = smoothed(thumbnail.pixels)
    is_black = is_black_frame(thumbnail.pixels, GLASS_RULE)
    is_scanned = ~thumbnail.is_unreadable & ~is_black
    glass = find_glass(thumbnail.pixels, smooth, is_scanned, GLASS_RULE)
    is_pen = np.zeros(is_scanned.shape, bool) if glass is None else find_pen(smooth, glass, is_scanned)
    if stated is not None:
        is_tissue = stated
    elif spec.tissue is TissueMethod.otsu:
        is_tissue = tissue_of(thumbnail, TISSUE_RULE)
    else:
        is_seen = is_scanned if spec.keep_pen else is_scanned & ~is_pen
        is_tissue = tissue_beside_glass(thumbnail.pixels, smooth, is_seen, glass, GLASS_RULE)
        if not spec.keep_fat and glass is not None and is_tissue.any():
            is_tissue = cleaned(is_tissue & ~find_fat(thumbnail.pixels, is_tissue, glass), GLASS_RULE)
    is_read = ~thumbnail.is_unreadable
    if glass is None:
        is_left_out = np.zeros(is_tissue.shape, bool)
    else:
        is_left_out = (density_beside(smooth, glass.rgb) > GLASS_RULE.min_density) & is_scanned & ~is_pen
        is_left_out &= ~ndimage.binary_dilation(is_tissue | is_black | is_pen, iterations=_EDGE_PX)
    is_fold = find_folds(smooth, glass, is_tissue & is_scanned) if spec.judges_folds else None
    num_read = max(1, int(is_read.sum()))
    pixel_mm2 = (GLASS_RULE.mask_mpp / 1000) ** 2
    view = SlideView(
        tissue_mm2=round(float(is_tissue.sum()) * pixel_mm2, 4),
        left_out_mm2=round(float(is_left_out.sum()) * pixel_mm2, 4),
        pen_share=round(float(is_pen.sum()) / num_read, 6),
        black_share=round(float((is_black & is_read).sum()) / num_read, 6),
        glass_rgb=None if glass is None else tuple(int(v) for v in np.rint(glass.rgb * 255)),
        colour=colour_warning(thumbnail.pixels, is_read, is_tissue, glass),
        fold_share=None if is_fold is None else round(float(is_fold.sum()) / max(1, int(is_tissue.sum())), 6),
    )
    return SeenThumbnail(is_tissue, view, is_pen, is_fold)
