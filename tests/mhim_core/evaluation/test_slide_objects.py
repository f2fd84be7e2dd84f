"""Which tiles become which objects, and what their measurements are."""

import numpy as np
import pytest

from mhim_core.evaluation.discovery import FoundFocus
from mhim_core.evaluation.slide_objects import (
    AttendedTiles,
    attended_areas,
    centred,
    evidence_areas,
    focus_objects,
    num_at,
    tissue_object,
    top_tiles,
)
from mhim_core.features import MppUsed
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.outlines import area_of
from mhim_core.slides.qupath import ObjectType


def tiles() -> AttendedTiles:
    """Ten tiles in a row, each attended twice as much as the one before; the last two speak for tumour."""
    attention = 2.0 ** np.arange(10)
    tumour = np.array([-1.0] * 8 + [3, 2])
    return AttendedTiles(
        coords_l0_px=np.array([(100 * x, 50) for x in range(10)], np.int32),
        tile_size_l0_px=(100, 100),
        attention_N=attention / attention.sum(),
        mpp=MppUsed(0.5, 0.5, "slide"),
        evidence={"normal": -tumour, "tumour": tumour},
    )


def test_areas_are_the_most_attended_tiles_largest_first() -> None:
    half, fifth = attended_areas(tiles(), (0.2, 0.5))
    assert [half.classification, fifth.classification] == ["Attention top 50%", "Attention top 20%"]
    assert fifth.measurements["tiles"] == 2
    assert fifth.measurements["share of attention"] == pytest.approx((256 + 512) / 1023)
    assert fifth.measurements["area mm2"] == pytest.approx(2 * 100**2 * 0.25 / 1e6)
    [polygon] = fifth.polygons
    assert polygon.rings[0].min(axis=0).tolist() == [800, 50]
    assert area_of(half.polygons) == 5 * 100**2
    assert half.kind is ObjectType.annotation


def test_evidence_is_of_tiles_that_speak_for_the_class() -> None:
    objects = {each.classification: each for each in evidence_areas(tiles(), (0.5,))}
    assert objects["Evidence tumour top 50%"].measurements == {
        "tiles": 2.0,
        "sum of evidence": 5.0,
        "area mm2": pytest.approx(0.005),
    }
    assert objects["Evidence normal top 50%"].measurements["tiles"] == 5
    silent = AttendedTiles(
        coords_l0_px=tiles().coords_l0_px,
        tile_size_l0_px=(100, 100),
        attention_N=tiles().attention_N,
        mpp=None,
        evidence={"none": np.zeros(10)},
    )
    assert not list(evidence_areas(silent, (0.5,)))
    assert "area mm2" not in next(attended_areas(silent, (0.5,))).measurements


def test_top_tiles_are_detections_with_rank_and_evidence() -> None:
    first, second = top_tiles(tiles(), 2)
    assert first.kind is ObjectType.detection
    assert first.name == "tile 1"
    assert first.measurements["tile"] == 9
    assert first.measurements["evidence tumour"] == 2
    assert second.measurements["rank"] == 2
    assert first.polygons[0].rings[0].tolist() == [[900, 50], [1000, 50], [1000, 150], [900, 150]]
    assert len(list(top_tiles(tiles(), 99))) == 10


def test_foci_are_numbered_areas_with_what_rests_on_them() -> None:
    foci = [FoundFocus(9, np.array([8, 9]), 0.5, 0.8, 0.3, 0), FoundFocus(2, np.array([2]), 0.1, 0.2, 0.0, 1)]
    first, second = focus_objects(tiles(), foci, "tumour")
    assert (first.classification, first.name, second.name) == ("Focus tumour", "focus 1", "focus 2")
    assert area_of(first.polygons) == 2 * 100**2
    assert first.measurements["necessity"] == 0.3
    assert second.measurements["round"] == 1


def test_shares_and_centring() -> None:
    assert [num_at(share, 10) for share in (0.01, 0.25, 1.0)] == [1, 2, 10]
    assert num_at(0.5, 0) == 0
    assert np.array_equal(centred(np.array([[1.0, 3.0]])), [[-1, 1]])


def test_tissue_has_its_area_and_none_has_no_object() -> None:
    mask = TissueMask(is_tissue=np.array([[True, False], [True, True]]), mask_mpp=8.0)
    [tissue] = tissue_object(mask, MppUsed(0.5, 0.5, "slide"), (32, 32))
    assert tissue.measurements["area mm2"] == pytest.approx(3 * 64e-6)
    nothing = TissueMask(is_tissue=np.zeros((2, 2), bool), mask_mpp=8.0)
    assert not list(tissue_object(nothing, MppUsed(0.5, 0.5, "slide"), (32, 32)))
