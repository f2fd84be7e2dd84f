"""Small made-up slides for the slide tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.demo.slide import paint_slide


@pytest.fixture(scope="session")
def painted() -> np.ndarray:
    """One painted H&E-like slide of about 2,500 × 2,500 px at 0.5 µm/px."""
    return paint_slide(np.random.default_rng(3), loud=True, quiet=True).pixels


@pytest.fixture(scope="session")
def simple() -> np.ndarray:
    """1,100 × 1,500 px: glass with one textured pink rectangle from (300, 200) to (1300, 900)."""
    rng = np.random.default_rng(0)
    pixels = np.full((1100, 1500, 3), 243, np.uint8)
    texture = rng.integers(-25, 25, (700, 1000, 1))
    pixels[200:900, 300:1300] = np.clip(np.array([205, 130, 175]) + texture, 0, 255)
    return pixels


@pytest.fixture
def write_slide(tmp_path: Path) -> Callable[..., Path]:
    """write_slide(pixels, mpp=(0.5, 0.5), **options) → the file."""

    def write(
        pixels: np.ndarray, mpp: tuple[float, float] | None = (0.5, 0.5), name: str = "slide.tiff", **options
    ) -> Path:
        path = tmp_path / name
        write_pyramid(path, pixels, mpp=mpp, **options)
        return path

    return write
