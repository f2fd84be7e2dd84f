"""One slide's pictures: of a broken level those of the finer one; without its file the heat map lies where the tiles
are."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.features import MppUsed
from mhim_core.report.slide_pictures import AttendedSlide, draw_slide, picture_side_px, top_tiles
from mhim_core.slides.spec import TileSpec

COORDS = np.array([[0, 0], [512, 0], [512, 256]], np.int32)


def slide(size_l0_px) -> AttendedSlide:
    return AttendedSlide(COORDS, [0.1, 0.7, 0.2], (256, 256), size_l0_px, MppUsed(0.5, 0.5, "slide"), 1.0)


def test_features_that_do_not_state_the_slides_size_are_drawn_as_far_as_their_tiles_reach():
    unknown, stated = (draw_slide(None, slide(size), TileSpec(), 2) for size in ((0, 0), (768, 512)))
    assert unknown == stated
    assert unknown.top_tiles is None
    assert unknown.overview is None
    width, height = Image.open(io.BytesIO(unknown.heatmap)).size
    assert width / height == 768 / 512


def test_the_most_attended_tiles_come_first_and_ties_by_place():
    assert top_tiles([0.2, 0.5, 0.2, 0.5], 3).tolist() == [1, 3, 0]


def test_the_tiles_of_a_broken_level_are_shown_as_the_finer_one_has_them(tmp_path: Path):
    pixels = np.full((1_024, 1_536, 3), (140, 60, 120), np.uint8)
    write_pyramid(tmp_path / "a.tiff", pixels, mpp=(0.5, 0.5), downsamples=(1, 2, 4))
    with tifffile.TiffFile(tmp_path / "a.tiff", mode="r+") as file:
        counts = file.pages[1].tags["TileByteCounts"]
        counts.overwrite((0,) * len(counts.value))
    drawn = draw_slide(tmp_path / "a.tiff", slide((1_536, 1_024)), TileSpec(target_mpp=1.0, tile_px=128), 1)
    assert drawn.top_tiles is not None
    shown = np.asarray(Image.open(io.BytesIO(drawn.top_tiles)))
    assert np.abs(shown[32:96, 32:96].astype(int) - (140, 60, 120)).max() < 8, "and not white"


def test_a_long_narrow_slide_is_drawn_so_that_its_short_side_can_be_read():
    drawn = draw_slide(None, slide((43 * 400, 400)), TileSpec(), 2)
    width, height = Image.open(io.BytesIO(drawn.heatmap)).size
    assert height >= 150, "it was 900 x 22 px"
    assert width / height == pytest.approx(43, rel=0.02)
    assert picture_side_px(1000, 900) == picture_side_px(10, 9) == 900
    assert picture_side_px(1, 1000) == 7200, "a bound for what is longer still"
