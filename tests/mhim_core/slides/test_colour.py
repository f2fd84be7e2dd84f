"""Colours of tiles: transformed alike all over a slide, to a fixed reference; and those that were read wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.slides.backends.direct import DirectBackend
from mhim_core.slides.colour import ColourTransform, fit_colour
from mhim_core.slides.colour_sample import slide_colour
from mhim_core.slides.inspection import inspect_slide
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import Thumbnail
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec, stored_spec, tiling_identity
from mhim_core.slides.tissue import tissue_and_view
from mhim_core.types import FailureReason, SlideId, SlideTask

Write = Callable[..., Path]
METHODS = [ColourMethod.macenko, ColourMethod.reinhard]
STAINS = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
REFERENCE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])

TORCHSTAIN = [
    [[103, 81, 130], [110, 70, 114], [134, 74, 114], [81, 50, 96]],
    [[124, 81, 123], [166, 118, 154], [117, 76, 120], [113, 73, 118]],
    [[83, 49, 93], [179, 135, 167], [89, 41, 80], [121, 69, 110]],
    [[240, 189, 200], [80, 49, 95], [187, 129, 159], [94, 51, 94]],
]
"""Every 21st pixel of every 21st row."""


def mixed(stains: np.ndarray, seed: int = 0, num: int = 64) -> np.ndarray:
    """uint8 (num, num, 3): two stains in independent amounts, each alone in a twentieth of the pixels."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.2, 1.2, (num * num, 2))
    amounts[rng.random(len(amounts)) < 0.05, 0] = 0.02
    amounts[rng.random(len(amounts)) < 0.05, 1] = 0.02
    pixels = 240 * np.exp(-amounts @ stains.T) - 1
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(num, num, 3)


def transform(pixels: np.ndarray, method: ColourMethod) -> ColourTransform:
    made = fit_colour(pixels.reshape(-1, 3), method)
    assert made is not None
    return made


def test_macenko_finds_the_stains_and_gives_them_the_reference_s_colours() -> None:
    pixels = mixed(STAINS)
    made = transform(pixels, ColourMethod.macenko).apply(pixels[None])[0]
    again = transform(made, ColourMethod.macenko)
    density = -np.log((made.reshape(-1, 3) + 1.0) / 240)
    _, _, directions = np.linalg.svd(density, full_matrices=False)
    for stain in REFERENCE.T:  # in the plane of what was made, which its two greatest directions span
        assert np.linalg.norm(directions[:2] @ stain) == pytest.approx(np.linalg.norm(stain), rel=0.01)
    assert np.abs(again.apply(made[None])[0].astype(int) - made).mean() < 4, "the reference stays as it is"


def test_macenko_is_that_of_the_published_code() -> None:
    """torchstain 1.4.1, NumpyMacenkoNormalizer().normalize(mixed(STAINS)), which cuts decimals
    off instead of rounding."""
    pixels = mixed(STAINS)
    made = transform(pixels, ColourMethod.macenko).apply(pixels[None])[0]
    assert np.abs(made[::21, ::21].astype(int) - np.array(TORCHSTAIN)).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_s_tiles_are_transformed_alike_whatever_each_shows(method: ColourMethod) -> None:
    pixels = mixed(STAINS)
    made = transform(pixels, method)
    whole, part = made.apply(pixels[None])[0], made.apply(pixels[None, :8, :8])[0]
    assert np.array_equal(whole[:8, :8], part)
    assert whole.dtype == np.uint8


