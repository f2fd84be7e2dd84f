"""Outlines: valid polygons that cover exactly what they were made of, whatever its shape."""

import numpy as np
import pytest

from mhim_core.features import MppUsed
from mhim_core.slides.annotations import Polygon
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.outlines import area_of, mask_outlines, tile_outlines
from mhim_core.slides.raster import rasterise

TILE = 8


def tiles_of(picture: str) -> np.ndarray:
    """The tiles, TILE pixels each, at the `#` of a picture."""
    rows = picture.split()
    places = [(x * TILE, y * TILE) for y, row in enumerate(rows) for x, mark in enumerate(row) if mark == "#"]
    return np.array(places, np.int32).reshape(-1, 2)


def check_valid(polygons: tuple[Polygon, ...]) -> None:
    """As OGC and RFC 7946 have it: simple rings, borders to the left, holes to the right and within their border."""
    for polygon in polygons:
        for number, ring in enumerate(polygon.rings):
            assert len(ring) >= 4
            assert len({tuple(point) for point in ring.tolist()}) == len(ring), "a ring touches itself"
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps != 0).sum(axis=1) == 1).all(), "every edge is horizontal or vertical, and has a length"
            x, y = ring.T
            signed = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
            assert signed > 0 if number == 0 else signed < 0
        border = polygon.rings[0]
        for hole in polygon.rings[1:]:
            assert (hole.min(axis=0) >= border.min(axis=0)).all()
            assert (hole.max(axis=0) <= border.max(axis=0)).all()


def covered(polygons: tuple[Polygon, ...], shape: tuple[int, int]) -> np.ndarray:
    return rasterise(polygons, shape, (1.0, 1.0))


@pytest.mark.parametrize(
    ("picture", "num_polygons", "num_holes"),
    [
        ("#", 1, 0),
        ("##", 1, 0),
        ("#.#", 2, 0),
        ("#. .#", 2, 0),  # corners do not join
        ("### #.# ###", 1, 1),
        ("##. #.. ###", 1, 0),  # a bay
        ("##. #.# ###", 1, 1),  # a bay that is open at a corner alone: a hole that touches its border there
        (".## #.# ###", 1, 1),
        ("##### #.#.# #####", 1, 2),
        ("#### #.## ##.# ####", 1, 2),  # two holes that touch at a corner
        ("##### #...# #.#.# #...# #####", 2, 1),  # an island in a lake
    ],
)
def test_shapes(picture: str, num_polygons: int, num_holes: int) -> None:
    coords = tiles_of(picture)
    polygons = tile_outlines(coords, (TILE, TILE))
    check_valid(polygons)
    assert len(polygons) == num_polygons
    assert sum(len(polygon.rings) - 1 for polygon in polygons) == num_holes
    assert area_of(polygons) == len(coords) * TILE**2
    expected = np.zeros((6 * TILE, 6 * TILE), bool)
    for x, y in coords.tolist():
        expected[y : y + TILE, x : x + TILE] = True
    assert (covered(polygons, expected.shape) == expected).all()


@pytest.mark.parametrize("seed", range(8))
def test_random_areas_are_valid_and_cover_the_same_pixels(seed: int) -> None:
    is_there = np.random.default_rng(seed).random((13, 17)) < (0.3, 0.5, 0.6, 0.75)[seed % 4]
    mask = TissueMask(is_tissue=is_there, mask_mpp=8.0)
    polygons = mask_outlines(mask, MppUsed(0.5, 0.25, "slide"), (17 * 16, 13 * 32))
    check_valid(polygons)
    again = rasterise(polygons, is_there.shape, (0.5 / 8, 0.25 / 8))
    assert (again == is_there).all()
    assert area_of(polygons) * 0.5 * 0.25 == pytest.approx(mask.area_um2)


def test_positions_that_were_rounded_leave_no_slivers() -> None:
    stride = 405.3
    coords = np.array([(round(x * stride), round(y * stride)) for y in range(4) for x in range(5)], np.int32)
    [polygon] = tile_outlines(coords, (405, 405))
    check_valid((polygon,))
    assert len(polygon.rings) == 1
    assert len(polygon.rings[0]) == 4, "a rectangle"


def test_overlapping_tiles_and_tiles_anywhere_are_a_union() -> None:
    coords = np.array([(0, 0), (128, 0), (128, 128), (1000, 77)], np.int32)
    polygons = tile_outlines(coords, (256, 256))
    check_valid(polygons)
    expected = np.zeros((400, 1300), bool)
    for x, y in coords.tolist():
        expected[y : y + 256, x : x + 256] = True
    assert (covered(polygons, expected.shape) == expected).all()


def test_nothing_has_no_outline_and_the_slide_s_edge_cuts() -> None:
    assert tile_outlines(np.zeros((0, 2), np.int32), (8, 8)) == ()
    mask = TissueMask(is_tissue=np.ones((2, 2), bool), mask_mpp=8.0)
    [polygon] = mask_outlines(mask, MppUsed(1.0, 1.0, "slide"), (13, 16))
    assert polygon.rings[0].max(axis=0).tolist() == [13, 16]
    assert mask_outlines(mask, MppUsed(1.0, 1.0, "slide"), (8, 8))[0].rings[0].max() == 8
