"""Tiles by annotated regions and by masks: which are kept, of which class, what is refused, what is identity."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mhim_core.errors import ConfigError, SlideError
from mhim_core.features import TILE_CLASS
from mhim_core.fingerprint import fingerprint
from mhim_core.slides.picture import draw_overview
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.regions import RegionFiles, slide_regions, task_regions
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod, stored_spec, tiling_identity
from mhim_core.types import FailureReason, SlideId, SlideTask

Write = Callable[..., Path]
TILE = 128
LEFT = ((304, 208), (816, 896))
"""The left half of the tissue of `simple`, from (300, 200) to (1300, 900); on the mask's grid of 16 pixels."""


def box(corners: Any, name: str = "Tumor", kind: str = "Polygon") -> dict[str, Any]:
    (left, top), (right, bottom) = corners
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {"classification": {"name": name}}
    coordinates = [ring] if kind == "Polygon" else ring
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def annotation(*features: dict[str, Any]) -> RegionFiles:
    return RegionFiles(json.dumps(list(features)).encode())


def prepare(path: Path, files: RegionFiles, **spec: Any) -> PreparedSlide:
    made = TileSpec(tile_px=TILE, **spec)
    return prepare_slide(path, spec=made, policy=SlidePolicy(), regions=slide_regions(files, made))


def places(slide: PreparedSlide) -> set[tuple[int, int]]:
    return {(x, y) for x, y in slide.plan.coords_l0_px.tolist()}


def share_in(corners: Any, x: int, y: int) -> float:
    (left, top), (right, bottom) = corners
    width, height = min(right, x + TILE) - max(left, x), min(bottom, y + TILE) - max(top, y)
    return max(0, width) * max(0, height) / TILE**2


def test_roi_and_exclude_leave_the_tiles_of_which_enough_lies_inside(write_slide: Write, simple: np.ndarray) -> None:
    path = write_slide(simple)
    with prepare(path, RegionFiles()) as slide:
        whole = places(slide)
    files = annotation(box(LEFT), box(((304, 208), (496, 400)), "Fold"))
    for spec, is_inside in (
        ({"roi": ("Tumor",)}, lambda x, y: share_in(LEFT, x, y) >= 0.5),
        ({"roi": ("Tumor",), "min_roi": 1.0}, lambda x, y: share_in(LEFT, x, y) == 1),
        ({"exclude": ("Fold",)}, lambda x, y: share_in(((304, 208), (496, 400)), x, y) <= 0.5),
        ({"exclude": ("Fold",), "roi": ("Tumor",), "min_roi": 0.7},
         lambda x, y: share_in(LEFT, x, y) - share_in(((304, 208), (496, 400)), x, y) >= 0.7),
    ):  # fmt: skip
        with prepare(path, files, **spec) as slide:
            assert places(slide) == {place for place in whole if is_inside(*place)}
            assert 0 < len(slide.plan) < len(whole)
            assert slide.view.inside_share is not None
    with prepare(path, files, roi=("Tumor",), min_tissue=0) as slide:  # background too, but of the region alone
        assert places(slide) == {(x, y) for x in range(0, 1500, TILE) for y in range(0, 1100, TILE)
                                 if share_in(LEFT, x, y) >= 0.5}  # fmt: skip


def test_tissue_share_stays_that_of_the_tissue(write_slide: Write, simple: np.ndarray) -> None:
    path = write_slide(simple)
    with prepare(path, RegionFiles()) as slide:
        share = dict(zip(map(tuple, slide.plan.coords_l0_px.tolist()), slide.plan.tissue_share.tolist(), strict=True))
    with prepare(path, annotation(box(LEFT)), roi=("Tumor",)) as slide:
        for place, own in zip(slide.plan.coords_l0_px.tolist(), slide.plan.tissue_share.tolist(), strict=True):
            assert share[tuple(place)] == own


