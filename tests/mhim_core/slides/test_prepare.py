from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.slides.picture import draw_overview
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason

Write = Callable[..., Path]
SPEC, POLICY = TileSpec(), SlidePolicy()

# µm/px where the file states none, as estimated for these scans
OVERRIDES = {
    "erosion_HE_10x": 1.01,
    "helicobacterpylori_HE_10x": 1.01,
    "kidneyoncocytoma_HE_10x": 2.02,
    "tubularadenoma-flat_HE2_10x": 2.02,
    "tubularadenoma-flat_HE_10x": 2.02,
}


def prepare(path: Path, override: float | None = None, spec: TileSpec = SPEC) -> PreparedSlide:
    return prepare_slide(path, mpp_override=override, spec=spec, policy=POLICY)


def scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    picture = Image.fromarray(pixels)
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


@pytest.mark.fault(22)
def test_twins_at_10_20_and_40x_give_the_same_tiles(write_slide: Write, painted: np.ndarray) -> None:
    spec = TileSpec(target_mpp=1.0, tile_px=128)
    plans, tiles = [], []
    for mpp in (0.25, 0.5, 1.0):
        path = write_slide(scaled(painted, 0.5 / mpp), mpp=(mpp, mpp), name=f"{mpp}.tiff", quality=95)
        with prepare(path, spec=spec) as slide:
            plans.append(slide.plan)
            tiles.append({tuple(slide.plan.coords_l0_px[i] * mpp): t for b in slide.reader.tiles(slide.plan)
                          for i, t in zip(b.index, b.tiles, strict=True)})  # fmt: skip
            assert abs(slide.plan.tile_size_l0_px[0] * mpp - 128) <= mpp
    counts = [len(plan) for plan in plans]
    assert max(counts) - min(counts) <= max(2, 0.01 * max(counts))
    assert min(counts) > 40
    for place in set(tiles[0]) & set(tiles[1]) & set(tiles[2]):
        for other in (tiles[0], tiles[2]):
            assert np.abs(other[place].astype(int) - tiles[1][place]).mean() < 8


def test_the_same_slide_gives_the_same_tiles(write_slide: Write, painted: np.ndarray) -> None:
    path = write_slide(painted)
    with prepare(path) as first, prepare(path) as second:
        assert np.array_equal(first.plan.coords_l0_px, second.plan.coords_l0_px)
        assert np.array_equal(first.plan.tissue_share, second.plan.tissue_share)
        for batch, other in zip(first.reader.tiles(first.plan), second.reader.tiles(second.plan), strict=True):
            assert np.array_equal(batch.tiles, other.tiles)


def test_every_kept_tile_has_enough_tissue_and_no_left_out_place_has(write_slide: Write, simple: np.ndarray) -> None:
    with prepare(write_slide(simple), spec=TileSpec(tile_px=128, min_tissue=0.5)) as slide:
        kept = {tuple(xy) for xy in slide.plan.coords_l0_px.tolist()}
    # the rectangle runs from (300, 200) to (1300, 900); smoothing may move its edge by a mask pixel, 16 level-0 px
    for x in range(0, 1500, 128):
        for y in range(0, 1100, 128):
            width = max(0, min(1300, x + 128) - max(300, x))
            share = width * max(0, min(900, y + 128) - max(200, y)) / 128**2
            if abs(share - 0.5) > 0.2:
                assert ((x, y) in kept) == (share > 0.5)


@pytest.mark.fault(20)
def test_a_blank_slide_is_empty_and_not_a_failure(write_slide: Write) -> None:
    with prepare(write_slide(np.full((600, 700, 3), 243, np.uint8))) as slide:
        assert len(slide.plan) == 0
        assert list(slide.reader.tiles(slide.plan)) == []


@pytest.mark.parametrize(
    ("mpp", "override", "reason"),
    [
        (None, None, FailureReason.NO_MPP),
        ((352.0, 352.0), None, FailureReason.IMPLAUSIBLE_MPP),
        ((0.5, 0.52), None, FailureReason.IMPLAUSIBLE_MPP),
        ((1.0, 1.0), None, FailureReason.UPSAMPLE),
        ((0.5, 0.5), 2.0, FailureReason.UPSAMPLE),
    ],
)
def test_a_refused_slide_has_its_reason(
    write_slide: Write,
    simple: np.ndarray,
    mpp: tuple[float, float] | None,
    override: float | None,
    reason: FailureReason,
) -> None:
    with pytest.raises(SlideError) as failure:
        prepare(write_slide(simple, mpp=mpp), override)
    assert failure.value.reason is reason


