"""A slide looked at without embedding it: what `mhim check` says about each row."""

import contextlib
import dataclasses
import io
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.features import SlideView
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.regions import NO_FILES, RegionFiles, task_regions
from mhim_core.slides.source_identity import check_sha256
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideTask

_NUM_SAMPLED_TILES = 128
"""Evenly placed: a hole of 5 % of a slide, the share at which embedding gives up, holds six of them."""


class SlideInspection(NamedTuple):
    """Facts about a slide that would be embedded (or is empty: `num_tiles` 0)."""

    width_l0_px: int
    height_l0_px: int
    vendor: str
    decoder: str
    """The backend at work."""
    mpp_x: float
    mpp_source: str
    upsample: float
    num_tiles: int
    view: SlideView
    decoding: str = ""
    """What a person should know of how the tiles are decoded; empty: nothing."""
    picture: bytes | None = None
    """JPEG of the slide with the outlines of tissue and regions, and the tiles, where it was asked for."""
    plan_s: float = 0.0
    """CPU seconds to open it, find its tissue and plan its tiles."""
    read_s: float = 0.0
    """CPU seconds to read `num_read` of its tiles."""
    num_read: int = 0


def inspect_slide(
    path: Path,
    task: SlideTask,
    *,
    spec: TileSpec,
    policy: SlidePolicy,
    files: RegionFiles = NO_FILES,
    with_picture: bool = False,
    ranged: RangedFile | None = None,
) -> SlideInspection:
    """Open, plan and read up to 128 tiles; `ranged` as in `open_slide`.

    Raises the SlideError that embedding would, as far as a sample can tell.
    """
    check_sha256(path, task.sha256)
    start_s = time.process_time()
    regions = task_regions(task, files, spec)
    with prepare_slide(
        path, mpp_override=task.mpp_override, spec=spec, policy=policy, regions=regions, ranged=ranged
    ) as slide:
        planned_s, sample = time.process_time(), _sample(slide.plan)
        with contextlib.suppress(SlideError):
            _read(slide, sample)
        read_s = time.process_time() - planned_s
        if slide.reader.bad_tiles:
            _read(slide, slide.plan)  # whether embedding would bear it, only the share of all tiles tells
        return SlideInspection(
            slide.info.width_l0_px,
            slide.info.height_l0_px,
            slide.info.vendor,
            slide.reader.decoder,
            slide.mpp.x,
            slide.mpp.source,
            slide.plan.upsample,
            len(slide.plan),
            slide.view,
            slide.decoding,
            _picture(slide) if with_picture else None,
            plan_s=planned_s - start_s,
            read_s=read_s,
            num_read=len(sample),
        )


def _read(slide: PreparedSlide, plan: TilePlan) -> None:
    for _ in dataclasses.replace(slide, plan=plan).tiles():
        pass


def _picture(slide: PreparedSlide) -> bytes:
    from mhim_core.slides.picture import draw_overview

    buffer = io.BytesIO()
    draw_overview(slide.reader, slide.mpp, slide.tissue, slide.plan, slide.regions).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _sample(plan: TilePlan) -> TilePlan:
    """Tiles from the first to the last: a file that opens but cannot be decoded shows here."""
    num = min(len(plan), _NUM_SAMPLED_TILES)
    chosen = np.linspace(0, len(plan) - 1, num).round().astype(int)
    return dataclasses.replace(plan, coords_l0_px=plan.coords_l0_px[chosen], tissue_share=plan.tissue_share[chosen])
