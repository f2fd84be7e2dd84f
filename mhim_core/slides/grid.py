"""The tile grid: pure arithmetic from a slide's facts and its tissue to a plan of reads.

Three sizes of one tile, never mixed: *requested* (tile_px at target_mpp), *read* (pixels at the level it is read from)
and *level 0* (pixels of the scan it covers).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.features import FOLD_SHARE, PEN_SHARE, TILE_CLASS, MppUsed
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.places import TilePlaces, check_places
from mhim_core.slides.regions import EVERYWHERE, RegionMasks, tile_classes
from mhim_core.slides.spec import MAX_GRID_CELLS, MAX_READ_PX, MAX_TILES, READ_BYTES_PER_PX, SlidePolicy, TileSpec
from mhim_core.types import FailureReason


class TileGeometry(NamedTuple):
    """How every tile of one slide is cut; all pairs are (x, y)."""

    level: int
    read_px: tuple[int, int]
    """Pixels read at `level`: round(tile_px · target_mpp / level mpp)."""
    tile_size_l0_px: tuple[int, int]
    stride_l0_px: tuple[float, float]
    """Unrounded, so that tile i starts at round(i · stride) and the grid does not drift."""
    effective_mpp: tuple[float, float]
    """µm/px of the tile after resizing: what target_mpp became by rounding the read size."""
    upsample: float
    """How far level 0 is enlarged, at least 1.0."""
    columns: int
    rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TilePlan:
    """The tiles to read of one slide, row-major. N tiles; N = 0 means no tissue."""

    coords_l0_px: np.ndarray
    """int32 (N, 2): x, y of the top-left corner in level-0 pixels."""
    tissue_share: np.ndarray
    """float32 (N,): tissue's share of the tile's area, 0 to 1; what lies over the slide's edge is none."""
    tile_px: int
    geometry: TileGeometry
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What else is known of each tile before it is read: by the column's name, (N,)."""
    num_left_out: int = 0
    """Tiles with enough tissue that are left out since too much of them lies under pen or folds."""

    def only(self, rows: np.ndarray) -> "TilePlan":
        """The plan of these tiles alone; `rows`: int64 (n,), ascending."""
        return replace(
            self,
            coords_l0_px=self.coords_l0_px[rows],
            tissue_share=self.tissue_share[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def __len__(self) -> int:
        return len(self.coords_l0_px)

    @property
    def level(self) -> int:
        return self.geometry.level

    @property
    def read_px(self) -> tuple[int, int]:
        return self.geometry.read_px

    @property
    def tile_size_l0_px(self) -> tuple[int, int]:
        return self.geometry.tile_size_l0_px

    @property
    def effective_mpp(self) -> tuple[float, float]:
        return self.geometry.effective_mpp

    @property
    def upsample(self) -> float:
        return self.geometry.upsample


def tile_geometry(info: SlideInfo, mpp: MppUsed, spec: TileSpec, policy: SlidePolicy) -> TileGeometry:
    """Level, sizes and grid of a slide's tiles, before anything is decoded.

    Raises SlideError: UPSAMPLE where level 0 is too coarse for target_mpp; TOO_LARGE where the grid has more than
    MAX_GRID_CELLS places or one tile needs more than MAX_READ_PX pixels.
    """
    upsample = max(1.0, mpp.x / spec.target_mpp, mpp.y / spec.target_mpp)
    if upsample > policy.max_upsample:
        raise SlideError(
            FailureReason.UPSAMPLE,
            f"level 0 has {mpp.x:g} × {mpp.y:g} µm/px and target_mpp is {spec.target_mpp:g}: it would be enlarged "
            f"{upsample:.3g} times, and max_upsample is {policy.max_upsample:g}; set a coarser target_mpp, or where a "
            f"model fixes the tiling max_upsample={math.ceil(upsample * 10) / 10:g}",
        )
    level = info.level_for(min(spec.target_mpp / mpp.x, spec.target_mpp / mpp.y))
    downsample = info.levels[level].downsample
    level_mpp = (mpp.x * downsample, mpp.y * downsample)
    read = tuple(max(1, round(spec.tile_px * spec.target_mpp / axis)) for axis in level_mpp)
    stride = tuple((spec.tile_px - spec.overlap_px) * spec.target_mpp / axis for axis in (mpp.x, mpp.y))
    overlap = tuple(spec.overlap_px * spec.target_mpp / axis for axis in (mpp.x, mpp.y))
    size = (info.width_l0_px, info.height_l0_px)
    # a last tile that lies wholly within its neighbour's overlap adds nothing
    columns, rows = (max(1, math.ceil((size[axis] - overlap[axis]) / stride[axis])) for axis in (0, 1))
    if columns * rows > MAX_GRID_CELLS:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"the grid has {columns} × {rows} tiles, more than {MAX_GRID_CELLS:,}; set a larger tile_px, a coarser "
            "target_mpp or a smaller overlap_px",
        )
    _check_read(read, level, downsample)
    return TileGeometry(
        level=level,
        read_px=(read[0], read[1]),
        tile_size_l0_px=(round(read[0] * downsample), round(read[1] * downsample)),
        stride_l0_px=(stride[0], stride[1]),
        effective_mpp=(read[0] * level_mpp[0] / spec.tile_px, read[1] * level_mpp[1] / spec.tile_px),
        upsample=upsample,
        columns=columns,
        rows=rows,
    )


def placed_geometry(
    info: SlideInfo, mpp: MppUsed, spec: TileSpec, policy: SlidePolicy, tile_size_l0_px: tuple[int, int]
) -> TileGeometry:
    """Level and sizes of tiles whose places and size at level 0, (x, y), are known; they are no grid.

    Raises SlideError: UPSAMPLE, TOO_LARGE, as `tile_geometry`.
    """
    width, height = tile_size_l0_px
    upsample = max(1.0, spec.tile_px / width, spec.tile_px / height)
    if upsample > policy.max_upsample:
        raise SlideError(
            FailureReason.UPSAMPLE,
            f"its tiles have {width} × {height} level-0 pixels and tile_px is {spec.tile_px}: they would be enlarged "
            f"{upsample:.3g} times, and max_upsample is {policy.max_upsample:g}; set a smaller tile_px",
        )
    level = info.level_for(min(width, height) / spec.tile_px)
    downsample = info.levels[level].downsample
    read = (max(1, round(width / downsample)), max(1, round(height / downsample)))
    _check_read(read, level, downsample)
    return TileGeometry(
        level=level,
        read_px=read,
        tile_size_l0_px=(width, height),
        stride_l0_px=(float(width), float(height)),
        effective_mpp=(width * mpp.x / spec.tile_px, height * mpp.y / spec.tile_px),
        upsample=upsample,
        columns=0,
        rows=0,
    )


def geometry_again(
    info: SlideInfo, mpp: MppUsed, spec: TileSpec, policy: SlidePolicy, tile_size_l0_px: tuple[int, int]
) -> TileGeometry:
    """The geometry of tiles that were cut before, of that size at level 0, to read them again."""
    if spec.placed:
        return placed_geometry(info, mpp, spec, policy, tile_size_l0_px)
    return tile_geometry(info, mpp, spec, policy)


def _check_read(read_px: tuple[int, ...], level: int, downsample: float) -> None:
    if read_px[0] * read_px[1] > MAX_READ_PX:
        needed, most = (num_px * READ_BYTES_PER_PX / 1e9 for num_px in (read_px[0] * read_px[1], MAX_READ_PX))
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"one tile needs {read_px[0]} × {read_px[1]} pixels of level {level} (downsample {downsample:g}), which "
            f"take {needed:.1f} GB of memory, more than {most:.1f}; set a finer target_mpp, or give the file coarser "
            "levels",
        )


