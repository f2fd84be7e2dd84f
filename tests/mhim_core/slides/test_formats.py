"""Formats that optional backends read: TIFFs through tifffile, OME-Zarr through zarr, CZI through fastslide."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides import file_layout
from mhim_core.slides.backends import tifffile as tifffile_backend
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.source_identity import check_sha256, source_hint, source_identity
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason

FIXTURES = Path(__file__).parents[2] / "fixtures/formats"
NGFF_AXES = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """600 × 700 pixels of glass with a pink piece."""
    rng = np.random.default_rng(0)
    pixels = np.full((600, 700, 3), 243, np.uint8)
    pixels[100:500, 100:600] = np.clip(np.array([205, 130, 175]) + rng.integers(-20, 20, (400, 500, 1)), 0, 255)
    return pixels


def halved(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).reduce(2))


def whole(path: Path, backend: str = "auto", level: int = 0) -> np.ndarray:
    """A level's RGB, opaque everywhere."""
    with open_slide(path, backend) as reader:
        size = reader.info().levels[level]
        region = reader._backend.read_region(0, 0, level, size.width_px, size.height_px)
    assert (region[..., 3] == 255).all()
    return region[..., :3]


def refusal(path: Path, backend: str = "auto") -> SlideError:
    with pytest.raises(SlideError) as refused:
        whole(path, backend)
    return refused.value


# TIFF


@pytest.fixture(params=["lzma", "jpeg2000"])
def rare_tiff(request: pytest.FixtureRequest, tmp_path: Path, picture: np.ndarray) -> Path:
    """A pyramid in a compression that OpenSlide refuses, without loss, and an overview."""
    options: dict[str, Any] = {"compression": request.param, "photometric": "rgb", "tile": (128, 128), "metadata": None}
    if request.param == "jpeg2000":
        pytest.importorskip("imagecodecs", reason="tifffile writes JPEG 2000 with imagecodecs (extra formats)")
        options["compressionargs"] = {"level": 0}
    path = tmp_path / "x.tiff"
    with tifffile.TiffWriter(path) as file:
        file.write(picture, resolution=(20_000, 20_000), resolutionunit="centimeter", **options)
        file.write(halved(picture), subfiletype=1, **options)
    return path


def test_a_compression_that_openslide_refuses_is_read_by_tiles_and_levels(rare_tiff: Path, picture: np.ndarray) -> None:
    with pytest.raises(SlideError):
        open_slide(rare_tiff, "openslide")
    with open_slide(rare_tiff) as reader:
        assert reader.backend == ("tifffile", 1)
        assert (reader.info().mpp_x, reader.info().mpp_y) == (0.5, 0.5)
        assert [level.downsample for level in reader.info().levels] == [1.0, 2.0]
    assert np.array_equal(whole(rare_tiff), picture)
    assert np.array_equal(whole(rare_tiff, level=1), halved(picture))