def test_a_tile_has_the_class_that_covers_half_of_it_and_of_several_the_smaller(
    write_slide: Write, simple: np.ndarray
) -> None:
    focus = ((512, 384), (768, 640))
    files = annotation(box(LEFT, "Stroma"), box(focus, "Tumor"))
    with prepare(write_slide(simple), files, tile_classes=True) as slide:
        classes = dict(zip(map(tuple, slide.plan.coords_l0_px.tolist()), slide.plan.columns[TILE_CLASS], strict=True))
        assert slide.view.class_shares is not None
        shares = slide.view.class_shares
    for (x, y), name in classes.items():
        expected = "Tumor" if share_in(focus, x, y) >= 0.5 else "Stroma" if share_in(LEFT, x, y) >= 0.5 else ""
        assert name == expected, (x, y)
    assert set(classes.values()) == {"Tumor", "Stroma", ""}
    assert shares["Tumor"] == pytest.approx(256 * 256 / (1000 * 700), rel=0.05)
    assert shares["Stroma"] == pytest.approx(0.512 * 688 / 700, rel=0.06)


@pytest.mark.parametrize(
    "features",
    [
        [box(((300, 200), (1700, 900)))],
        [box(((-200, 200), (400, 900)))],
        [box(((30_000, 20_000), (81_200, 90_000)))],
        [box(LEFT), box(LEFT, kind="LineString")],
    ],
    ids=["right of the slide", "left of it", "another level", "no area"],
)
def test_regions_that_are_not_this_slide_s_or_enclose_nothing_are_refused(
    write_slide: Write, simple: np.ndarray, features: list[dict[str, Any]]
) -> None:
    path = write_slide(simple)
    for spec in ({"roi": ("Tumor",)}, {"exclude": ("Tumor",)}):
        with pytest.raises(SlideError) as failure:
            prepare(path, annotation(*features), **spec)
        assert failure.value.reason is FailureReason.BAD_ANNOTATION
    with prepare(path, annotation(*features, box(LEFT, "Used")), roi=("Used",)) as slide:  # what is not used may be so
        assert len(slide.plan)


def test_a_hand_may_slip_over_the_slide_s_edge(write_slide: Write, simple: np.ndarray) -> None:
    with prepare(write_slide(simple), annotation(box(((-10, -5), (1510, 1105)))), roi=("Tumor",)) as slide:
        assert slide.view.inside_share == 1.0


def test_a_class_that_other_slides_have_may_be_missing_in_one(write_slide: Write, simple: np.ndarray) -> None:
    files = annotation(box(LEFT, "Stroma"))
    with prepare(write_slide(simple), files, roi=("Stroma", "Tumor"), exclude=("Fold",), tile_classes=True) as slide:
        assert set(slide.plan.columns[TILE_CLASS]) == {"Stroma"}
        assert slide.view.class_shares is not None
        assert slide.view.class_shares["Tumor"] == 0


def test_a_slide_without_the_region_is_empty_and_one_outside_of_the_tissue_is_told(
    write_slide: Write, simple: np.ndarray
) -> None:
    path = write_slide(simple)
    with prepare(path, annotation(box(LEFT, "Stroma")), roi=("Tumor",)) as slide:
        assert (len(slide.plan), slide.view.inside_share) == (0, 0.0)
        assert slide.view.warning()
    with prepare(path, annotation(box(LEFT)), roi=("Tumor",)) as slide:
        assert not slide.view.warning()


def picture_of(mask: np.ndarray, form: str = "PNG", mode: str = "L") -> RegionFiles:
    data = io.BytesIO()
    picture = Image.fromarray(mask.astype(np.uint8))
    if mode == "P":
        picture.putpalette([0, 0, 0] * 256)  # all black: the index tells
    elif mode != "L":
        picture = picture.convert(mode)
    picture.save(data, form)
    return RegionFiles(mask=data.getvalue())


@pytest.mark.parametrize(
    ("form", "mode", "side"), [("PNG", "L", 150), ("PNG", "RGBA", 75), ("TIFF", "L", 600), ("PNG", "P", 94)]
)
def test_a_mask_s_tissue_is_what_is_not_zero_at_any_resolution(
    write_slide: Write, simple: np.ndarray, form: str, mode: str, side: int
) -> None:
    mask = np.zeros((round(side * 1100 / 1500), side), np.uint8)
    mask[round(side * 256 / 1500) : round(side * 640 / 1500), : round(side * 512 / 1500)] = 1
    with prepare(write_slide(simple), picture_of(mask, form, mode), tissue=TissueMethod.mask, min_tissue=0.5) as slide:
        assert places(slide) == {(x, y) for x in (0, 128, 256, 384) for y in (256, 384, 512)}
        assert slide.view.tissue_mm2 == pytest.approx(512 * 384 * 0.25e-6, rel=0.1)


