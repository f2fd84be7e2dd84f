"""What is made of fastslide's answers, by one that is made up; real files are in test_formats.py."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)


class Slide:
    """One of two levels; what a test sets is an attribute."""

    dtype, num_channels, z_count, t_count, format = "uint8", 3, 1, 1, "VSI"
    level_dimensions, level_downsamples = ((80, 60), (40, 30)), (1.0, 2.0)
    mpp = (0.25, 0.25)
    properties: dict[str, Any] = {"objective_magnification": 40.0}  # noqa: RUF012
    images = (SimpleNamespace(dimensions=(80, 60)), SimpleNamespace(dimensions=(20, 10)))
    error = ""

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> SimpleNamespace:
        if self.error:
            raise RuntimeError(self.error)
        (x, y), (width, height) = location, size
        step = 2**level
        part = PIXELS[::step, ::step][y : y + height, x : x + width]
        return SimpleNamespace(numpy=lambda: part)


@pytest.fixture
def vsi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """vsi(version="0.8.1", **attributes): the file of a slide that has them."""

    def make(version: str = "0.8.1", **attributes: Any) -> Path:
        slide = Slide()
        for name, value in attributes.items():
            setattr(slide, name, value)
        opener = SimpleNamespace(from_file_path=lambda path, cache: slide)
        monkeypatch.setitem(sys.modules, "fastslide", SimpleNamespace(__version__=version, FastSlide=opener))
        path = tmp_path / "case.vsi"
        path.write_bytes(b"II*\x00" + bytes(100))
        (tmp_path / "_case_").mkdir(exist_ok=True)
        return path

    return make


def test_facts_and_regions_are_fastslides_clipped_to_the_level(vsi: Callable[..., Path]) -> None:
    with open_slide(vsi()) as reader:
        info = reader.info()
        assert (info.vendor, info.mpp_x, info.objective_power) == ("VSI", 0.25, 40.0)
        region = reader._backend.read_region(-10, -4, 1, 50, 40)
        assert np.array_equal(region[2:32, 5:45, :3], PIXELS[::2, ::2])
        assert region[..., 3].sum() == 255 * 40 * 30
        assert (reader._backend.read_region(80, 60, 0, 10, 10) == 0).all()


@pytest.mark.parametrize(
    "attributes",
    [
        {"dtype": "uint16"},
        {"num_channels": 4, "dtype": "float32"},
        {"num_channels": 1},
        {"z_count": 3},
        {"t_count": 2},
        {"images": (SimpleNamespace(dimensions=(80, 60)), SimpleNamespace(dimensions=(60, 60)))},
        {"version": "0.9.0"},
        {"properties": None},
    ],
)
def test_what_would_have_to_be_guessed_is_refused(vsi: Callable[..., Path], attributes: dict[str, Any]) -> None:
    with pytest.raises(SlideError) as refused:
        open_slide(vsi(**attributes))
    assert refused.value.reason is FailureReason.OPEN


def test_an_mpp_of_zero_is_none(vsi: Callable[..., Path]) -> None:
    with pytest.raises(SlideError) as refused:
        prepare_slide(vsi(mpp=(0.0, 0.0)), spec=TileSpec(), policy=SlidePolicy())
    assert refused.value.reason is FailureReason.NO_MPP


def test_an_error_of_a_region_is_its_own_and_names_no_path(vsi: Callable[..., Path]) -> None:
    path = vsi(error="cannot read")
    path = vsi(error=f"{path}: cannot read\nstack")
    with open_slide(path) as reader, pytest.raises(SlideError) as broken:
        reader._backend.read_region(0, 0, 0, 10, 10)
    assert broken.value.reason is FailureReason.READ
    assert "case" not in broken.value.message
