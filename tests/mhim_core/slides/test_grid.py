import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides.grid import plan_tiles, tile_geometry
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason

POLICY = SlidePolicy()


def info(width: int, height: int, downsamples: tuple[float, ...] = (1.0,)) -> SlideInfo:
    levels = tuple(Level(round(width / d), round(height / d), d) for d in downsamples)
    return SlideInfo(levels, None, None, "test", None)


def all_tissue(slide: SlideInfo, mpp: MppUsed) -> TissueMask:
    shape = int(np.ceil(slide.height_l0_px * mpp.y / 8)), int(np.ceil(slide.width_l0_px * mpp.x / 8))
    return TissueMask(is_tissue=np.ones(shape, bool), mask_mpp=8.0)


def square(mpp: float) -> MppUsed:
    return MppUsed(mpp, mpp, "slide")


@settings(max_examples=60, deadline=None)
@given(
    mpp=st.floats(0.1, 0.55),
    target=st.sampled_from([0.5, 1.0, 2.0]),
    tile_px=st.sampled_from([224, 256, 512]),
    overlap_px=st.sampled_from([0, 32]),
    size=st.tuples(st.integers(300, 20_000), st.integers(300, 20_000)),
)
def test_the_grid_never_drifts_and_every_tile_has_the_same_physical_size(
    mpp: float, target: float, tile_px: int, overlap_px: int, size: tuple[int, int]
) -> None:
    slide = info(*size, (1.0, 4.0, 16.0))
    spec = TileSpec(target_mpp=target, tile_px=tile_px, overlap_px=overlap_px, min_tissue=0)
    plan = plan_tiles(slide, square(mpp), spec, POLICY, all_tissue(slide, square(mpp)))
    stride = (tile_px - overlap_px) * target / mpp
    columns = plan.coords_l0_px[: plan.geometry.columns, 0]
    assert np.abs(columns - np.arange(len(columns)) * stride).max() <= 0.5
    assert len(plan) == plan.geometry.columns * plan.geometry.rows
    downsample = slide.levels[plan.level].downsample
    # rounded once, to whole pixels of the level read from
    assert abs(plan.read_px[0] * downsample * mpp - tile_px * target) <= 0.5 * downsample * mpp + 1e-9
    assert plan.effective_mpp[0] == pytest.approx(plan.read_px[0] * downsample * mpp / tile_px)
    assert abs(plan.tile_size_l0_px[0] - plan.read_px[0] * downsample) <= 0.5
    # the grid reaches the far edge, and no tile starts beyond it
    assert plan.coords_l0_px[:, 0].max() < size[0] + 0.5
    assert plan.coords_l0_px[:, 0].max() + plan.tile_size_l0_px[0] >= size[0] - 0.5 * downsample - 1


def test_tiles_come_row_by_row() -> None:
    slide = info(1024, 768)
    plan = plan_tiles(slide, square(0.5), TileSpec(), POLICY, all_tissue(slide, square(0.5)))
    assert plan.coords_l0_px.tolist() == [[x, y] for y in (0, 256, 512) for x in (0, 256, 512, 768)]
    assert plan.coords_l0_px.dtype == np.int32


def test_a_tile_over_the_edge_counts_the_outside_as_no_tissue() -> None:
    slide = info(256 + 64, 256)
    kept = plan_tiles(slide, square(0.5), TileSpec(min_tissue=0.25), POLICY, all_tissue(slide, square(0.5)))
    assert kept.tissue_share.tolist() == [1.0, 0.25]
    left_out = plan_tiles(slide, square(0.5), TileSpec(min_tissue=0.26), POLICY, all_tissue(slide, square(0.5)))
    assert left_out.tissue_share.tolist() == [1.0]


def test_no_tissue_gives_an_empty_plan() -> None:
    slide = info(1000, 1000)
    nothing = TissueMask(is_tissue=np.zeros((63, 63), bool), mask_mpp=8.0)
    plan = plan_tiles(slide, square(0.5), TileSpec(), POLICY, nothing)
    assert len(plan) == 0
    assert plan.coords_l0_px.shape == (0, 2)


@pytest.mark.parametrize(
    ("mpp", "downsamples", "level"),
    [
        (0.25, (1.0, 4.0, 16.0), 0),
        (0.25, (1.0, 2.0, 4.0), 1),
        (0.25, (1.0, 2.0004), 1),
        (0.125, (1.0, 3.997, 16.0), 1),
        (0.125, (1.0, 4.1), 0),
        (0.55, (1.0, 2.0), 0),
    ],
)
def test_the_level_read_is_the_nearest_finer_one(mpp: float, downsamples: tuple[float, ...], level: int) -> None:
    slide = info(8000, 8000, downsamples)
    assert tile_geometry(slide, square(mpp), TileSpec(target_mpp=0.5), POLICY).level == level


def test_032_um_is_read_as_032_um_and_not_as_a_magnification_bucket() -> None:
    geometry = tile_geometry(info(8000, 8000), square(0.32), TileSpec(target_mpp=0.5), POLICY)
    assert geometry.read_px == (400, 400)
    assert geometry.effective_mpp == (0.5, 0.5)


def test_each_axis_keeps_its_own_resolution() -> None:
    geometry = tile_geometry(info(8000, 8000), MppUsed(0.25, 0.254, "slide"), TileSpec(target_mpp=0.5), POLICY)
    assert geometry.read_px == (512, 504)
    assert geometry.effective_mpp == pytest.approx((0.5, 0.5000625))


@pytest.mark.fault(22)
def test_enlarging_beyond_the_policy_is_refused_naming_both_resolutions() -> None:
    slide = info(1000, 1000)
    assert tile_geometry(slide, square(0.55), TileSpec(), POLICY).upsample == pytest.approx(1.1)
    with pytest.raises(SlideError, match=r"1 × 1 µm/px and target_mpp is 0.5") as failure:
        tile_geometry(slide, square(1.0), TileSpec(), POLICY)
    assert failure.value.reason is FailureReason.UPSAMPLE
    assert tile_geometry(slide, square(1.0), TileSpec(), SlidePolicy(max_upsample=2)).upsample == 2.0


def test_a_grid_beyond_all_measure_is_refused_before_it_is_made() -> None:
    with pytest.raises(SlideError, match="grid") as failure:
        tile_geometry(info(400_000, 400_000), square(0.5), TileSpec(tile_px=32), POLICY)
    assert failure.value.reason is FailureReason.TOO_LARGE


def test_a_tile_that_needs_too_many_pixels_is_refused() -> None:
    with pytest.raises(SlideError, match="coarser levels") as failure:
        tile_geometry(info(200_000, 200_000), square(0.1), TileSpec(target_mpp=20), POLICY)
    assert failure.value.reason is FailureReason.TOO_LARGE