def test_the_pyramid_of_an_ome_tiff_lies_in_its_subifds(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.ome.tiff"
    metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(picture, photometric="rgb", tile=(128, 128), compression="zlib", subifds=1, metadata=metadata)
        file.write(halved(picture), photometric="rgb", tile=(128, 128), compression="zlib", subfiletype=1)
    with open_slide(path, "tifffile") as reader:
        assert len(reader.info().levels) == 2
        assert reader.info().mpp_x == reader.info().mpp_y == 0.25
    assert np.array_equal(whole(path, "tifffile", 1), halved(picture))
    with open_slide(path) as reader:  # as before there was such a backend: what is in stores stays of one kind
        assert reader.backend == ("openslide", 1)


@pytest.mark.parametrize("kind", ["strips", "planes", "predictor", "tiles of planes"])
def test_too_large_a_picture_for_memory_is_read_by_strips_or_planes(
    tmp_path: Path, picture: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_layout, "MAX_PLAIN_PX", 1000)
    path = tmp_path / "x.ome.tif"
    planes = np.ascontiguousarray(np.moveaxis(picture, -1, 0))
    if kind == "strips":
        tifffile.imwrite(path, picture, photometric="rgb", rowsperstrip=50, compression="zlib", metadata=None)
    elif kind == "predictor":
        pytest.importorskip("imagecodecs", reason="tifffile writes and reads LZW with imagecodecs (extra formats)")
        tifffile.imwrite(
            path, picture, photometric="rgb", rowsperstrip=64, compression="lzw", predictor=True, metadata=None
        )
    elif kind == "planes":
        tifffile.imwrite(path, planes, photometric="minisblack", tile=(128, 128), metadata={"axes": "CYX"}, ome=True)
    else:
        options = {"photometric": "rgb", "planarconfig": "separate", "tile": (128, 128)}
        tifffile.imwrite(path, planes, **options, ome=True, metadata={"axes": "SYX"})
    with open_slide(path) as reader:
        assert reader.decoder == "tifffile"
        assert reader.info().mpp_x is None
    assert np.array_equal(whole(path), picture)
    with prepare_slide(path, mpp_override=0.5, spec=TileSpec(), policy=SlidePolicy()) as slide:
        assert len(slide.plan) == 5
    with pytest.raises(SlideError) as refused:
        prepare_slide(path, spec=TileSpec(), policy=SlidePolicy())
    assert refused.value.reason is FailureReason.NO_MPP


@pytest.mark.fault(18)
def test_a_damaged_tile_is_bad_by_itself_and_never_white(rare_tiff: Path, picture: np.ndarray) -> None:
    path = rare_tiff
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        offset, num_bytes = page.dataoffsets[7], page.databytecounts[7]
    data = bytearray(path.read_bytes())
    data[offset + num_bytes // 2 : offset + num_bytes] = bytes(num_bytes - num_bytes // 2)
    path.write_bytes(data)
    with open_slide(path) as reader:
        backend = reader._backend
        with pytest.raises(SlideError) as broken:
            backend.read_region(128, 128, 0, 128, 128)
        assert broken.value.reason is FailureReason.READ
        assert np.array_equal(backend.read_region(256, 128, 0, 128, 128)[..., :3], picture[128:256, 256:384])


def test_a_strip_of_too_few_bytes_is_an_error_not_black(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture, photometric="rgb", rowsperstrip=100, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages.first.tags["StripByteCounts"]
        tag.overwrite((*tag.value[:-1], tag.value[-1] // 2))
    assert refusal(path, "tifffile").reason is FailureReason.READ


@pytest.mark.fault(24)
def test_a_tile_that_is_not_stored_is_transparent(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(128, 128), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages.first.tags["TileByteCounts"]
        tag.overwrite((0, *tag.value[1:]))
    with open_slide(path, "tifffile") as reader:
        region = reader._backend.read_region(0, 0, 0, 256, 128)
    assert (region[:, :128] == 0).all()
    assert (region[:, 128:, 3] == 255).all()


def test_grey_palette_and_deep_tiffs_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    for name, pixels, photometric in (
        ("grey", picture[..., 0], "minisblack"),
        ("deep", picture.astype(np.uint16), "rgb"),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, photometric=photometric, tile=(128, 128), metadata=None)
        assert refusal(path, "tifffile").reason is FailureReason.OPEN


def test_labels_and_overviews_are_no_levels(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.tiff"
    with tifffile.TiffWriter(path) as file:
        for pixels, kind in ((picture, 0), (picture[::2, ::2], 1), (picture[:100, :300], 1), (picture[:150, :175], 0)):
            file.write(pixels, photometric="rgb", tile=(128, 128), subfiletype=kind, metadata=None)
    with open_slide(path, "tifffile") as reader:
        assert [level.width_px for level in reader.info().levels] == [700, 350]


def test_no_file_stays_open_after_a_refusal(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture[..., 0], photometric="minisblack", tile=(128, 128), metadata=None)
    closed: list[int] = []
    close = tifffile_backend.os.close
    monkeypatch.setattr(tifffile_backend.os, "close", lambda number: (closed.append(number), close(number))[1])
    refusal(path, "tifffile")
    assert len(closed) == 1


# OME-Zarr


@pytest.fixture(params=[2, 3], ids=["ngff-0.4", "ngff-0.5"])
def ome_zarr(request: pytest.FixtureRequest, tmp_path: Path, picture: np.ndarray) -> Path:
    pytest.importorskip("zarr", reason="OME-Zarr takes zarr (extra formats)")
    folder = tmp_path / "slide.ome.zarr"
    write_zarr(folder, picture, zarr_format=request.param)
    return folder


def write_zarr(folder: Path, picture: np.ndarray, *, zarr_format: int, **arrays: Any) -> None:
    import zarr

    group = zarr.open_group(store=str(folder), mode="w", zarr_format=zarr_format)
    for number, pixels in enumerate((picture, halved(picture))):
        planes = np.moveaxis(pixels, -1, 0)
        array = group.create_array(
            str(number), shape=planes.shape, chunks=(1, 128, 128), dtype="uint8", fill_value=0, **arrays
        )
        array[:] = planes
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5 * 2**n, 0.5 * 2**n]}]}
        for n in (0, 1)
    ]
    multiscale = {"axes": NGFF_AXES, "datasets": datasets}
    if zarr_format == 2:
        group.attrs["multiscales"] = [multiscale | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}


def edit_attributes(folder: Path, **changes: Any) -> None:
    """Changes of the multiscale, in either version's place."""
    for name in (".zattrs", "zarr.json"):
        if (folder / name).is_file():
            record = json.loads((folder / name).read_text())
            at = record if name == ".zattrs" else record["attributes"]["ome"]
            at["multiscales"][0].update(changes)
            (folder / name).write_text(json.dumps(record))


def chunk(folder: Path, level: int, channel: int, row: int, column: int) -> Path:
    name = f"{channel}.{row}.{column}" if (folder / ".zattrs").is_file() else f"c/{channel}/{row}/{column}"
    return folder / str(level) / name


def test_an_ome_zarr_gives_its_pixels_levels_and_resolution(ome_zarr: Path, picture: np.ndarray) -> None:
    with open_slide(ome_zarr) as reader:
        assert reader.backend == ("zarr", 1)
        assert (reader.info().mpp_x, reader.info().mpp_y) == (0.5, 0.5)
        assert [level.downsample for level in reader.info().levels] == [1.0, 2.0]
        outside = reader._backend.read_region(600, 500, 0, 200, 200)
        assert (outside[100:] == 0).all()
        assert (outside[:100, :100, 3] == 255).all()
        assert np.array_equal(reader.thumbnail(MppUsed(0.5, 0.5, "slide"), 0.5).pixels, picture)
    assert np.array_equal(whole(ome_zarr, level=1), halved(picture))
    with prepare_slide(ome_zarr, spec=TileSpec(), policy=SlidePolicy()) as slide:
        assert len(slide.plan) == 5


def test_axes_without_units_state_no_resolution(ome_zarr: Path) -> None:
    edit_attributes(ome_zarr, axes=[{"name": name, "type": "space"} for name in "cyx"])
    with pytest.raises(SlideError) as refused:
        prepare_slide(ome_zarr, spec=TileSpec(), policy=SlidePolicy())
    assert refused.value.reason is FailureReason.NO_MPP


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", 0.0005), ("millimeter", 500.0), ("angstrom", 0.00005), ("second", None)]
)
def test_units_are_converted(ome_zarr: Path, unit: str, mpp: float | None) -> None:
    edit_attributes(ome_zarr, axes=[axis | ({"unit": unit} if "unit" in axis else {}) for axis in NGFF_AXES])
    with open_slide(ome_zarr) as reader:
        assert reader.info().mpp_x == (None if mpp is None else pytest.approx(mpp))


def test_what_is_no_single_pyramid_of_three_colours_is_refused(ome_zarr: Path) -> None:
    zyx = [axis | {"name": name} for axis, name in zip(NGFF_AXES, "zyx", strict=True)]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    same = [{"path": str(n), "coordinateTransformations": scale} for n in (0, 1)]
    shifted = [
        {"path": "0", "coordinateTransformations": scale},
        {
            "path": "1",
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, 1.0, 1.0]},
                {"type": "translation", "translation": [0.0, 100.0, 0.0]},
            ],
        },
    ]
    escaping = [{"path": "../slide.ome.zarr/0", "coordinateTransformations": scale}]
    for change in ({"axes": zyx}, {"datasets": same}, {"datasets": shifted}, {"datasets": escaping}, {"datasets": []}):
        changed = ome_zarr.with_name("changed.zarr")
        shutil.copytree(ome_zarr, changed)
        edit_attributes(changed, **change)
        assert refusal(changed).reason is FailureReason.OPEN, change
        shutil.rmtree(changed)


