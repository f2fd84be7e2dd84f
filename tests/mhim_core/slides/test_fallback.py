"""A level that is broken as a whole: a finer one takes its place, and that is said; single bad tiles change nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.facts import plan_facts
from mhim_core.errors import SlideError
from mhim_core.features import SourceHint
from mhim_core.slides import reader as reader_module
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.source_identity import source_identity
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason, SlideId

SPEC = TileSpec(target_mpp=1.0, tile_px=128)
"""Tiles come from level 1 of a slide of 0.5 µm/px, tissue is looked for in level 2."""


@pytest.fixture
def slide(tmp_path: Path, simple: np.ndarray) -> Path:
    """Levels of downsample 1, 2 and 4 with deflate, whose damage every decoder sees."""
    path = tmp_path / "slide.tiff"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            pixels = simple[: 1100 // 4 * 4, : 1500 // 4 * 4]
            pixels = pixels.reshape(pixels.shape[0] // step, step, pixels.shape[1] // step, step, 3).mean(axis=(1, 3))
            file.write(
                pixels.round().astype(np.uint8),
                photometric="rgb",
                tile=(128, 128),
                compression="zlib",
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="centimeter",
                subfiletype=int(step > 1),
                metadata=None,
            )
    return path


def overwrite(path: Path, level: int, share: float = 1.0) -> None:
    """The tiles of a level, or the first of them, become garbage."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    data = bytearray(path.read_bytes())
    for offset, num_bytes in places[: round(share * len(places))]:
        data[offset : offset + num_bytes] = b"\x55" * num_bytes
    path.write_bytes(data)


def empty_table(path: Path, level: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[level].tags["TileByteCounts"]
        tag.overwrite((0,) * len(tag.value))


def prepare(path: Path, backend: str = "auto", spec: TileSpec = SPEC) -> PreparedSlide:
    return prepare_slide(
        path, spec=TileSpec(target_mpp=spec.target_mpp, tile_px=128, backend=backend), policy=SlidePolicy()
    )


def tiles_of(slide: PreparedSlide) -> np.ndarray:
    return np.concatenate([batch.tiles for batch in slide.reader.tiles(slide.plan)])


@pytest.mark.parametrize("backend", ["auto", "tifffile"])
@pytest.mark.parametrize("damage", [overwrite, empty_table])
def test_tiles_of_a_broken_level_are_cut_from_the_next_finer_one_at_their_own_resolution(
    slide: Path, damage: Callable[[Path, int], None], backend: str
) -> None:
    with prepare(slide, backend) as whole:
        assert (whole.plan.level, whole.fallback) == (1, "")
        tiles, coords, effective = tiles_of(whole), whole.plan.coords_l0_px, whole.plan.effective_mpp
    damage(slide, 1)
    with prepare(slide, backend) as broken:
        assert broken.plan.level == 0
        assert broken.info.unreadable == (1,)
        assert "level 1" in broken.fallback
        assert broken.fallback in broken.decoding
        assert broken.plan.read_px == (256, 256)
        assert broken.plan.effective_mpp == effective
        assert np.array_equal(broken.plan.coords_l0_px, coords)
        assert np.abs(tiles_of(broken).astype(int) - tiles).mean() < 8
        assert broken.reader.bad_tiles == []
        hint = SourceHint("", 0, "")
        facts = plan_facts(SlideId("a"), broken, SPEC, source_identity(slide), hint, "")
        assert facts.reading.fallback == broken.fallback


@pytest.mark.parametrize("damage", [overwrite, empty_table])
def test_tissue_is_found_in_a_finer_level_where_the_coarse_one_is_broken(
    slide: Path, damage: Callable[[Path, int], None]
) -> None:
    with prepare(slide) as whole:
        coords = whole.plan.coords_l0_px
    damage(slide, 2)
    with prepare(slide) as broken:
        assert broken.info.unreadable == (2,)
        assert broken.fallback
        assert broken.plan.level == 1
        assert np.array_equal(broken.plan.coords_l0_px, coords)


def test_a_broken_level_of_jpeg_tiles_is_left_out_as_well(tmp_path: Path, simple: np.ndarray) -> None:
    path = tmp_path / "jpeg.tiff"
    write_pyramid(path, simple, mpp=(0.5, 0.5), downsamples=(1, 2, 4))
    with prepare(path) as whole:
        tiles = tiles_of(whole)
    overwrite(path, 1)
    with prepare(path) as broken:
        assert broken.reader.decoder == "direct"
        assert (broken.plan.level, broken.info.unreadable) == (0, (1,))
        assert np.abs(tiles_of(broken).astype(int) - tiles).mean() < 8


def test_a_level_with_some_bad_tiles_is_no_broken_level(slide: Path) -> None:
    overwrite(slide, 1, share=0.4)
    with prepare(slide) as damaged:
        assert (damaged.plan.level, damaged.fallback) == (1, "")
        with pytest.raises(SlideError) as broken:
            tiles_of(damaged)
        assert broken.value.reason is FailureReason.READ


def test_level_0_has_no_other_to_take_its_place(slide: Path) -> None:
    overwrite(slide, 0)
    with prepare(slide, spec=TileSpec(target_mpp=0.5)) as broken:
        assert broken.fallback == ""
        with pytest.raises(SlideError) as refused:
            tiles_of(broken)
    assert refused.value.reason is FailureReason.READ


def test_a_slide_of_which_nothing_is_stored_is_empty(slide: Path) -> None:
    for level in (0, 1, 2):
        empty_table(slide, level)
    with prepare(slide) as blank:
        assert len(blank.plan) == 0
        assert blank.fallback == ""


def test_one_of_which_nothing_can_be_read_fails(slide: Path) -> None:
    for level in (0, 1, 2):
        overwrite(slide, level)
    with pytest.raises(SlideError) as refused:
        prepare(slide)
    assert refused.value.reason is FailureReason.READ


def test_a_finer_level_too_large_to_look_at_is_not_read(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_MAX_FALLBACK_PX", 1000)
    empty_table(slide, 2)
    with pytest.raises(SlideError) as refused:
        prepare(slide)
    assert refused.value.reason is FailureReason.READ
