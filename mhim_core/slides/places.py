"""Tiles that something else than a grid decides: the places that another tool's file names, or a choice among a grid's.

Both belong to one slide, and their digest stands in its commit as that of an annotation does.
"""

from typing import NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed, SourceIdentity
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.spec import MAX_TILES
from mhim_core.types import FailureReason

_MAX_SCALE_ERROR = 1.25
"""Factor by which the tiles' µm/px may differ from target_mpp. Tools that count in magnifications take 0.44 to 0.55
µm/px for 20×; twice as much is another magnification."""


class TilePlaces(NamedTuple):
    """The places of a slide's tiles as a file names them."""

    coords_l0_px: np.ndarray
    """int64 (N, 2): x, y of the top-left corners in level-0 pixels, in any order."""
    tile_size_l0_px: int
    """Side of a tile at level 0."""
    slide_size_l0_px: tuple[int, int]
    """Width and height as the file states them; (0, 0): it does not."""
    digest: str
    """Of the file, and of what was stated beside it."""


class ChosenTiles(NamedTuple):
    """Some tiles of a slide's grid, chosen by other features of theirs."""

    coords_l0_px: np.ndarray
    """int32 (n, 2)."""
    source: SourceIdentity
    """Which bytes those features are of."""
    mpp: tuple[float, float]
    """µm/px of level 0 at which they were cut."""


def check_places(places: TilePlaces, info: SlideInfo, mpp: MppUsed, tile_px: int, target_mpp: float) -> None:
    """Raises SlideError(bad_annotation) for places that are not this slide's, or tiles of another scale; TOO_LARGE."""
    size = np.array([info.width_l0_px, info.height_l0_px])
    if any(places.slide_size_l0_px) and places.slide_size_l0_px != (info.width_l0_px, info.height_l0_px):
        width, height = places.slide_size_l0_px
        raise _bad(
            f"they are of a slide of {width} × {height} pixels, and this one has {size[0]} × {size[1]}; are they "
            "another slide's?"
        )
    side = places.tile_size_l0_px
    mpp_of_tiles = side * (mpp.x + mpp.y) / 2 / tile_px
    if not 1 / _MAX_SCALE_ERROR <= mpp_of_tiles / target_mpp <= _MAX_SCALE_ERROR:
        raise _bad(
            f"their tiles have {side} level-0 pixels, {side * mpp.x:.4g} µm at {mpp.x:.4g} µm/px, and "
            f"tile_px={tile_px} target_mpp={target_mpp:g} are {tile_px * target_mpp:.4g} µm; for tile_px={tile_px} "
            f"set target_mpp={mpp_of_tiles:.2g}, or the µm/px of the slide is another than theirs"
        )
    if len(places.coords_l0_px) > MAX_TILES:
        raise SlideError(
            FailureReason.TOO_LARGE, f"{len(places.coords_l0_px):,} tiles are named, more than {MAX_TILES:,}"
        )
    coords = places.coords_l0_px
    if not len(coords):
        return
    if coords.min() < 0 or (coords >= size).any():
        x, y = coords[(coords < 0).any(axis=1) | (coords >= size).any(axis=1)][0]
        raise _bad(f"a tile is at ({x}, {y}), outside of the slide of {size[0]} × {size[1]} pixels")
    if len(np.unique(coords, axis=0)) < len(coords):
        raise _bad("they name a tile twice")


def rows_of(chosen: ChosenTiles, planned_l0_px: np.ndarray) -> np.ndarray:
    """int64 (n,): the rows of the plan, in its order, that are chosen. `planned_l0_px`: int32 (N, 2).

    Raises SlideError(bad_annotation) where one is no tile of the plan.
    """
    wanted = {(x, y) for x, y in chosen.coords_l0_px.tolist()}
    rows = [row for row, (x, y) in enumerate(planned_l0_px.tolist()) if (x, y) in wanted]
    if len(rows) != len(wanted):
        raise _bad(
            f"{len(wanted) - len(rows)} of {len(wanted)} tiles that were chosen are none of the slide's now; embed it "
            "again with the encoder by which they are chosen"
        )
    return np.array(rows, np.int64)


def check_chosen(chosen: ChosenTiles, source: SourceIdentity, mpp: MppUsed) -> None:
    """Raises SlideError(bad_annotation) where they were chosen by features of other bytes or another µm/px."""
    if chosen.source != source:
        finding = "other bytes than the slide's file has now"
    elif chosen.mpp != (mpp.x, mpp.y):
        finding = f"the slide at {chosen.mpp[0]:g} µm/px, and it has {mpp.x:g} now"
    else:
        return
    raise _bad(f"they are chosen by features of {finding}; embed it again with that encoder")


def _bad(finding: str) -> SlideError:
    return SlideError(FailureReason.BAD_ANNOTATION, f"the places of its tiles: {finding}")
