"""A user's own tissue finder: what it is given, what it may return, and its place in the identity."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.errors import ConfigError, InputError, SlideError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.regions import RegionFiles, slide_regions
from mhim_core.slides.segmenter import SegmenterFile, read_segmenter, segment
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod, stored_spec, tiling_identity
from mhim_core.types import FailureReason

PINK = b"def find_tissue(pixels):\n    return pixels[..., 1] < 200\n"
PIXELS = np.full((4, 6, 3), 100, np.uint8)


def file(source: bytes) -> SegmenterFile:
    return SegmenterFile(source, "mine.py")


def test_its_tissue_is_what_tiles_are_cut_from(write_slide: Callable[..., Path], simple: np.ndarray) -> None:
    upper = file(
        b"import numpy as np\n"
        b"def find_tissue(pixels):\n"
        b"    return (pixels[..., 1] < 200) & (np.arange(len(pixels)) < 34)[:, None]\n"
    )
    spec = TileSpec(tile_px=128, tissue=TissueMethod.file, tissue_sha256=upper.sha256)
    regions = slide_regions(RegionFiles(segmenter=upper), spec)
    assert regions.digest == "", "the file is of the set, not of the slide"
    with prepare_slide(write_slide(simple), spec=spec, policy=SlidePolicy(), regions=regions) as slide:
        assert set(slide.plan.coords_l0_px[:, 1].tolist()) == {128, 256, 384, 512}
        assert slide.view.tissue_mm2 == pytest.approx(1000 * (34 * 16 - 200) * 0.25e-6, rel=0.05)


def test_it_gets_a_copy_of_the_thumbnail() -> None:
    greedy = file(b"def find_tissue(pixels):\n    pixels[:] = 0\n    return pixels.any(-1)\n")
    assert not segment(greedy, greedy.sha256, PIXELS).any()
    assert (PIXELS == 100).all()


@pytest.mark.parametrize(
    "source",
    [
        b"def find_tissue(pixels):\n    raise RuntimeError('no model')\n",
        b"def find_tissue(pixels):\n    raise SystemExit(3)\n",
        b"def find_tissue(pixels):\n    return pixels\n",
        b"def find_tissue(pixels):\n    return (pixels[..., 0] > 3).astype(float)\n",
        b"def find_tissue(pixels):\n    return pixels[1:, :, 0] > 3\n",
        b"def find_tissue(pixels):\n    return None\n",
    ],
)
def test_what_it_cannot_do_fails_the_slide_by_name(source: bytes) -> None:
    with pytest.raises(SlideError, match=r"mine\.py") as failure:
        segment(file(source), file(source).sha256, PIXELS)
    assert failure.value.reason is FailureReason.BAD_ANNOTATION


@pytest.mark.parametrize("source", [b"def find", b"raise ValueError(1)", b"x = 1", b"find_tissue = 3", b"exit()"])
def test_a_file_that_defines_no_finder_is_refused_before_any_slide(source: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(source)
    with pytest.raises(InputError, match=r"mine\.py"):
        read_segmenter(str(path))
    with pytest.raises(InputError, match=r"absent\.py"):
        read_segmenter(str(tmp_path / "absent.py"))


def test_another_file_than_the_tiling_s_is_refused() -> None:
    for present in (None, file(PINK + b"\n")):
        with pytest.raises(InputError, match="tissue_file"):
            segment(present, file(PINK).sha256, PIXELS)


def test_the_file_s_sha256_is_identity() -> None:
    specs = [TileSpec(tissue=TissueMethod.file, tissue_sha256=digit * 64) for digit in "ab"]
    assert tiling_identity(specs[0]) != tiling_identity(specs[1])
    for spec in specs:
        assert stored_spec(tiling_identity(spec), "the slides") == spec
    with pytest.raises(ConfigError):
        TileSpec(tissue=TissueMethod.glass, tissue_sha256="a" * 64)
