from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.features import MppUsed
from mhim_core.slides.reader import Thumbnail, open_slide
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.slides.tissue import find_tissue, tissue_and_view

Write = Callable[..., Path]
HALF = MppUsed(0.5, 0.5, "slide")
PINK = (205, 130, 175)


def canvas(colour: tuple[int, int, int] = (243, 242, 244), noise: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = np.array(colour) + rng.integers(-noise, noise + 1, (120, 160, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(params=["glass", "otsu"])
def spec(request: pytest.FixtureRequest) -> TileSpec:
    """Each of the two finders: what is said here holds for both."""
    return TileSpec(tissue=TissueMethod(request.param))


def tissue_in(pixels: np.ndarray, spec: TileSpec) -> np.ndarray:
    return tissue_and_view(Thumbnail(pixels, np.zeros(pixels.shape[:2], bool)), spec)[0]


@pytest.mark.parametrize("glass", [(243, 242, 244), (238, 232, 236), (225, 225, 220), (255, 255, 255)])
@pytest.mark.parametrize("stain", [PINK, (230, 190, 215), (110, 70, 140)])
def test_stained_tissue_on_any_bright_glass_is_found_with_its_area(
    glass: tuple[int, int, int], stain: tuple[int, int, int], spec: TileSpec
) -> None:
    pixels = canvas(glass)
    pixels[30:90, 40:120] = np.clip(np.array(stain) + np.random.default_rng(1).integers(-8, 8, (60, 80, 1)), 0, 255)
    mask = tissue_in(pixels, spec)
    assert mask[32:88, 42:118].mean() > 0.98
    assert mask.sum() == pytest.approx(60 * 80, rel=0.1)


def test_a_slide_full_of_tissue_is_full_of_tissue(spec: TileSpec) -> None:
    assert tissue_in(canvas(PINK, noise=25), spec).all()


@pytest.mark.parametrize(
    "pixels",
    [
        canvas(),
        canvas((250, 240, 240), noise=5),
        np.full((120, 160, 3), 255, np.uint8),
        np.zeros((120, 160, 3), np.uint8),
        canvas((128, 128, 128)),
    ],
    ids=["glass", "noisy glass", "white", "black", "grey"],
)
def test_a_blank_slide_has_no_tissue(pixels: np.ndarray, spec: TileSpec) -> None:
    assert not tissue_in(pixels, spec).any()


@pytest.mark.parametrize("colour", [PINK, (255, 0, 0), (40, 90, 200)])
def test_one_flat_colour_is_not_tissue(colour: tuple[int, int, int], spec: TileSpec) -> None:
    assert not tissue_in(np.full((120, 160, 3), colour, np.uint8), spec).any()


def test_fluorescence_is_not_tissue(spec: TileSpec) -> None:
    pixels = canvas((2, 2, 10))
    rng = np.random.default_rng(0)
    for row, column in rng.integers(5, 110, (200, 2)):
        pixels[row : row + 4, column : column + 4] = (0, 0, 230)
    assert not tissue_in(pixels, spec).any()


def test_dim_coloured_background_is_not_bright_field(spec: TileSpec) -> None:
    pixels = canvas((60, 62, 70))
    pixels[30:90, 40:120] = (20, 200, 40)
    assert not tissue_in(pixels, spec).any()


def test_a_label_mask_is_not_tissue(spec: TileSpec) -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[20:80, 20:80] = (1, 0, 0)
    pixels[50:110, 90:140] = (2, 0, 0)
    assert not tissue_in(pixels, spec).any()


def test_black_frames_around_glass_are_no_tissue(spec: TileSpec) -> None:
    pixels = canvas()
    pixels[:20] = pixels[:, :20] = 0
    pixels[50:100, 60:130] = canvas(PINK, 20)[50:100, 60:130]
    mask = tissue_in(pixels, spec)
    assert not mask[:18].any()
    assert mask[55:95, 65:125].all()


def test_specks_go_and_lumens_close_by_area(spec: TileSpec) -> None:
    pixels = canvas()
    pixels[30:90, 40:120] = canvas(PINK, 10)[30:90, 40:120]
    pixels[50:62, 60:72] = 243  # 9,216 µm²: a lumen
    pixels[60:88, 80:108] = 243  # 50,176 µm²: glass
    pixels[5:10, 5:10] = PINK  # 1,600 µm²: dust
    mask = tissue_in(pixels, spec)
    assert mask[50:62, 60:72].all()
    assert not mask[65:83, 85:103].any()
    assert not mask[:15, :15].any()


def test_a_single_pixel_is_no_tissue(spec: TileSpec) -> None:
    assert not tissue_in(np.full((1, 1, 3), (200, 120, 170), np.uint8), spec).any()


def test_what_cannot_be_read_is_unknown_and_therefore_planned(spec: TileSpec) -> None:
    class Broken:
        def thumbnail(self, mpp: MppUsed, thumbnail_mpp: float) -> Thumbnail:
            unreadable = np.zeros((120, 160), bool)
            unreadable[:40, :40] = True
            return Thumbnail(np.where(unreadable[..., None], 255, canvas()).astype(np.uint8), unreadable)

    mask = find_tissue(Broken(), HALF, spec).mask
    assert mask.is_tissue[:40, :40].all()
    assert mask.is_tissue.sum() == 1600


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_the_area_found_does_not_depend_on_the_resolution_scanned(
    write_slide: Write, painted: np.ndarray, mpp: float, spec: TileSpec
) -> None:
    """One picture taken for a 0.25, 0.5 or 1 µm/px scan: 16 times the area at 4 times the µm/px."""
    with open_slide(write_slide(painted)) as reader:
        area = find_tissue(reader, MppUsed(mpp, mpp, "override"), spec).mask.area_um2
        half = find_tissue(reader, HALF, spec).mask.area_um2
    assert area / half == pytest.approx((mpp / 0.5) ** 2, rel=0.03)
