"""What cannot be read gets its reason, and what to do."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.slides.reader import open_slide
from mhim_core.types import FailureReason


def refused(path: Path) -> SlideError:
    with pytest.raises(SlideError) as error:
        open_slide(path)
    assert str(path.parent) not in error.value.message
    return error.value


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("slide.svs", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.svs", b"", "empty"),
        ("x.svs", bytes(5000), "zeros"),
        ("x.svs", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
        ("x.svs", b"\n<!DOCTYPE html><html><body>Login</body></html>", "login"),
        ("x.ndpi", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "download"),
        ("x.svs", b'{"error": "unauthorized"}', "download"),
        ("x.svs", b"hello", "text"),
        ("x.svs", b"%PDF-1.7\n\x00\xff", "PDF"),
        ("x.svs", archive(), "unpack"),
        ("x.zarr.zip", archive(), ".zarr"),
        ("x.svs", b"\x1f\x8b\x08\x00" + bytes(range(100)), "unpack"),
        ("x.tif", picture("BMP"), "vips"),
        ("x.svs", picture("JPEG2000"), "vips"),
        ("x.lif", b"\x70\x00\x00\x00\x2a\x00\x00\x00\x2a", "OME-TIFF"),
        ("x.nd2", b"\xda\xce\xbe\x0a" + bytes(range(100)), "OME-TIFF"),
        ("x.dcm", bytes(128) + b"DICM" + bytes(range(100)), "DICOM"),
        ("x.mrxs", picture("JPEG"), "Slidedat.ini"),
        ("x.vsi", b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", ".ets"),
        ("x.ets", b"SIS\x00" + bytes(range(100)), ".vsi"),
        ("x.czi", bytes(range(200)), "CZI"),
        ("x.kfb", b"KFB\x00" + bytes(range(100)), "OME-TIFF"),
    ],
)
def test_a_foreign_file_is_named_with_what_to_do(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert error.reason is FailureReason.OPEN
    assert word in error.message


@pytest.mark.parametrize(("name", "content"), [("x.czi", b"ZISRAWFILE"), ("x.isyntax", b'<DataObject ObjectType="DPU')])
def test_a_format_of_fastslide_without_it_says_what_to_install(
    tmp_path: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastslide", None)
    path = tmp_path / name
    path.write_bytes(content + bytes(100))
    assert refused(path).reason is FailureReason.OPEN
    assert "mhim[fastslide]" in refused(path).message


def test_the_overview_in_a_mrxs_file_is_never_taken_for_the_slide(tmp_path: Path) -> None:
    """It is a JPEG, which with the table's mpp would be embedded."""
    path = tmp_path / "x.mrxs"
    path.write_bytes(picture("JPEG"))
    assert refused(path).reason is FailureReason.OPEN


@pytest.mark.parametrize(
    ("entry", "word"), [("1.dcm", "DICOM"), ("Slidedat.ini", ".mrxs"), ("frame_t.ets", ".vsi"), ("x.txt", "cohort")]
)
def test_a_folder_that_is_no_slide_says_which_file_to_name(tmp_path: Path, entry: str, word: str) -> None:
    folder = tmp_path / "slide"
    folder.mkdir()
    (folder / entry).touch()
    error = refused(folder)
    assert error.reason is FailureReason.NOT_FOUND
    assert word in error.message
