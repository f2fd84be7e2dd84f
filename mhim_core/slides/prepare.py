"""From a slide file to its plan of tiles: open → resolution → geometry → tissue → tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed, SlideView
from mhim_core.slides.colour import ColourTransform
from mhim_core.slides.colour_sample import slide_colour
from mhim_core.slides.grid import TilePlan, placed_geometry, plan_placed, plan_tiles, tile_geometry
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.places import ChosenTiles, TilePlaces, check_places, rows_of
from mhim_core.slides.quality import judged
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.reader import SlideReader, TileBatch, open_slide
from mhim_core.slides.regions import NO_REGIONS, RegionMasks, SlideRegions, region_masks, with_region_shares
from mhim_core.slides.resolution import resolution_warning, resolve_mpp
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec
from mhim_core.slides.tissue import find_tissue
from mhim_core.types import FailureReason


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSlide:
    """An open slide with everything decided: `tiles()` is all that is left. Close it after use."""

    reader: SlideReader
    info: SlideInfo
    mpp: MppUsed
    tissue: TissueMask
    view: SlideView
    """What was seen of the slide when its tissue was looked for."""
    plan: TilePlan
    """Empty if there is no tissue."""
    regions: RegionMasks
    """Where tiles may lie, and of which class they are."""
    decoding: str = ""
    """What a person should know of how the tiles are decoded, `fallback` included; empty: nothing."""
    fallback: str = ""
    """Which levels are broken, and which is read instead: other pixels than of the unbroken file. Empty: none is."""

    colour: ColourTransform | None = None
    """What is done to the colours of tiles; None: nothing."""
    spec: TileSpec

    def tiles(self, batch_size: int = 64) -> Iterator[TileBatch]:
        """The plan's tiles as they are to be encoded, in order, up to `batch_size` at once.

        What the reader cannot read, or what is not sharp enough, is left out. Raises SlideError as `reader.tiles`.
        """
        for batch in self.reader.tiles(self.plan, batch_size):
            if self.spec.quality or self.spec.min_sharpness:
                batch = judged(batch, self.spec)  # as it was read: a transform of colours would count as sharpness
            if self.colour is not None:
                batch = replace(batch, tiles=self.colour.apply(batch.tiles))
            yield batch

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
    regions: SlideRegions = NO_REGIONS,
    ranged: RangedFile | None = None,
) -> PreparedSlide:
    """Open a slide and plan its tiles; `ranged` as in `open_slide`.

    Raises SlideError: NOT_FOUND, OPEN, TOO_LARGE, NO_MPP, IMPLAUSIBLE_MPP, UPSAMPLE, READ, NO_ANNOTATION,
    BAD_ANNOTATION; the file is closed then.
    """
    reader = open_slide(path, spec.backend, ranged)
    try:
        info = reader.info()
        mpp = resolve_mpp(info, mpp_override, policy)
        _check_geometry(info, mpp, spec, policy, regions.places)  # refuses before anything is decoded
        tissue, view, pen, folds = find_tissue(reader, mpp, spec, regions.mask, regions.segmenter)
        view = view._replace(resolution=resolution_warning(info, mpp, view.tissue_mm2))
        masks = region_masks(regions.annotation, info, mpp, tissue, spec)
        view = with_region_shares(view, tissue, masks)
        inked = pen if spec.judges_quality else None

        def planned() -> TilePlan:
            if regions.places is not None:
                return plan_placed(reader.info(), mpp, spec, policy, tissue, regions.places, masks, inked, folds)
            return plan_tiles(reader.info(), mpp, spec, policy, tissue, masks, inked, folds)

        plan = planned()
        while reader.leave_out_broken(plan):
            plan = _of_finer_level(reader, planned)
        info = reader.info()
        fallback = _fallback(info, plan)
        if spec.leaves_out_tiles:
            view = view.leaving_out(plan.num_left_out, plan.num_left_out + len(plan))
        decoding = "; ".join(text for text in (fallback, reader.prepare_level(plan.level)) if text)
        colour = slide_colour(reader, plan, spec.colour) if spec.colour is not ColourMethod.none else None
        if spec.colour is not ColourMethod.none and colour is None and len(plan):
            view = view._replace(colour="; ".join(filter(None, (view.colour, _NO_COLOUR))))
        if spec.selects:  # last: the tiles are as they are where all are embedded
            view = view._replace(chosen_from=len(plan))
            plan = _selected(plan, regions.chosen)
    except BaseException:
        reader.close()
        raise
    return PreparedSlide(
        reader=reader,
        info=info,
        mpp=mpp,
        tissue=tissue,
        view=view,
        plan=plan,
        regions=masks,
        decoding=decoding,
        fallback=fallback,
        colour=colour,
        spec=spec,
    )


def _check_geometry(
    info: SlideInfo, mpp: MppUsed, spec: TileSpec, policy: SlidePolicy, places: TilePlaces | None
) -> None:
    if not spec.placed:
        tile_geometry(info, mpp, spec, policy)
        return
    if places is None:
        raise SlideError(FailureReason.NO_ANNOTATION, "no file names the places of its tiles")
    check_places(places, info, mpp, spec.tile_px, spec.target_mpp)
    placed_geometry(info, mpp, spec, policy, (places.tile_size_l0_px, places.tile_size_l0_px))


def _selected(plan: TilePlan, chosen: ChosenTiles | None) -> TilePlan:
    if not len(plan):
        return plan
    if chosen is None:
        raise SlideError(FailureReason.NO_ANNOTATION, "there are no features by which its tiles could be chosen")
    return plan.only(rows_of(chosen, plan.coords_l0_px))


_NO_COLOUR = "too little of it is stained for colour=, and its tiles keep their colours"


def _of_finer_level(reader: SlideReader, planned: Callable[[], TilePlan]) -> TilePlan:
    """The plan without the levels that were left out. Raises SlideError(READ) where that takes too much memory."""
    try:
        return planned()
    except SlideError as error:
        raise SlideError(
            FailureReason.READ,
            f"level {reader.info().unreadable[-1]} cannot be read, and no finer one instead: {error.message}",
        ) from error


def _fallback(info: SlideInfo, plan: TilePlan) -> str:
    if not info.unreadable:
        return ""
    levels = " and ".join(map(str, sorted(info.unreadable)))
    return f"level {levels} cannot be read: a finer one takes its place, the tiles are of level {plan.level}"
