"""What travels from whoever decodes a slide to whoever encodes it, beside the tiles. Light: decoding needs no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mhim_core.features import NOTHING_SEEN, MppUsed, SlideView, SourceHint, SourceIdentity
from mhim_core.slides.prepare import PreparedSlide
from mhim_core.slides.spec import TileSpec, tiling_identity
from mhim_core.types import SlideId


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanFacts:
    """What is known of a slide before its first tile is encoded; picklable, fields as in `SlideFeatures`."""

    slide_id: SlideId
    coords_l0_px: np.ndarray
    """int32 (N, 2), row-major; N = 0: no tissue."""
    tissue_share: np.ndarray
    """float32 (N,)."""
    source: SourceIdentity
    hint: SourceHint
    mpp: MppUsed
    effective_mpp: tuple[float, float]
    tile_size_l0_px: tuple[int, int]
    upsample: float
    tiling: dict[str, Any]
    width_l0_px: int
    height_l0_px: int
    source_sha256: str = ""
    view: SlideView = NOTHING_SEEN


def plan_facts(
    slide_id: SlideId,
    prepared: PreparedSlide,
    spec: TileSpec,
    source: SourceIdentity,
    hint: SourceHint,
    source_sha256: str,
) -> PlanFacts:
    """What travels from whoever decodes to whoever encodes, beside the tiles themselves."""
    plan = prepared.plan
    return PlanFacts(
        slide_id=slide_id,
        coords_l0_px=plan.coords_l0_px,
        tissue_share=plan.tissue_share,
        source=source,
        hint=hint,
        mpp=prepared.mpp,
        effective_mpp=plan.effective_mpp,
        tile_size_l0_px=plan.tile_size_l0_px,
        upsample=plan.upsample,
        tiling=tiling_identity(spec),
        width_l0_px=prepared.info.width_l0_px,
        height_l0_px=prepared.info.height_l0_px,
        source_sha256=source_sha256,
        view=prepared.view,
    )
