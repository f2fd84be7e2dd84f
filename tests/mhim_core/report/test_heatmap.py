"""Heat maps: colour only where tiles are, at the right place, by rank."""

import time

import numpy as np
import pytest

from mhim_core.report.heatmap import heatmap, percentile_rank
from mhim_core.report.images import encode_jpeg, encode_png, fit, media_type, montage


def white(height=100, width=200):
    return np.full((height, width, 3), 250, dtype=np.uint8)


def draw(coords, attention, thumbnail=None, **options):
    options = {"tile_size_l0_px": (100, 100), "slide_size_l0_px": (2000, 1000), "with_bar": False} | options
    return heatmap(white() if thumbnail is None else thumbnail, coords, attention, **options)


def test_only_tiles_are_coloured_and_at_their_place():
    image = draw([[0, 0], [1900, 900]], [0.1, 0.9])
    changed = (image != 250).any(axis=2)
    expected = np.zeros((100, 200), dtype=bool)
    expected[:10, :10] = True
    expected[90:, 190:] = True
    np.testing.assert_array_equal(changed, expected)


def test_the_highest_rank_is_yellow_and_the_lowest_violet_however_skewed_the_values():
    image = draw([[0, 0], [500, 0], [1000, 0]], [1e-9, 2e-9, 1.0], opacity=1.0)
    low, middle, high = (image[5, x].astype(int) for x in (5, 55, 105))
    assert high[0] > 200
    assert high[2] < 80
    assert low.sum() < middle.sum() < high.sum()


def test_overlapping_tiles_are_averaged():
    once = draw([[0, 0], [500, 0], [1000, 0]], [0, 1, 2], opacity=1.0)
    image = draw([[0, 0], [500, 0], [500, 0]], [1, 0, 2], opacity=1.0)
    assert np.abs(image[5, 55].astype(int) - once[5, 55]).max() <= 1  # the mean of ranks 0 and 1 is 0.5


def test_tiles_smaller_than_a_pixel_and_over_the_edge_are_drawn():
    image = draw([[0, 0], [1999, 999], [1950, 950]], [1, 2, 3], tile_size_l0_px=(1, 1))
    assert (image[0, 0] != 250).any()
    assert draw([[1950, 950]], [1.0]).shape == (100, 200, 3)


def test_no_tiles_give_the_thumbnail_and_the_input_is_left_alone():
    thumbnail = white()
    np.testing.assert_array_equal(draw(np.zeros((0, 2)), [], thumbnail), white())
    draw([[0, 0]], [1.0], thumbnail)
    np.testing.assert_array_equal(thumbnail, white())


def test_the_bar_stands_beside_the_slide_and_outlines_are_red():
    image = draw([[0, 0], [500, 0]], [0, 1], with_bar=True, outlined=[1])
    assert image.shape == (100, 264, 3)
    np.testing.assert_array_equal(image[0, 55], (214, 39, 40))
    assert image[30, 225, 0] > image[70, 225, 0]  # yellow above violet


@pytest.mark.parametrize("attention", [[np.nan], [1.0, 2.0], [[1.0]]])
def test_attention_that_does_not_fit_is_refused(attention):
    with pytest.raises(ValueError, match=r"attention|values"):
        draw([[0, 0]], attention)


def test_ranks_run_from_zero_to_one_and_ties_share():
    np.testing.assert_allclose(percentile_rank([3, 1, 2]), [1, 0, 0.5])
    np.testing.assert_allclose(percentile_rank([1, 1, 2]), [0.25, 0.25, 1])
    np.testing.assert_allclose(percentile_rank([7, 7]), [0.5, 0.5])
    np.testing.assert_allclose(percentile_rank([7]), [0.5])


def test_a_large_slide_takes_well_under_five_seconds():
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(450), np.arange(445)), axis=-1).reshape(-1, 2) * 256
    start = time.process_time()
    image = heatmap(
        white(2000, 2000),
        grid,
        generator.random(len(grid)),
        tile_size_l0_px=(256, 256),
        slide_size_l0_px=(115_200, 115_200),
    )
    encode_jpeg(image)
    assert len(grid) > 200_000
    assert time.process_time() - start < 5


def test_a_montage_is_in_reading_order_on_white():
    tiles = [np.full((20, 20, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    sheet = montage(tiles, columns=2, tile_px=10, gap_px=2)
    assert sheet.shape == (22, 22, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((0, 0), (0, 12), (12, 0), (12, 12))] == [10, 20, 30, 255]
    with pytest.raises(ValueError, match="at least one tile"):
        montage([])


def test_encoded_images_are_recognised_and_reproducible():
    image = white()
    assert media_type(encode_png(image)) == "image/png"
    assert media_type(encode_jpeg(image)) == "image/jpeg"
    assert encode_png(image) == encode_png(image)
    with pytest.raises(ValueError, match="neither PNG, JPEG nor WebP"):
        media_type(b"<svg onload=...>")
    with pytest.raises(ValueError, match="uint8"):
        encode_png(image.astype(float))


def test_fit_reduces_and_never_enlarges():
    assert fit(white(100, 200), 50).shape == (25, 50, 3)
    assert fit(white(100, 200), 500).shape == (100, 200, 3)
