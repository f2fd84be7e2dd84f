import numpy as np
from PIL import Image, ImageDraw

from mhim_core.demo.slide import TILE_PX, FocusKind, PaintedSlide, paint_slide


def paint(seed: int, *, loud: bool = False, quiet: bool = False) -> PaintedSlide:
    return paint_slide(np.random.default_rng(seed), loud=loud, quiet=quiet)


def focus_mask(slide: PaintedSlide, kind: FocusKind) -> np.ndarray:
    picture = Image.new("1", slide.pixels.shape[1::-1])
    for focus in slide.foci:
        if focus.kind is kind:
            ImageDraw.Draw(picture).polygon(focus.outline, fill=1)
    return np.asarray(picture)


def test_the_same_generator_paints_the_same_slide() -> None:
    assert np.array_equal(paint(5, loud=True).pixels, paint(5, loud=True).pixels)
    assert not np.array_equal(paint(5).pixels[:1000, :1000], paint(6).pixels[:1000, :1000])


def test_a_slide_has_the_foci_that_were_asked_for_and_they_lie_in_tissue() -> None:
    assert paint(7).foci == ()
    assert {focus.kind for focus in paint(7, loud=True).foci} == {FocusKind.loud}
    assert {focus.kind for focus in paint(7, quiet=True).foci} == {FocusKind.quiet}
    slide = paint(7, loud=True, quiet=True)
    assert {focus.kind for focus in slide.foci} == set(FocusKind)
    is_glass = slide.pixels.min(-1) > 225
    for kind in FocusKind:
        assert is_glass[focus_mask(slide, kind)].mean() < 0.25
    assert 0.35 < is_glass.mean() < 0.65


def test_quiet_foci_cover_more_and_differ_less_from_the_tissue_around_them() -> None:
    contrast, area = {kind: [] for kind in FocusKind}, dict.fromkeys(FocusKind, 0)
    for seed in range(6):
        slide = paint(40 + seed, loud=True, quiet=True)
        masks = {kind: focus_mask(slide, kind) for kind in FocusKind}
        is_tissue = slide.pixels.min(-1) < 225
        rest = slide.pixels[is_tissue & ~masks[FocusKind.loud] & ~masks[FocusKind.quiet]].mean()
        for kind, mask in masks.items():
            area[kind] += mask.sum()
            contrast[kind].append(rest - slide.pixels[is_tissue & mask].mean())
    assert area[FocusKind.quiet] > 1.5 * area[FocusKind.loud]
    assert np.mean(contrast[FocusKind.loud]) > 1.5 * np.mean(contrast[FocusKind.quiet])


def test_what_is_painted_does_not_change_the_stain() -> None:
    """So that no model can tell tumour by how a slide is stained."""
    glass = [paint(30, loud=loud, quiet=quiet).pixels[:8, :8] for loud in (False, True) for quiet in (False, True)]
    assert all(np.array_equal(corner, glass[0]) for corner in glass)


def test_a_loud_focus_fills_one_tile() -> None:
    for seed in range(4):
        slide = paint(60 + seed, loud=True)
        mask = focus_mask(slide, FocusKind.loud)
        rows, columns = (size // TILE_PX for size in mask.shape)
        tiles = mask[: rows * TILE_PX, : columns * TILE_PX].reshape(rows, TILE_PX, columns, TILE_PX).mean((1, 3))
        full = np.sort(tiles.ravel())[::-1]
        assert full[1] > 0.4
        assert full[2] < 0.2


def test_stain_strength_varies_between_slides_more_than_tumour_does() -> None:
    means = {True: [], False: []}
    for seed in range(6):
        for has_tumour in (True, False):
            pixels = paint(20 + seed, loud=has_tumour, quiet=has_tumour).pixels[::4, ::4]
            means[has_tumour].append(pixels[pixels.min(-1) < 225].mean())
    gap = abs(np.mean(means[True]) - np.mean(means[False]))
    assert gap < max(np.std(means[True]), np.std(means[False]))
