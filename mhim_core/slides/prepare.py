"""From a slide file to its plan of tiles: open → resolution → geometry → tissue → tiles."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mhim_core.features import MppUsed, SlideView
from mhim_core.slides.grid import TilePlan, plan_tiles, tile_geometry
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.reader import SlideReader, open_slide
from mhim_core.slides.resolution import resolution_warning, resolve_mpp
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.slides.tissue import find_tissue


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
    """What a person should know of how the tiles are decoded; empty: nothing."""

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
        plan = plan_tiles(info, mpp, spec, policy, tissue)
        decoding = reader.prepare_level(plan.level)
    except BaseException:
        reader.close()
        raise
    return PreparedSlide(reader=reader, info=info, mpp=mpp, tissue=tissue, view=view, plan=plan, decoding=decoding)
