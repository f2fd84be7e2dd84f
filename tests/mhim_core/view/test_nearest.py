"""Similar tiles, among a sample that is bounded and always the same."""

import numpy as np

from mhim_core.types import SlideId
from mhim_core.view.nearest import MAX_SLIDES, MAX_TILES_A_SLIDE, draw_sample, nearest_tiles


def features(slide_id: str, num: int) -> np.ndarray:
    return np.random.default_rng(list(slide_id.encode())).standard_normal((num, 8)).astype(np.float16)


def test_the_sample_is_bounded_and_says_of_what_it_is() -> None:
    lengths = {SlideId(f"s{number}"): 1000 for number in range(100)} | {SlideId("empty"): 0}
    sample = draw_sample(lengths, lambda slide_id: features(slide_id, 1000))
    assert len(sample.slide_ids) == MAX_SLIDES
    assert len(sample.row_S) == MAX_SLIDES * MAX_TILES_A_SLIDE
    assert (sample.num_slides, sample.num_tiles) == (100, 100_000)
    assert np.allclose(np.linalg.norm(sample.unit_SD, axis=1), 1)
    assert (
        draw_sample(dict(reversed(lengths.items())), lambda slide_id: features(slide_id, 1000)).slide_ids
        == sample.slide_ids
    )


def test_slides_that_cannot_be_read_are_named() -> None:
    sample = draw_sample(
        {SlideId("a"): 3, SlideId("b"): 3}, lambda slide_id: features("a", 3) if slide_id == "a" else None
    )
    assert sample.slide_ids == ("a",)
    assert sample.left_out == ("b",)


def test_the_nearest_come_first_without_the_tile_itself_and_two_of_a_slide_at_most() -> None:
    table = {SlideId("a"): features("a", 20), SlideId("b"): features("b", 20)}
    table[SlideId("b")][:5] = table[SlideId("a")][4]
    sample = draw_sample(dict.fromkeys(table, 20), table.__getitem__)
    found = nearest_tiles(sample, table[SlideId("a")][4], 3, ("a", 4))
    assert [(each.slide_id, each.row) for each in found[:2]] == [("b", 0), ("b", 1)]
    assert found[0].similarity > 0.999
    assert found[2].slide_id == "a"
    assert found[2].row != 4
