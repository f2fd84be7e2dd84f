"""From a slide file to its plan of tiles: open → resolution → geometry → tissue → tiles."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed, SlideView
from mhim_core.slides.grid import TilePlan, plan_tiles, tile_geometry
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.reader import SlideReader, open_slide
from mhim_core.slides.resolution import resolution_warning, resolve_mpp
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.slides.tissue import find_tissue
from mhim_core.types import FailureReason


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSlide:
    """An open slide with everything decided: `reader.tiles(plan)` is all that is left. Close it after use."""

    reader: SlideReader
    info: SlideInfo
    mpp: MppUsed
    tissue: TissueMask
    view: SlideView
    """What was seen of the slide when its tissue was looked for."""
    plan: TilePlan
    """Empty if there is no tissue."""
    decoding: str = ""
    """What a person should know of how the tiles are decoded, `fallback` included; empty: nothing."""
    fallback: str = ""
    """Which levels are broken, and which is read instead: other pixels than of the unbroken file. Empty: none is."""

    def close(self) -> None:
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare_slide(
    path: str | Path,
    *,
    mpp_override: float | None = None,
    spec: TileSpec,
    policy: SlidePolicy,
    ranged: RangedFile | None = None,
) -> PreparedSlide:
    """Open a slide and plan its tiles; `ranged` as in `open_slide`.

    Raises SlideError: NOT_FOUND, OPEN, TOO_LARGE, NO_MPP, IMPLAUSIBLE_MPP, UPSAMPLE, READ; the file is closed then.
    """
    reader = open_slide(path, spec.backend, ranged)
    try:
        info = reader.info()
        mpp = resolve_mpp(info, mpp_override, policy)
        tile_geometry(info, mpp, spec, policy)  # refuses before anything is decoded
        tissue, view = find_tissue(reader, mpp, spec)
        view = view._replace(resolution=resolution_warning(info, mpp, view.tissue_mm2))
        plan = plan_tiles(reader.info(), mpp, spec, policy, tissue)
        while reader.leave_out_broken(plan):
            plan = _plan_of_finer_level(reader, mpp, spec, policy, tissue)
        info = reader.info()
        fallback = _fallback(info, plan)
        decoding = "; ".join(text for text in (fallback, reader.prepare_level(plan.level)) if text)
    except BaseException:
        reader.close()
        raise
    return PreparedSlide(
        reader=reader, info=info, mpp=mpp, tissue=tissue, view=view, plan=plan, decoding=decoding, fallback=fallback
    )


def _plan_of_finer_level(
    reader: SlideReader, mpp: MppUsed, spec: TileSpec, policy: SlidePolicy, tissue: TissueMask
) -> TilePlan:
    """The plan without the levels that were left out. Raises SlideError(READ) where that takes too much memory."""
    info = reader.info()
    try:
        return plan_tiles(info, mpp, spec, policy, tissue)
    except SlideError as error:
        raise SlideError(
            FailureReason.READ, f"level {info.unreadable[-1]} cannot be read, and no finer one instead: {error.message}"
        ) from error


def _fallback(info: SlideInfo, plan: TilePlan) -> str:
    if not info.unreadable:
        return ""
    levels = " and ".join(map(str, sorted(info.unreadable)))
    return f"level {levels} cannot be read: a finer one takes its place, the tiles are of level {plan.level}"