def test_a_codec_that_could_run_code_is_refused_unopened(tmp_path: Path, picture: np.ndarray) -> None:
    pytest.importorskip("zarr", reason="OME-Zarr takes zarr (extra formats)")
    folder = tmp_path / "x.zarr"
    write_zarr(folder, picture, zarr_format=2)
    record = json.loads((folder / "0/.zarray").read_text())
    (folder / "0/.zarray").write_text(json.dumps(record | {"filters": [{"id": "pickle", "protocol": 5}]}))
    assert refusal(folder).reason is FailureReason.OPEN
    assert "pickle" in refusal(folder).message


@pytest.mark.fault(23)
def test_chunks_of_no_size_or_of_too_many_pixels_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    pytest.importorskip("zarr", reason="OME-Zarr takes zarr (extra formats)")
    write_zarr(tmp_path / "x.zarr", picture, zarr_format=2)
    file = tmp_path / "x.zarr/0/.zarray"
    record = json.loads(file.read_text())
    for chunks in ([1, 128, 0], [1, 100_000, 100_000], [1000, 128, 128]):
        file.write_text(json.dumps(record | {"chunks": chunks}))
        assert refusal(tmp_path / "x.zarr").reason in (FailureReason.OPEN, FailureReason.TOO_LARGE)


@pytest.mark.fault(18, 24)
def test_a_missing_chunk_is_transparent_and_a_damaged_one_unreadable(ome_zarr: Path) -> None:
    for channel in range(3):
        chunk(ome_zarr, 0, channel, 0, 0).unlink()
    damaged = chunk(ome_zarr, 0, 1, 1, 1)
    damaged.write_bytes(damaged.read_bytes()[:20])
    chunk(ome_zarr, 0, 2, 2, 2).unlink()
    with open_slide(ome_zarr) as reader:
        assert (reader._backend.read_region(0, 0, 0, 128, 128) == 0).all()
        assert (reader._backend.read_region(128, 0, 0, 128, 128)[..., 3] == 255).all()
        for x, y in ((128, 128), (256, 256)):  # damaged; one colour of three
            with pytest.raises(SlideError) as broken:
                reader._backend.read_region(x, y, 0, 128, 128)
            assert broken.value.reason is FailureReason.READ


