"""Tiles that are exported: the pixels that were encoded, in their colours."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.tile_images import tile_images
from mhim_core.errors import SlideError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.source_identity import source_identity
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec
from mhim_core.types import FailureReason, SlideId


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glass with tissue of two stains in a corner."""
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.2, 1.2, (90, 120, 2)).repeat(8, 0).repeat(8, 1)
    stained = 240 * np.exp(-amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]))
    pixels = np.full((1_200, 1_500, 3), 243, np.uint8)
    pixels[200:920, 300:1_260] = np.clip(stained, 0, 255)
    path = tmp_path_factory.mktemp("slides") / "a.tiff"
    write_pyramid(path, pixels, mpp=(0.5, 0.5), downsamples=(1, 2, 4), quality=95)
    return path


def exported(path: Path, spec: TileSpec, num_bad_tiles: int = 0) -> np.ndarray:
    """uint8 (N, tile_px, tile_px, 3): the exported pictures of the slide's own plan."""
    with prepare_slide(path, spec=spec, policy=SlidePolicy()) as prepared:
        plan, mpp = prepared.plan, prepared.mpp
    images = tile_images(
        path,
        SlideId("a"),
        plan.coords_l0_px,
        spec=spec,
        mpp=mpp,
        upsample=plan.upsample,
        effective_mpp=plan.effective_mpp,
        source=source_identity(path),
        tile_size_l0_px=plan.tile_size_l0_px,
        num_bad_tiles=num_bad_tiles,
    )
    return np.stack([np.asarray(Image.open(io.BytesIO(image.png))) for image in images])


@pytest.mark.parametrize("colour", list(ColourMethod), ids=str)
def test_exported_tiles_are_those_that_were_encoded(slide: Path, colour: ColourMethod) -> None:
    spec = TileSpec(tile_px=64, colour=colour)
    with prepare_slide(slide, spec=spec, policy=SlidePolicy()) as prepared:
        assert (prepared.colour is None) == (colour is ColourMethod.none)
        encoded = np.concatenate([batch.tiles for batch in prepared.tiles()])
    assert np.array_equal(exported(slide, spec), encoded)


@pytest.mark.parametrize("colour", list(ColourMethod), ids=str)
def test_of_a_broken_level_the_finer_one_s_tiles_are_exported(
    slide: Path, tmp_path: Path, colour: ColourMethod
) -> None:
    spec, path = TileSpec(target_mpp=1.0, tile_px=64, colour=colour), tmp_path / "broken.tiff"
    path.write_bytes(slide.read_bytes())
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = file.pages[1].tags["TileByteCounts"]
        counts.overwrite((0,) * len(counts.value))
    with prepare_slide(path, spec=spec, policy=SlidePolicy()) as prepared:
        assert (prepared.plan.level, prepared.info.unreadable) == (0, (1,))
        encoded = np.concatenate([batch.tiles for batch in prepared.tiles()])
    assert np.array_equal(exported(path, spec), encoded)


@pytest.mark.parametrize(("min_sharpness", "num_bad_tiles"), [(1.0, 0), (0.0, 1)])
def test_colours_told_by_tiles_that_were_not_kept_are_refused(
    slide: Path, min_sharpness: float, num_bad_tiles: int
) -> None:
    spec = TileSpec(tile_px=64, colour=ColourMethod.reinhard, min_sharpness=min_sharpness)
    with pytest.raises(SlideError) as failure:
        exported(slide, spec, num_bad_tiles)
    assert failure.value.reason is FailureReason.READ