def plan_placed(
    info: SlideInfo,
    mpp: MppUsed,
    spec: TileSpec,
    policy: SlidePolicy,
    tissue: TissueMask,
    places: TilePlaces,
    regions: RegionMasks = EVERYWHERE,
    pen: TissueMask | None = None,
    folds: TissueMask | None = None,
) -> TilePlan:
    """The tiles at the places that a file names, all of them, row by row, each with its share of tissue.

    Raises SlideError as `check_places` and `placed_geometry` do.
    """
    check_places(places, info, mpp, spec.tile_px, spec.target_mpp)
    size = places.tile_size_l0_px
    geometry = placed_geometry(info, mpp, spec, policy, (size, size))
    coords = places.coords_l0_px[np.lexsort(places.coords_l0_px.T)]
    x, y = coords.T * np.array([[mpp.x], [mpp.y]]) / tissue.mask_mpp
    width, height = size * mpp.x / tissue.mask_mpp, size * mpp.y / tissue.mask_mpp

    def shares(mask: TissueMask | None) -> np.ndarray:
        if mask is None or not len(coords):
            return np.zeros(len(coords), np.float32)
        return mask.share_at(x, x + width, y, y + height).astype(np.float32)

    columns: dict[str, np.ndarray] = {}
    if spec.tile_classes:
        by_class = {name: shares(mask) for name, mask in regions.classes.items()}
        columns[TILE_CLASS] = tile_classes(by_class, regions.classes, len(coords))
    if spec.quality:
        columns[PEN_SHARE] = shares(pen)
    if spec.tissue_folds:
        columns[FOLD_SHARE] = shares(folds)
    return TilePlan(
        coords_l0_px=coords.astype(np.int32),
        tissue_share=shares(tissue),
        tile_px=spec.tile_px,
        geometry=geometry,
        columns=columns,
    )


