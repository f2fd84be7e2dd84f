"""The quality of tiles from the slide to the features: columns where they are asked for, what is left out, counted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.registry import load_encoder
from mhim_core.features import PEN_SHARE, SHARPNESS, SlideFeatures
from mhim_core.slides.quality import sharpness
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod
from mhim_core.types import SlideId, SlideTask

SIDE = 1024


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 tiles full of tissue: the lower half out of focus, blue ink over the left quarter."""
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 30, (SIDE // 2, SIDE // 2, 1)).repeat(2, 0).repeat(2, 1)
    pixels = np.clip(np.array([205, 130, 175]) + texture, 0, 255).astype(np.uint8)
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(6))
    pixels[SIDE // 2 :] = np.asarray(blurred)[SIDE // 2 :]
    pixels[:, : SIDE // 4] = (40, 60, 190)
    framed = np.full((SIDE, SIDE + 512, 3), 243, np.uint8)
    framed[:, :SIDE] = pixels
    path = tmp_path_factory.mktemp("quality") / "slide.tiff"
    write_pyramid(path, framed, mpp=(0.5, 0.5), quality=95)
    return path


def embedded(path: Path, **spec: object) -> SlideFeatures:
    task = SlideTask(SlideId("s"), str(path))
    encoders = [load_encoder("hed-texture")]
    (features,) = embed_slide(task, encoders, spec=TileSpec(**spec), policy=SlidePolicy())
    return features


def test_without_the_options_there_is_nothing_of_them(slide: Path) -> None:
    features = embedded(slide)
    assert features.columns == {}
    assert features.reading.view is not None
    assert features.reading.view.left_out_share is None


def test_quality_is_described_tile_by_tile(slide: Path) -> None:
    features = embedded(slide, quality=True, tissue=TissueMethod.glass, keep_pen=True)
    x, y = features.coords_l0_px.T
    assert len(features.coords_l0_px) == 16
    values, pen = features.columns[SHARPNESS], features.columns[PEN_SHARE]
    is_inked, is_blurred = x < 256, y >= 512
    assert values[~is_inked & ~is_blurred].min() > 20 * values[~is_inked & is_blurred].max()
    assert pen[is_inked].min() > 0.9
    assert pen[x >= 512].max() == 0


def test_what_is_left_out_is_counted_and_no_bad_tile(slide: Path) -> None:
    plain = embedded(slide, tissue=TissueMethod.glass, keep_pen=True)
    features = embedded(slide, tissue=TissueMethod.glass, keep_pen=True, max_pen=0.5, min_sharpness=100, quality=True)
    is_kept = (plain.coords_l0_px[:, 0] >= 256) & (plain.coords_l0_px[:, 1] < 512)
    assert np.array_equal(features.coords_l0_px, plain.coords_l0_px[is_kept])
    assert np.array_equal(features.features, plain.features[is_kept])
    assert len(features.columns[SHARPNESS]) == is_kept.sum()
    assert features.columns[SHARPNESS].min() >= 100
    assert features.num_bad_tiles == 0
    assert features.reading.view is not None
    assert features.reading.view.left_out_share == pytest.approx(1 - is_kept.mean())
    assert features.reading.view.warning()


def test_a_slide_of_which_nothing_is_sharp_is_empty_and_no_failure(slide: Path) -> None:
    features = embedded(slide, min_sharpness=1e6)
    assert (len(features.features), features.num_bad_tiles) == (0, 0)
    assert features.reading.view is not None
    assert features.reading.view.left_out_share == 1.0


def test_sharpness_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 256, (2, 8, 9, 3), np.uint8)
    for tile, value in zip(tiles, sharpness(tiles), strict=True):
        grey = np.pad(tile.mean(axis=-1), 1, mode="edge")
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        assert value == pytest.approx(laplacian.var(), rel=1e-4)
    assert sharpness(np.full((1, 8, 8, 3), 77, np.uint8)).tolist() == [0]