def test_a_mask_that_is_missing_or_of_another_shape_or_no_picture_is_refused(
    write_slide: Write, simple: np.ndarray
) -> None:
    path = write_slide(simple)
    for files, reason in (
        (RegionFiles(), FailureReason.NO_ANNOTATION),
        (picture_of(np.ones((150, 110))), FailureReason.BAD_ANNOTATION),
        (RegionFiles(mask=b"no picture"), FailureReason.BAD_ANNOTATION),
        (picture_of(np.ones((110, 150)), "BMP"), FailureReason.BAD_ANNOTATION),
    ):
        with pytest.raises(SlideError) as failure:
            prepare(path, files, tissue=TissueMethod.mask)
        assert failure.value.reason is reason


def test_the_rule_is_identity_and_can_be_read_back() -> None:
    specs = [
        TileSpec(tissue=TissueMethod.glass),
        TileSpec(tissue=TissueMethod.glass, roi=("Tumor",)),
        TileSpec(tissue=TissueMethod.glass, exclude=("Tumor",)),
        TileSpec(tissue=TissueMethod.glass, exclude=("Tumor",), min_roi=0.75),
        TileSpec(tissue=TissueMethod.glass, tile_classes=True),
        TileSpec(tissue=TissueMethod.mask),
    ]
    assert len({fingerprint(tiling_identity(spec)) for spec in specs}) == len(specs)
    for spec in specs:
        assert stored_spec(json.loads(json.dumps(tiling_identity(spec))), "the slides") == spec
    assert TileSpec(roi=("b ", "a")) == TileSpec(roi=("a", "b"))
    assert "regions" not in tiling_identity(specs[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"roi": ("a",), "exclude": ("a",)},
        {"roi": ("a",), "min_roi": 0.0},
        {"min_roi": 0.7},
        {"tissue": TissueMethod.mask, "keep_pen": True},
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TileSpec(**wrong)


def test_the_content_is_the_task_s_or_the_slide_fails() -> None:
    spec = TileSpec(roi=("Tumor",))
    digest = slide_regions(annotation(box(LEFT)), spec).digest
    task = SlideTask(SlideId("s"), "s.svs", regions=digest)
    assert task_regions(task, annotation(box(LEFT), box(LEFT, "Other")), spec).digest == digest
    for files in (annotation(box(((1, 1), (9, 9)))), RegionFiles()):
        with pytest.raises(SlideError) as failure:
            task_regions(task, files, spec)
        assert failure.value.reason is FailureReason.BAD_ANNOTATION
    assert slide_regions(annotation(box(LEFT)), TileSpec()).digest == ""
    assert slide_regions(RegionFiles(), spec).digest == ""


def test_the_overview_shows_where_tiles_may_lie_and_the_classes(write_slide: Write, simple: np.ndarray) -> None:
    path = write_slide(simple)
    files = annotation(box(LEFT, "Tümör ✓"), box(((900, 300), (1200, 600)), "Stroma"))
    with prepare(path, files, roi=("Tümör ✓",), tile_classes=True) as slide:
        plain = np.asarray(draw_overview(slide.reader, slide.mpp, slide.tissue, slide.plan, max_side_px=500))
        shown = np.asarray(draw_overview(slide.reader, slide.mpp, slide.tissue, slide.plan, slide.regions, 500))
    assert shown.shape == plain.shape
    right = (slice(220, 280), slice(320, 420))  # tissue outside of the region, without an outline
    assert shown[right].mean() > plain[right].mean() + 20
    inside = (slice(120, 250), slice(120, 250))
    assert np.abs(shown[inside].astype(int) - plain[inside]).mean() < 25
