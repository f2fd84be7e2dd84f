import numpy as np
from PIL import Image, ImageDraw

from mhim_core.demo.slide import PaintedSlide, paint_slide


def paint(seed: int, has_tumour: bool) -> PaintedSlide:
    return paint_slide(np.random.default_rng(seed), has_tumour)


def focus_mask(slide: PaintedSlide) -> np.ndarray:
    picture = Image.new("1", slide.pixels.shape[1::-1])
    for focus in slide.foci:
        ImageDraw.Draw(picture).polygon(focus.points, fill=1)
    return np.asarray(picture)


def test_the_same_generator_paints_the_same_slide() -> None:
    assert np.array_equal(paint(5, True).pixels, paint(5, True).pixels)
    assert not np.array_equal(paint(5, True).pixels[:2000, :2000], paint(6, True).pixels[:2000, :2000])


def test_only_a_tumour_slide_has_foci_and_they_lie_in_tissue() -> None:
    assert paint(7, False).foci == ()
    slide = paint(7, True)
    assert 1 <= len(slide.foci) <= 2
    mask = focus_mask(slide)
    is_glass = slide.pixels.min(-1) > 225
    assert is_glass[mask].mean() < 0.15 < 0.35 < is_glass.mean() < 0.65


def test_stain_strength_varies_between_slides_more_than_tumour_does() -> None:
    means = {True: [], False: []}
    for seed in range(6):
        for has_tumour in (True, False):
            pixels = paint(20 + seed, has_tumour).pixels[::4, ::4]
            means[has_tumour].append(pixels[pixels.min(-1) < 225].mean())
    gap = abs(np.mean(means[True]) - np.mean(means[False]))
    assert gap < max(np.std(means[True]), np.std(means[False]))
