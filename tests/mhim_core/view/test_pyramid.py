"""Squares of a slide at halving scales: together they are the slide, whatever levels its file has."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.errors import SlideError
from mhim_core.slides.reader import open_slide
from mhim_core.types import FailureReason
from mhim_core.view import pyramid
from mhim_core.view.pyramid import TILE_PX, draw_region, max_level, read_overview, tile_region
from mhim_core.view.readers import LocalSlide, ReaderPool

SIZE = (1200, 1000)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([x * 255 // SIZE[0], y * 255 // SIZE[1], 128 + 60 * np.sin(x / 40)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def slide_path(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tiff"
    write_pyramid(path, picture, mpp=(0.5, 0.5))
    return path


@pytest.mark.parametrize("below", [0, 1, 2, 3])
def test_the_tiles_of_a_level_put_together_are_the_slide_at_that_scale(
    slide_path: Path, picture: np.ndarray, below: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "OVERVIEW_PX", 300)
    monkeypatch.setattr(pyramid, "_MOST_READ_PX", 200)  # put together from several reads
    level, scale = max_level(*SIZE) - below, 2**below
    columns, rows = (-(-side // (TILE_PX * scale)) for side in SIZE)
    with open_slide(slide_path) as reader:
        overview = read_overview(reader, 300)
        bands = []
        for row in range(rows):
            regions = [tile_region(SIZE, level, column, row) for column in range(columns)]
            assert None not in regions
            bands.append(np.concatenate([draw_region(reader, overview, r) for r in regions if r], axis=1))
    whole = np.concatenate(bands)
    assert whole.shape[:2] == (-(-SIZE[1] // scale), -(-SIZE[0] // scale))
    expected = np.asarray(Image.fromarray(picture).resize(whole.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(whole.astype(int) - expected).mean() < 3  # JPEG in the file


@pytest.mark.parametrize("place", [(11, 5, 0), (11, 0, 4), (12, 0, 0), (-1, 0, 0), (11, -1, 0)])
def test_there_is_nothing_outside_the_slide(place: tuple[int, int, int]) -> None:
    assert max_level(*SIZE) == 11
    assert tile_region(SIZE, *place) is None


def test_the_coarsest_level_is_a_pixel() -> None:
    region = tile_region(SIZE, 0, 0, 0)
    assert region is not None
    assert (region.width_px, region.height_px) == (1, 1)
    assert (region.right, region.bottom) == SIZE


def test_what_the_file_has_not_is_striped(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = tile_region(SIZE, 11, 0, 0)
    assert region is not None
    with open_slide(slide_path) as reader:
        overview = read_overview(reader)
        monkeypatch.setattr(reader, "region", lambda *_: None)
        drawn = draw_region(reader, overview, region)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 2


def test_a_pool_keeps_few_slides_open_and_closes_the_one_used_longest_ago(slide_path: Path) -> None:
    staged: list[str] = []

    @contextmanager
    def stage(uri: str) -> Iterator[LocalSlide]:
        staged.append(f"+{uri}")
        yield LocalSlide(slide_path)
        staged.append(f"-{uri}")

    pool = ReaderPool(stage, most=2)
    for uri in ("a", "b", "a", "c"):
        with pool.slide(uri) as opened:
            assert opened.size_l0_px == SIZE
    assert staged == ["+a", "+b", "+c", "-b"]
    assert pool.num_open == 2
    pool.close()
    assert sorted(staged[4:]) == ["-a", "-c"]


def test_a_slide_that_does_not_open_fails_at_once_for_a_while(tmp_path: Path) -> None:
    tries: list[str] = []

    def stage(uri: str) -> nullcontext[LocalSlide]:
        tries.append(uri)
        return nullcontext(LocalSlide(tmp_path / "gone.svs"))

    pool = ReaderPool(stage)
    for _ in range(3):
        with pytest.raises(SlideError) as raised, pool.slide("gone"):
            pass
        assert raised.value.reason is FailureReason.NOT_FOUND
    assert tries == ["gone"]