def test_a_corrupt_tile_of_a_slide_without_levels_is_recorded_not_lost(write_slide: Write, painted: np.ndarray) -> None:
    path = write_slide(painted, downsamples=(1,))
    with prepare(path) as slide:
        good = {tuple(xy) for xy in slide.plan.coords_l0_px.tolist()}
        x, y = slide.plan.coords_l0_px[len(slide.plan) // 2]
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data) - 2) if data[i : i + 3] == b"\xff\xd8\xff"]
    broken = y // 256 * -(-painted.shape[1] // 256) + x // 256
    data[starts[broken] : starts[broken + 1]] = b"\0" * (starts[broken + 1] - starts[broken])
    path.write_bytes(data)
    with prepare(path) as slide:
        assert (x, y) in {tuple(xy) for xy in slide.plan.coords_l0_px.tolist()}
        read = [i for batch in slide.reader.tiles(slide.plan) for i in batch.index]
        bad = [tuple(xy) for xy in slide.plan.coords_l0_px[slide.reader.bad_tiles].tolist()]
        assert bad == [(x, y)]
        assert {tuple(xy) for xy in slide.plan.coords_l0_px[read].tolist()} >= good - {(x, y)}


def test_the_overview_shows_tissue_and_tiles(write_slide: Write, simple: np.ndarray) -> None:
    with prepare(write_slide(simple)) as slide:
        picture = draw_overview(slide.reader, slide.mpp, slide.tissue, slide.plan, max_side_px=500)
        plain = slide.reader.thumbnail(slide.mpp, 1.5).pixels
    pixels = np.asarray(picture)
    assert pixels.shape == plain.shape
    changed = (np.abs(pixels.astype(int) - plain) > 60).any(-1)
    assert 0.01 < changed.mean() < 0.2
    assert not changed[:50, :50].any()


@pytest.mark.parametrize("place", range(21))
def test_every_slide_of_the_atlas_at_10x_has_tiles(shared_data: Path, place: int) -> None:
    path = sorted((shared_data / "slides/atlas10x").glob("*.tiff"))[place]
    override = OVERRIDES.get(path.stem)
    with prepare(path, override, TileSpec(target_mpp=max(1.0, override or 0))) as slide:
        assert 30 < len(slide.plan) < 400
        assert slide.plan.upsample < 1.06
        (x, y), geometry = slide.plan.coords_l0_px[0], slide.plan.geometry
        assert 0 <= x < slide.info.width_l0_px
        assert 0 <= y < slide.info.height_l0_px
        assert geometry.effective_mpp[0] == pytest.approx(max(1.0, override or 0), rel=0.003)


@pytest.mark.parametrize("name", ["BS27_HE", "BS9_HE2", "lung-squamous-cell-carcinoma_HE3"])
def test_the_20x_twins_of_the_atlas_have_the_tissue_of_the_10x_ones(shared_data: Path, name: str) -> None:
    with (
        prepare(shared_data / f"slides/atlas20x/{name}_20x.tiff") as fine,
        prepare(shared_data / f"slides/atlas10x/{name}_10x.tiff", spec=TileSpec(target_mpp=1.0)) as coarse,
        prepare(shared_data / f"slides/atlas20x/{name}_20x.tiff", spec=TileSpec(target_mpp=1.0)) as twin,
    ):
        assert fine.tissue.area_um2 == pytest.approx(coarse.tissue.area_um2, rel=0.02)
        assert abs(len(twin.plan) - len(coarse.plan)) <= max(2, 0.01 * len(coarse.plan))
        assert twin.plan.tile_size_l0_px[0] == pytest.approx(2 * coarse.plan.tile_size_l0_px[0], abs=1)


@pytest.mark.parametrize(
    ("name", "override", "outcome"),
    [
        ("CMU-1-Small-Region.svs", None, "tiles"),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.5, "tiles"),
        ("tcga-cr-7395-01a-01-ts1.svs", None, FailureReason.NO_MPP),
        ("ndpi_test3-DAPI-2-387.ndpi", None, "empty"),
        ("odd/boxes.tiff", None, FailureReason.IMPLAUSIBLE_MPP),
        ("odd/small.svs", None, "empty"),
        ("odd/slaid_karolinska-mask.tif", 0.5, "empty"),
        ("odd/slaid_karolinska-mask.tif", None, FailureReason.NO_MPP),
        ("odd/unreadable.svs", None, FailureReason.READ),
        ("odd/unopenable.tiff", None, FailureReason.OPEN),
        ("odd/histolab_broken.svs", None, FailureReason.OPEN),
        ("odd/lfs_pointer_default.svs", None, FailureReason.OPEN),
        ("odd/gcp_lfs_or_stub.ndpi", None, FailureReason.OPEN),
        ("odd/flat-rgb.tif", None, FailureReason.NO_MPP),
        ("odd/uint16-grey.tif", None, FailureReason.OPEN),
    ],
)
def test_an_odd_slide_has_tiles_is_empty_or_is_refused_with_its_reason(
    shared_data: Path, name: str, override: float | None, outcome: str | FailureReason
) -> None:
    path = shared_data / "slides" / name
    if isinstance(outcome, FailureReason):
        with pytest.raises(SlideError) as failure:
            prepare(path, override)
        assert failure.value.reason is outcome
        return
    with prepare(path, override) as slide:
        assert (len(slide.plan) > 0) == (outcome == "tiles")
        read = [i for batch in slide.reader.tiles(slide.plan) for i in batch.index]
        assert read == list(range(len(slide.plan)))
