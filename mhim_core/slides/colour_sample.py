"""The pixels that a slide's colours are told by: of tiles all over its tissue, at the resolution that is encoded."""

from dataclasses import replace

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.slides.colour import ColourTransform, fit_colour
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.reader import SlideReader
from mhim_core.slides.spec import ColourMethod
from mhim_core.types import FailureReason

_NUM_TILES = 64
_EVERY_PX = 4
"""Of rows and of columns: neighbours are alike."""


def slide_colour(reader: SlideReader, plan: TilePlan, method: ColourMethod) -> ColourTransform | None:
    """The slide's transform, by up to 64 tiles evenly placed in the plan; None where too little is stained.

    Where the file is broken it is no part of the sample; whether the slide can bear it is settled when its tiles are
    read. Raises SlideError for any other reason, such as a staging disk that is full: the colours would be others.
    """
    chosen = np.unique(np.linspace(0, len(plan) - 1, min(len(plan), _NUM_TILES)).round().astype(int))
    reader.expect(_only(plan, chosen))
    pixels = [np.empty((0, 3), np.uint8)]
    for index in chosen:
        try:
            batches = list(reader.tiles(_only(plan, np.array([index]))))
        except SlideError as error:
            if error.reason is not FailureReason.READ:
                raise
            continue
        pixels += [batch.tiles[:, ::_EVERY_PX, ::_EVERY_PX].reshape(-1, 3) for batch in batches]
    return fit_colour(np.concatenate(pixels), method)


def _only(plan: TilePlan, chosen: np.ndarray) -> TilePlan:
    return replace(plan, coords_l0_px=plan.coords_l0_px[chosen], tissue_share=plan.tissue_share[chosen], columns={})
