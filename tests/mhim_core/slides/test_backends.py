"""Files that OpenSlide does not read, or reads as something else than they are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides.backends import plain
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.registry import BACKEND_NAMES, BACKEND_VERSIONS, PIXELS_OF
from mhim_core.slides.spec import FASTSLIDE, OPENSLIDE, ZARR, SlidePolicy, TileSpec
from mhim_core.types import FailureReason


@pytest.fixture
def picture() -> np.ndarray:
    """600 × 700 pixels of glass with a pink piece."""
    rng = np.random.default_rng(0)
    pixels = np.full((600, 700, 3), 243, np.uint8)
    pixels[100:500, 100:600] = np.clip(np.array([205, 130, 175]) + rng.integers(-20, 20, (400, 500, 1)), 0, 255)
    return pixels


def prepare(path: Path, mpp: float | None = None) -> PreparedSlide:
    return prepare_slide(path, mpp_override=mpp, spec=TileSpec(), policy=SlidePolicy())


def pixels_of(path: Path) -> np.ndarray:
    with open_slide(path) as reader:
        return reader.thumbnail(MppUsed(0.5, 0.5, "override"), 0.5).pixels


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_a_lossless_picture_without_tiles_is_read_pixel_by_pixel(
    tmp_path: Path, picture: np.ndarray, name: str
) -> None:
    path = tmp_path / name
    Image.fromarray(picture).save(path)
    assert np.array_equal(pixels_of(path), picture)
    with prepare(path, 0.5) as slide:
        assert len(slide.plan) == 5
    with pytest.raises(SlideError) as refused:
        prepare(path)
    assert refused.value.reason is FailureReason.NO_MPP


def test_a_jpeg_states_no_resolution_whatever_its_dpi(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(picture).save(path, dpi=(72, 72))
    with open_slide(path) as reader:
        assert reader.info().mpp_x is None
    assert np.abs(pixels_of(path).astype(int) - picture).mean() < 6


def test_transparent_parts_of_a_png_are_white(tmp_path: Path, picture: np.ndarray) -> None:
    rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    rgba[:50] = (0, 0, 0, 0)
    path = tmp_path / "x.png"
    Image.fromarray(rgba).save(path)
    assert (pixels_of(path)[:50] == 255).all()


def test_planes_of_an_ome_tiff_are_its_colours_and_its_xml_states_the_resolution(
    tmp_path: Path, picture: np.ndarray
) -> None:
    path = tmp_path / "planes.ome.tiff"
    metadata = {"axes": "CYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, np.moveaxis(picture, -1, 0), photometric="minisblack", tile=(64, 64), metadata=metadata)
    with open_slide(path) as reader:
        assert (reader.info().mpp_x, reader.info().mpp_y) == (0.25, 0.25)
    assert np.array_equal(pixels_of(path), picture)


def test_a_tiled_colour_ome_tiff_takes_its_resolution_from_the_xml(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "rgb.ome.tiff"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, picture, photometric="rgb", tile=(64, 64), metadata=metadata)
    with prepare(path) as slide:
        assert slide.mpp.x == 0.5
        assert len(slide.plan) == 5


def test_an_ome_tiff_of_other_channels_is_refused_by_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "five.ome.tiff"
    tifffile.imwrite(path, np.zeros((5, 64, 64), np.uint16), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(SlideError, match=r"CYX.*5") as refused:
        open_slide(path)
    assert refused.value.reason is FailureReason.OPEN


@pytest.mark.parametrize("kind", ["L", "I;16"])
def test_a_grey_picture_is_refused_as_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.zeros((64, 64), np.uint8 if kind == "L" else np.uint16)).save(path)
    with pytest.raises(SlideError, match="PNG") as refused:
        open_slide(path)
    assert refused.value.reason is FailureReason.OPEN


@pytest.mark.fault(23)
def test_too_large_a_picture_is_refused_with_what_to_run(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "MAX_PLAIN_PX", 1000)
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path)
    with pytest.raises(SlideError, match=r"PNG of 700 × 600.*vips") as refused:
        open_slide(path)
    assert refused.value.reason is FailureReason.TOO_LARGE


def test_a_cut_off_picture_cannot_be_read(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SlideError) as refused:
        prepare(path, 0.5)
    assert refused.value.reason is FailureReason.READ


OTHER_FORMATS = (FASTSLIDE, ZARR)  # test_formats.py


@pytest.mark.parametrize(
    "backend", [name for name in BACKEND_NAMES if PIXELS_OF[name] != OPENSLIDE and name not in OTHER_FORMATS]
)
def test_every_backend_gives_the_pixels_that_openslide_gives(tmp_path: Path, picture: np.ndarray, backend: str) -> None:
    """Of a lossless picture, since JPEG decoders differ in the last bit: thumbnails, tiles, and beyond the edge."""
    path = tmp_path / "tiled.tiff"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(256, 256))
    mpp, regions, tiles = MppUsed(0.5, 0.5, "override"), [], []
    for name in (OPENSLIDE, backend):
        with prepare_slide(path, mpp_override=0.5, spec=TileSpec(backend=name), policy=SlidePolicy()) as slide:
            thumbnail = slide.reader.thumbnail(mpp, 0.5).pixels
            assert np.array_equal(thumbnail[:600, :700], picture)
            tiles.append(np.concatenate([batch.tiles for batch in slide.reader.tiles(slide.plan)]))
            backend_of_slide = slide.reader._backend
            regions.append([backend_of_slide.read_region(x, y, 0, 300, 200) for x, y in ((0, 0), (600, 500), (-50, 3))])
            assert backend_of_slide.used == (name, BACKEND_VERSIONS[name])
    assert tiles[0].shape == (5, 256, 256, 3)
    assert np.array_equal(*tiles)
    for of_openslide, of_other in zip(*regions, strict=True):
        assert np.array_equal(of_openslide[..., 3], of_other[..., 3])
        is_stored = of_openslide[..., 3] > 0
        assert np.array_equal(of_openslide[is_stored], of_other[is_stored])


def test_only_auto_hands_a_picture_without_tiles_to_plain(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path)
    for backend in ("auto", "plain"):
        with open_slide(path, backend) as reader:
            assert reader.backend == ("plain", 1)
    with pytest.raises(SlideError, match="backend=auto") as refused:
        open_slide(path, "openslide")
    assert refused.value.reason is FailureReason.OPEN


def test_the_names_are_known_without_numpy_or_any_decoder() -> None:
    script = (
        "import sys; from mhim_core.slides.spec import TileSpec; TileSpec(backend='plain'); "
        "print({'numpy', 'PIL', 'tifffile', 'simplejpeg', 'openslide'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
