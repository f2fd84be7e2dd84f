from pathlib import Path

import numpy as np
import pytest

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.slides.reader import open_slide

COLOURS = [(243, 242, 244), (205, 130, 175), (110, 70, 140), (255, 0, 0), (0, 128, 255)]


def test_colours_and_levels_come_back_through_openslide(tmp_path: Path) -> None:
    pixels = np.repeat(np.repeat(np.array([COLOURS], np.uint8), 300, 0), 128, 1)
    path = tmp_path / "slide.tiff"
    write_pyramid(path, pixels, mpp=(0.5, 0.25), downsamples=(1, 2, 8))
    with open_slide(path) as reader:
        info = reader.info()
        for level in range(3):
            # a read through the library itself: the picture, not the tile path
            region = np.asarray(reader._backend.read_region(0, 0, level, *info.levels[level][:2]))
            step = 128 // (1, 2, 8)[level]
            for i, colour in enumerate(COLOURS):
                assert np.abs(region[10, step * i + step // 2, :3].astype(int) - colour).max() <= 4
            assert (region[..., 3] == 255).all()
    assert [(level.width_px, level.height_px) for level in info.levels] == [(640, 300), (320, 150), (80, 38)]
    assert (info.mpp_x, info.mpp_y) == (pytest.approx(0.5), pytest.approx(0.25))


def test_the_same_pixels_give_the_same_bytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    for name in ("a.tiff", "b.tiff"):
        write_pyramid(tmp_path / name, pixels, mpp=None)
    assert (tmp_path / "a.tiff").read_bytes() == (tmp_path / "b.tiff").read_bytes()


def test_one_tile_and_one_level_is_a_slide_too(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "small.tiff", np.full((20, 30, 3), 100, np.uint8), mpp=None, downsamples=(1,), tile_px=64)
    with open_slide(tmp_path / "small.tiff") as reader:
        assert reader.info().levels[0][:2] == (30, 20)
