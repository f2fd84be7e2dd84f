"""One slide's pictures without its file: the heat map still lies where the tiles are."""

import io

import numpy as np
import pytest
from PIL import Image

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
    width, height = Image.open(io.BytesIO(unknown.overview)).size
    assert width / height == 768 / 512


def test_the_most_attended_tiles_come_first_and_ties_by_place():
    assert top_tiles([0.2, 0.5, 0.2, 0.5], 3).tolist() == [1, 3, 0]


def test_a_long_narrow_slide_is_drawn_so_that_its_short_side_can_be_read():
    drawn = draw_slide(None, slide((43 * 400, 400)), TileSpec(), 2)
    width, height = Image.open(io.BytesIO(drawn.heatmap)).size
    assert height >= 150, "it was 900 x 22 px"
    assert width / height == pytest.approx(43, rel=0.02)
    assert picture_side_px(1000, 900) == picture_side_px(10, 9) == 900
    assert picture_side_px(1, 1000) == 7200, "a bound for what is longer still"