def plan_tiles(
    info: SlideInfo,
    mpp: MppUsed,
    spec: TileSpec,
    policy: SlidePolicy,
    tissue: TissueMask,
    regions: RegionMasks = EVERYWHERE,
    pen: TissueMask | None = None,
    folds: TissueMask | None = None,
) -> TilePlan:
    """The grid's tiles of which at least `min_tissue` is tissue, and `min_roi` inside the regions, row by row.

    `pen`, `folds`: where ink and folds lie, for a spec that judges tiles by them; None: nowhere.
    Tiles over the right and bottom edge belong to the grid; what lies outside counts as no tissue. Raises SlideError as
    `tile_geometry` does, and TOO_LARGE for more than MAX_TILES tiles.
    """
    geometry = tile_geometry(info, mpp, spec, policy)
    left_l0 = np.rint(np.arange(geometry.columns) * geometry.stride_l0_px[0])
    top_l0 = np.rint(np.arange(geometry.rows) * geometry.stride_l0_px[1])
    to_mask_x, to_mask_y = mpp.x / tissue.mask_mpp, mpp.y / tissue.mask_mpp
    edges = (
        left_l0 * to_mask_x,
        (left_l0 + geometry.tile_size_l0_px[0]) * to_mask_x,
        top_l0 * to_mask_y,
        (top_l0 + geometry.tile_size_l0_px[1]) * to_mask_y,
    )
    share = tissue.share_in_grid(*edges).astype(np.float32)
    is_kept = share >= np.float32(spec.min_tissue)
    if regions.inside is not None:
        is_kept &= regions.inside.share_in_grid(*edges).astype(np.float32) >= np.float32(spec.min_roi)
    pen_share = np.zeros_like(share) if pen is None else pen.share_in_grid(*edges).astype(np.float32)
    fold_share = np.zeros_like(share) if folds is None else folds.share_in_grid(*edges).astype(np.float32)
    is_clean = (pen_share <= np.float32(spec.max_pen)) & (fold_share <= np.float32(spec.max_fold))
    row, column = np.nonzero(is_kept & is_clean)
    if len(row) > MAX_TILES:
        raise SlideError(
            FailureReason.TOO_LARGE,
            f"{len(row):,} tiles hold tissue, more than {MAX_TILES:,}; set a larger tile_px or a coarser target_mpp",
        )
    return TilePlan(
        coords_l0_px=np.stack([left_l0[column], top_l0[row]], axis=1).astype(np.int32),
        tissue_share=share[row, column],
        tile_px=spec.tile_px,
        geometry=geometry,
        columns=({TILE_CLASS: _classes_at(row, column, edges, regions)} if spec.tile_classes else {})
        | ({PEN_SHARE: pen_share[row, column]} if spec.quality else {})
        | ({FOLD_SHARE: fold_share[row, column]} if spec.tissue_folds else {}),
        num_left_out=int((is_kept & ~is_clean).sum()),
    )


def _classes_at(row: np.ndarray, column: np.ndarray, edges: tuple[np.ndarray, ...], regions: RegionMasks) -> np.ndarray:
    left, right, top, bottom = edges
    shares = {name: mask.share_in_grid(left, right, top, bottom)[row, column] for name, mask in regions.classes.items()}
    return tile_classes(shares, regions.classes, len(row))
