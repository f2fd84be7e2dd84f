"""What the decoder of a slide sends the encoder beside the tiles. No torch: decoding needs none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mhim_core.features import SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.slides.spec import TileSpec, tiling_identity
from mhim_core.types import SlideId

if TYPE_CHECKING:  # an encoder's process reads no slide
    from mhim_core.slides.prepare import PreparedSlide


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanFacts:
    """What is known of a slide before its first tile is encoded; picklable. N planned tiles."""

    slide_id: SlideId
    coords_l0_px: np.ndarray
    """int32 (N, 2), row-major; N = 0: no tissue."""
    tissue_share: np.ndarray
    """float32 (N,)."""
    reading: SlideReading
    cut: TileCut
    decoding: str = ""
    """What a person should know of how the tiles are decoded; empty: nothing."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What was asked for beside, of each planned tile: by the column's name, (N,)."""
    num_left_out: int = 0
    """Tiles that would have been planned, and are left out for what lies on them."""

    def with_sha256(self, source_sha256: str) -> "PlanFacts":
        """The same, of a source whose sha256 was verified by someone else ("": by nobody)."""
        return replace(self, reading=replace(self.reading, source_sha256=source_sha256))


def plan_facts(
    slide_id: SlideId,
    prepared: "PreparedSlide",
    spec: TileSpec,
    source: SourceIdentity,
    hint: SourceHint,
    source_sha256: str,
    regions: str = "",
) -> PlanFacts:
    """The facts of a slide that is open and planned.

    `source_sha256`: "" where the file was not read whole; `regions`: digest of its annotation and mask, "" for none.
    """
    plan = prepared.plan
    return PlanFacts(
        slide_id=slide_id,
        coords_l0_px=plan.coords_l0_px,
        tissue_share=plan.tissue_share,
        reading=SlideReading(
            source=source,
            hint=hint,
            source_sha256=source_sha256,
            mpp=prepared.mpp,
            effective_mpp=plan.effective_mpp,
            upsample=plan.upsample,
            backend=prepared.reader.backend,
            view=prepared.view,
            fallback=prepared.fallback,
            regions=regions,
        ),
        cut=TileCut(
            tiling=tiling_identity(spec),
            tile_size_l0_px=plan.tile_size_l0_px,
            width_l0_px=prepared.info.width_l0_px,
            height_l0_px=prepared.info.height_l0_px,
        ),
        decoding=prepared.decoding,
        columns=plan.columns,
        num_left_out=plan.num_left_out,
    )
