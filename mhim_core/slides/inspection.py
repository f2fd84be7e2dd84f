"""A slide looked at without embedding it: what `mhim check` says about each row."""

import dataclasses
import io
from pathlib import Path
from typing import NamedTuple

from mhim_core.slides.grid import TilePlan
from mhim_core.slides.identity import check_sha256
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideTask

_NUM_SAMPLED_TILES = 3


class SlideInspection(NamedTuple):
    """Facts about a slide that would be embedded (or is empty: `num_tiles` 0)."""

    width_l0_px: int
    height_l0_px: int
    vendor: str
    mpp_x: float
    mpp_source: str
    upsample: float
    num_tiles: int
    picture: bytes | None = None
    """JPEG of the slide with the tissue's outline and the tile grid, where it was asked for."""


def inspect_slide(
    path: Path, task: SlideTask, *, spec: TileSpec, policy: SlidePolicy, with_picture: bool = False
) -> SlideInspection:
    """Open, plan and read a few tiles. Raises the SlideError that embedding would, as far as a sample can tell."""
    check_sha256(path, task.sha256)
    with prepare_slide(path, mpp_override=task.mpp_override, spec=spec, policy=policy) as slide:
        for _ in slide.reader.tiles(_sample(slide.plan)):
            pass
        return SlideInspection(
            slide.info.width_l0_px,
            slide.info.height_l0_px,
            slide.info.vendor,
            slide.mpp.x,
            slide.mpp.source,
            slide.plan.upsample,
            len(slide.plan),
            _picture(slide) if with_picture else None,
        )


def _picture(slide: PreparedSlide) -> bytes:
    from mhim_core.slides.picture import draw_overview

    buffer = io.BytesIO()
    draw_overview(slide.reader, slide.mpp, slide.tissue, slide.plan).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _sample(plan: TilePlan) -> TilePlan:
    """First, middle and last tile: a file that opens but cannot be decoded shows here."""
    step = max(1, (len(plan) - 1) // (_NUM_SAMPLED_TILES - 1))
    chosen = slice(None, None, step)
    return dataclasses.replace(plan, coords_l0_px=plan.coords_l0_px[chosen], tissue_share=plan.tissue_share[chosen])
