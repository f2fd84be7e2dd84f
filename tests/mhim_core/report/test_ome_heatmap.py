"""Heat maps as OME-TIFF lie on the slide to the pixel, at every level, for tifffile, OpenSlide and our own readers."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile

from mhim_core.features import MppUsed
from mhim_core.report.ome_heatmap import HeatmapSlide, colour_heatmap, value_heatmap
from mhim_core.slides.reader import open_slide

TILE = 100
KNOWN = (1300, 700)
"""The place of the tile that stands out."""


def slide(**changes: object) -> HeatmapSlide:
    facts = {
        "coords_l0_px": np.array([(1100, 700), KNOWN, (2000, 1499)], np.int32),
        "tile_size_l0_px": (TILE, TILE),
        "slide_size_l0_px": (2101, 1600),
        "mpp": MppUsed(0.25, 0.5, "slide"),
        "name": "s1",
    }
    return HeatmapSlide(**facts | changes)  # type: ignore[arg-type]


def inside(picture: np.ndarray, downsample: int = 1) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the pixels that are True."""
    rows, columns = np.nonzero(picture)
    assert len(rows) == (TILE // downsample) ** 2
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_values_lie_on_the_known_tile_at_every_level() -> None:
    data = value_heatmap(slide(), {"attention": [0.1, 0.7, 0.2], "evidence tumour": [-1, 4, 2]})
    assert data == value_heatmap(slide(), {"attention": [0.1, 0.7, 0.2], "evidence tumour": [-1, 4, 2]})
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        assert tiff.is_ome
        [series] = tiff.series
        assert series.axes == "CYX"
        assert [level.shape for level in series.levels] == [(2, 1600, 2101), (2, 800, 1051), (2, 400, 526)]
        for level, downsample in zip(series.levels, (1, 2, 4), strict=True):
            values = level.asarray()
            assert values.dtype == np.float32
            x, y = KNOWN
            box = inside(values[0] == np.float32(0.7), downsample)
            assert [side * downsample for side in box] == [x, y, x + TILE, y + TILE]
            assert (np.isnan(values[0]) == np.isnan(values[1])).all()
            assert inside(values[1] == 4, downsample) == box
        pixels = ElementTree.fromstring(tiff.ome_metadata or "").find(".//{*}Pixels")
    assert pixels is not None
    assert float(pixels.attrib["PhysicalSizeX"]) == 0.25
    assert float(pixels.attrib["PhysicalSizeY"]) == 0.5
    assert [each.attrib["Name"] for each in pixels.findall("{*}Channel")] == ["attention", "evidence tumour"]


@pytest.mark.parametrize("downsample", [1, 4])
def test_colours_are_read_by_openslide_and_by_our_readers(tmp_path: Path, downsample: int) -> None:
    path = tmp_path / "s1.ome.tif"
    path.write_bytes(colour_heatmap(slide(), [0.2, 1.0, 0.5], downsample=downsample))
    size = (-(-2101 // downsample), 1600 // downsample)
    yellow = (253, 231, 37)
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == size
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25 * downsample, rel=1e-6)
        picture = np.asarray(opened.read_region((0, 0), 0, size))[..., :3]
    box = inside((picture == yellow).all(axis=-1), downsample)
    x, y = KNOWN
    assert [side * downsample for side in box] == [x, y, x + TILE, y + TILE]
    assert (picture[0, 0] == 255).all()
    for backend in ("auto", "tifffile"):
        with open_slide(path, backend) as reader:
            info = reader.info()
            assert (info.width_l0_px, info.height_l0_px) == size
            assert info.mpp_x == pytest.approx(0.25 * downsample, rel=1e-6)
            assert backend == "auto" or downsample > 1 or info.levels[1].downsample == pytest.approx(2, rel=1e-3)


def test_overlapping_tiles_have_their_mean_and_a_slide_of_unknown_size_ends_with_its_tiles() -> None:
    two = slide(coords_l0_px=np.array([(0, 0), (50, 0)], np.int32), slide_size_l0_px=(0, 0), mpp=None)
    values = tifffile.imread(io.BytesIO(value_heatmap(two, {"attention": [1.0, 0.0]})))
    assert values.shape == (100, 150)
    assert (values[:, :50] == 1).all()
    assert (values[:, 50:100] == 0.5).all()
    assert (values[:, 100:] == 0).all()
