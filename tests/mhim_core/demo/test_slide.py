import numpy as np
from PIL import Image, ImageDraw

from mhim_core.demo.slide import FocusKind, PaintedSlide, paint_slide


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
    assert [focus.kind for focus in paint(7, loud=True).foci] == [FocusKind.loud]
    assert {focus.kind for focus in paint(7, quiet=True).foci} == {FocusKind.quiet}
    slide = paint(7, loud=True, quiet=True)
    assert {focus.kind for focus in slide.foci} == set(FocusKind)
    is_glass = slide.pixels.min(-1) > 225
    for kind in FocusKind:
        assert is_glass[focus_mask(slide, kind)].mean() < 0.25
    assert 0.35 < is_glass.mean() < 0.65


def test_quiet_foci_cover_more_and_differ_less_from_the_tissue_around_them() -> None:
    contrast = {kind: [] for kind in FocusKind}
    for seed in range(6):
        slide = paint(40 + seed, loud=True, quiet=True)
        masks = {kind: focus_mask(slide, kind) for kind in FocusKind}
        assert masks[FocusKind.quiet].sum() > 2 * masks[FocusKind.loud].sum()
        is_tissue = slide.pixels.min(-1) < 225
        rest = slide.pixels[is_tissue & ~masks[FocusKind.loud] & ~masks[FocusKind.quiet]].mean()
        for kind, mask in masks.items():
            contrast[kind].append(rest - slide.pixels[is_tissue & mask].mean())
    assert np.mean(contrast[FocusKind.loud]) > 1.5 * np.mean(contrast[FocusKind.quiet])


def test_stain_strength_varies_between_slides_more_than_tumour_does() -> None:
    means = {True: [], False: []}
    for seed in range(6):
        for has_tumour in (True, False):
            pixels = paint(20 + seed, loud=has_tumour, quiet=has_tumour).pixels[::4, ::4]
            means[has_tumour].append(pixels[pixels.min(-1) < 225].mean())
    gap = abs(np.mean(means[True]) - np.mean(means[False]))
    assert gap < max(np.std(means[True]), np.std(means[False]))