def test_shards_hold_many_chunks(tmp_path: Path, picture: np.ndarray) -> None:
    pytest.importorskip("zarr", reason="OME-Zarr takes zarr (extra formats)")
    write_zarr(tmp_path / "x.zarr", picture, zarr_format=3, shards=(3, 256, 256))
    assert np.array_equal(whole(tmp_path / "x.zarr"), picture)
    (tmp_path / "x.zarr/0/c/0/0/0").unlink()
    with open_slide(tmp_path / "x.zarr") as reader:
        assert (reader._backend.read_region(0, 0, 0, 256, 256) == 0).all()


def test_the_largest_picture_of_bioformats2raw_is_the_slide_unless_there_are_several(
    tmp_path: Path, picture: np.ndarray
) -> None:
    pytest.importorskip("zarr", reason="OME-Zarr takes zarr (extra formats)")
    folder = tmp_path / "x.zarr"
    for name, pixels in (("0", picture[:120, :100]), ("1", picture)):
        write_zarr(folder / name, pixels, zarr_format=2)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    assert np.array_equal(whole(folder), picture)
    write_zarr(folder / "2", picture, zarr_format=2)
    assert refusal(folder).reason is FailureReason.OPEN
    assert np.array_equal(whole(folder / "2"), picture)
    (folder / ".zattrs").write_text('{"plate": {}}')
    assert refusal(folder).reason is FailureReason.OPEN


def test_a_folder_is_known_by_its_content_wherever_it_lies(ome_zarr: Path) -> None:
    identity, hint = source_identity(ome_zarr), source_hint(ome_zarr)
    moved = ome_zarr.with_name("moved.zarr")
    shutil.copytree(ome_zarr, moved)
    (moved / ".DS_Store").write_text("a file manager's")
    assert source_identity(moved) == identity
    assert hint.num_bytes == identity.num_bytes == sum(f.stat().st_size for f in ome_zarr.rglob("*") if f.is_file())
    other = chunk(moved, 0, 1, 1, 1)
    other.write_bytes(other.read_bytes() + b"x")
    assert source_identity(moved) != identity
    assert source_hint(moved)[1:] != hint[1:]
    with pytest.raises(SlideError) as refused:
        check_sha256(ome_zarr, "0" * 64)
    assert refused.value.reason is FailureReason.SOURCE_HASH_MISMATCH


# CZI


def pink() -> np.ndarray:
    """What tests/fixtures/formats/pink.czi holds, as pylibCZIrw 6.1 wrote it without loss (zstd)."""
    rng = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), 243, np.uint8)
    pixels[50:250, 60:340] = np.array([205, 130, 175]) + rng.integers(-2, 3, (200, 280, 1)) * 8
    return pixels


def test_a_czi_gives_its_pixels_and_resolution() -> None:
    pytest.importorskip("fastslide", reason="CZI takes fastslide (extra fastslide)")
    with open_slide(FIXTURES / "pink.czi") as reader:
        assert reader.backend == ("fastslide", 1)
        assert (reader.info().mpp_x, reader.info().mpp_y) == (0.5, 0.5)
        outside = reader._backend.read_region(-50, 250, 0, 100, 100)
        assert (outside[:, :50] == 0).all()
        assert (outside[50:] == 0).all()
        assert np.array_equal(outside[:50, 50:, :3], pink()[250:, :50])
        assert (reader._backend.read_region(400, 0, 0, 10, 10) == 0).all()
        assert reader.prepare_level(0)
    assert np.array_equal(whole(FIXTURES / "pink.czi"), pink())


def test_a_czi_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fastslide", reason="CZI takes fastslide (extra fastslide)")
    data = (FIXTURES / "pink.czi").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "x.czi").write_bytes(data[: int(share * len(data))])
        assert refusal(tmp_path / "x.czi").reason is FailureReason.OPEN, share