def test_reinhard_gives_stained_pixels_the_reference_s_mean_and_leaves_glass() -> None:
    pixels = mixed(STAINS)
    made = transform(pixels, ColourMethod.reinhard)
    moved = made.apply(pixels[None])[0]
    other = mixed(STAINS * 0.7, seed=1)
    alike = transform(other, ColourMethod.reinhard).apply(other[None])[0]
    before = np.abs(pixels.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()
    assert np.abs(moved.mean(axis=(0, 1)) - alike.mean(axis=(0, 1))).max() < 0.3 * before
    glass = np.full((1, 4, 4, 3), 243, np.uint8)
    assert np.array_equal(made.apply(glass), glass)


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_is_stained_there_is_no_transform(method: ColourMethod) -> None:
    assert fit_colour(np.full((5000, 3), 243, np.uint8), method) is None
    assert fit_colour(np.full((5000, 3), (120, 60, 130), np.uint8), method) is None
    assert fit_colour(np.empty((0, 3), np.uint8), method) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_prepared_slide_gives_its_tiles_in_the_new_colours(
    write_slide: Write, painted: np.ndarray, method: ColourMethod
) -> None:
    path = write_slide(painted)
    with prepare_slide(path, spec=TileSpec(), policy=SlidePolicy()) as slide:
        plain = np.concatenate([batch.tiles for batch in slide.tiles()])
    with prepare_slide(path, spec=TileSpec(colour=method), policy=SlidePolicy()) as slide:
        assert slide.colour is not None
        moved = np.concatenate([batch.tiles for batch in slide.tiles()])
        assert np.array_equal(moved, slide.colour.apply(plain))
    assert np.abs(moved.astype(int) - plain).mean() > 3


def test_a_disk_that_is_full_while_colours_are_told_changes_no_colours(
    write_slide: Write, painted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, num_reads = DirectBackend.read_on_white, 0

    def fill_up(self: DirectBackend, x_l0: int, y_l0: int, level: int, out: np.ndarray) -> float:
        nonlocal num_reads
        num_reads += 1
        if num_reads == 2:
            raise SlideError(FailureReason.NO_SPACE, "the disk is full")
        return read(self, x_l0, y_l0, level, out)

    with prepare_slide(write_slide(painted), spec=TileSpec(), policy=SlidePolicy()) as slide:
        monkeypatch.setattr(DirectBackend, "read_on_white", fill_up)
        with pytest.raises(SlideError) as failure:
            slide_colour(slide.reader, slide.plan, ColourMethod.reinhard)
    assert failure.value.reason is FailureReason.NO_SPACE


def test_what_it_takes_to_read_tiles_is_measured_with_their_colours(
    write_slide: Write, painted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, counts = ColourTransform.apply, []

    def count(self: ColourTransform, tiles: np.ndarray) -> np.ndarray:
        counts.append(len(tiles))
        return apply(self, tiles)

    monkeypatch.setattr(ColourTransform, "apply", count)
    path = write_slide(painted)
    task = SlideTask(SlideId("s"), str(path))
    look = inspect_slide(path, task, spec=TileSpec(colour=ColourMethod.reinhard), policy=SlidePolicy())
    assert sum(counts) == look.num_read > 0


def test_a_slide_of_grey_keeps_its_colours_and_that_is_told(write_slide: Write, simple: np.ndarray) -> None:
    grey = np.full_like(simple, 243)
    grey[200:900, 300:1300] = (240, 230, 236)
    path = write_slide(grey, quality=95)
    with prepare_slide(path, spec=TileSpec(colour=ColourMethod.macenko), policy=SlidePolicy()) as slide:
        assert len(slide.plan) > 0
        assert slide.colour is None
        assert "colour" in slide.view.warning()


def test_the_method_is_identity_with_its_reference() -> None:
    identities = [tiling_identity(TileSpec(colour=method)) for method in ColourMethod]
    assert "colour" not in identities[0]
    assert len({str(identity) for identity in identities}) == 3
    for identity, method in zip(identities, ColourMethod, strict=True):
        assert stored_spec(identity, "the slides").colour is method


def seen(pixels: np.ndarray) -> str:
    """What is told of a thumbnail's colours."""
    return tissue_and_view(Thumbnail(pixels, np.zeros(pixels.shape[:2], bool)), TileSpec()).view.colour


def test_colours_that_were_read_wrongly_are_told(painted: np.ndarray) -> None:
    picture = Image.fromarray(painted).reduce(8)
    assert seen(np.asarray(picture)) == ""
    channels = np.asarray(picture.convert("YCbCr"))
    assert "YCbCr" in seen(channels)
    as_if = np.asarray(Image.fromarray(np.asarray(picture), "YCbCr").convert("RGB"))
    assert "YCbCr" in seen(as_if)


def test_red_and_blue_swapped_are_told_where_there_is_much_eosin() -> None:
    pixels = np.full((200, 200, 3), 243, np.uint8)
    pixels[50:150, 50:150] = (225, 130, 175)
    assert seen(pixels) == ""
    assert "swapped" in seen(pixels[..., ::-1])
