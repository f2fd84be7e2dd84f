"""What the glass finder sees that a fixed saturation does not: pale tissue, black frames, pen, fat."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mhim_core.features import SlideView
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import Thumbnail
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod
from mhim_core.slides.tissue import tissue_and_view

GLASS, OTSU = TileSpec(tissue=TissueMethod.glass), TileSpec(tissue=TissueMethod.otsu)
PALE, PINK, BLUE_INK = (232, 224, 230), (205, 130, 175), (30, 59, 159)
PIECE = np.s_[60:180, 80:240]


def slide(
    *pieces: tuple[tuple[slice, slice], tuple[int, int, int]], glass: tuple[int, int, int] = (243, 243, 243)
) -> np.ndarray:
    """240 × 320 pixels of 8 µm: glass with a JPEG's noise, and textured rectangles."""
    rng = np.random.default_rng(0)
    pixels = np.array(glass) + rng.integers(-2, 3, (240, 320, 1))
    for place, colour in pieces:
        shape = pixels[place].shape[:2]
        pixels[place] = np.array(colour) + rng.integers(-6, 7, (*shape, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def seen(pixels: np.ndarray, spec: TileSpec = GLASS) -> tuple[np.ndarray, SlideView]:
    return tissue_and_view(Thumbnail(pixels, np.zeros(pixels.shape[:2], bool)), spec)[:2]


def shares(mask: np.ndarray, place: tuple[slice, slice] = PIECE) -> tuple[float, float]:
    """Of the piece that is kept, and of the glass well outside of it that is taken."""
    piece = np.zeros(mask.shape, bool)
    piece[place] = True
    return float(mask[piece].mean()), float(mask[~ndimage.binary_dilation(piece, iterations=6)].mean())


@pytest.mark.parametrize("glass", [(243, 243, 243), (250, 250, 250), (238, 236, 239), (246, 243, 243)])
def test_pale_tissue_is_kept_and_glass_is_not(glass: tuple[int, int, int]) -> None:
    stain = tuple(round(channel * value / 243) for channel, value in zip(PALE, glass, strict=True))
    pixels = slide((PIECE, stain), glass=glass)
    kept, taken = shares(seen(pixels)[0])
    assert kept >= 0.9
    assert taken <= 0.01
    assert shares(seen(pixels, OTSU)[0])[0] < 0.5  # what made this finder necessary


def test_pale_tissue_beside_strong_stain_is_kept() -> None:
    strong = np.s_[10:50, 20:300]
    assert shares(seen(slide((PIECE, PALE), (strong, PINK)))[0])[0] >= 0.9


def test_grey_dust_and_shadow_are_no_tissue() -> None:
    mask, view = seen(slide((PIECE, (225, 225, 226))))
    assert not mask.any()
    assert view.left_out_mm2 > 0.5
    assert view.warning()


def test_what_is_left_out_is_warned_of_and_what_is_kept_is_not() -> None:
    pixels = slide((PIECE, PALE))
    assert "100%" in seen(pixels, OTSU)[1].warning()
    assert seen(pixels, GLASS)[1].warning() == ""


@pytest.mark.parametrize("width", [10, 60])
def test_a_black_frame_changes_nothing_but_itself(width: int) -> None:
    framed = np.zeros((240 + 2 * width, 320 + 2 * width, 3), np.uint8)
    within = np.s_[width:-width, width:-width]
    framed[within] = slide((PIECE, PINK))
    mask, view = seen(framed)
    alone, _ = seen(slide((PIECE, PINK)))
    assert np.array_equal(mask[within], alone)
    assert mask.sum() == alone.sum()
    assert view.black_share == pytest.approx(1 - 240 * 320 / mask.size, rel=0.25)


def test_white_padding_around_the_scan_does_not_move_the_glass() -> None:
    padded = np.full((400, 500, 3), 255, np.uint8)
    padded[:240, :320] = slide((PIECE, PALE))
    kept, taken = shares(seen(padded)[0])
    assert kept >= 0.9
    assert taken <= 0.01


def test_pale_tissue_on_overexposed_glass_is_not_taken_for_the_glass() -> None:
    pixels = slide((PIECE, (243, 232, 240)), glass=(255, 255, 255))
    pixels[pixels.min(axis=-1) > 251] = 255
    assert shares(seen(pixels)[0])[0] >= 0.9


@pytest.mark.parametrize("ink", [BLUE_INK, (40, 140, 70), (225, 40, 45)], ids=["blue", "green", "red"])
def test_pen_is_no_tissue_and_its_share_is_said(ink: tuple[int, int, int]) -> None:
    line = np.s_[10:40, 20:300]
    mask, view = seen(slide((PIECE, PINK), (line, ink)))
    assert not mask[:50].any()
    assert shares(mask)[0] >= 0.98
    assert view.pen_share == pytest.approx(30 * 280 / mask.size, rel=0.25)


def test_pen_across_tissue_hides_only_what_it_covers() -> None:
    mask, _ = seen(slide((PIECE, PINK), (np.s_[110:130, 20:300], BLUE_INK)))
    assert not mask[112:128, 30:290].any()
    assert mask[70:100, 90:230].all()


def test_a_blue_special_stain_can_be_kept() -> None:
    keep = TileSpec(tissue=TissueMethod.glass, keep_pen=True)
    pixels = slide((PIECE, (90, 130, 190)))
    assert not seen(pixels)[0].any()
    assert "keep_pen" in seen(pixels)[1].warning()
    assert shares(seen(pixels, keep)[0])[0] >= 0.98


def fat(pixels: np.ndarray, place: tuple[slice, slice], cell_px: int = 8) -> None:
    """Empty cells of 64 µm between membranes one pixel wide."""
    row, column = np.indices(pixels.shape[:2])
    is_membrane = (row % cell_px == 0) | (column % cell_px == 0)
    is_here = np.zeros(is_membrane.shape, bool)
    is_here[place] = True
    pixels[is_here & is_membrane] = (215, 185, 205)


def test_fat_is_tissue_or_not_by_its_key_and_pale_tissue_is_no_fat() -> None:
    pixels = slide((np.s_[10:80, 20:300], PALE))
    below = np.s_[100:220, 20:300]
    fat(pixels, below)
    with_fat, without = seen(pixels)[0], seen(pixels, TileSpec(tissue=TissueMethod.glass, keep_fat=False))[0]
    assert shares(with_fat, below)[0] >= 0.9
    assert without[120:200, 40:280].mean() < 0.05
    assert np.array_equal(with_fat[:85], without[:85])


def test_the_pale_biopsy_is_found_whole(shared_data: Path) -> None:
    path = shared_data / "slides/pale/hacettepe-com-case-10_HE_5x.tiff"
    with prepare_slide(path, spec=TileSpec(target_mpp=2.0224), policy=SlidePolicy()) as slide_:
        pixels = slide_.reader.thumbnail(slide_.mpp, 8.0).pixels
        luminance = ndimage.gaussian_filter(pixels @ np.array([0.2126, 0.7152, 0.0722]), 2)
        is_visible = luminance < 233  # glass is 243
        is_glass = ~ndimage.binary_dilation(luminance < 237, iterations=6)
        assert slide_.tissue.is_tissue[is_visible].mean() >= 0.9
        assert slide_.tissue.is_tissue[is_glass].mean() <= 0.01
        assert len(slide_.plan) >= 120
