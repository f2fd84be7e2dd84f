import contextlib
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.reader import open_slide
from mhim_core.slides.tiff import check_tiff
from mhim_core.types import FailureReason

Write = Callable[..., Path]


def bigtiff(path: Path, width: int, height: int, tile_px: int, num_tiles: int, pad_bytes: int = 0) -> Path:
    """A BigTIFF whose header claims this, with offset arrays that may or may not be there."""
    after = 16 + 8 + 20 * 9 + 8
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (322, 4, 1, tile_px),
        (323, 4, 1, tile_px),
        (324, 16, num_tiles, after),
        (325, 16, num_tiles, after),
    ]
    body = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    path.write_bytes(header + struct.pack("<Q", len(tags)) + body + struct.pack("<Q", 0) + b"\0" * pad_bytes)
    return path


@pytest.mark.parametrize(
    ("width", "height", "tile_px", "pad_bytes"),
    [
        (2_000_000, 2_000_000, 256, 0),
        (900_000, 900_000, 256, 0),  # more than 10⁷ stored tiles
        (100_000, 100_000, 16, 0),  # 4 · 10⁷ of them, on a slide of an ordinary size
        (65_536, 65_536, 65_536, 16),
        (100_000, 100_000, 65_520, 64),
    ],
)
@pytest.mark.fault(23)
def test_a_header_bomb_is_too_large_at_once(
    tmp_path: Path, width: int, height: int, tile_px: int, pad_bytes: int
) -> None:
    num_tiles = -(-width // tile_px) * -(-height // tile_px)
    path = bigtiff(tmp_path / "bomb.tiff", width, height, tile_px, num_tiles, pad_bytes)
    start, before_kib = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SlideError) as failure:
        open_slide(path)
    assert failure.value.reason is FailureReason.TOO_LARGE
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 1_000_000


def test_a_table_longer_than_the_file_is_truncation(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="truncated") as failure:
        check_tiff(bigtiff(tmp_path / "short.tiff", 100_000, 100_000, 256, 152_881))
    assert failure.value.reason is FailureReason.OPEN


@pytest.mark.parametrize("share", [0.0, "1 KB", 0.3, 0.6, 0.99])
@pytest.mark.fault(17)
def test_a_truncated_slide_does_not_open(write_slide: Write, simple: np.ndarray, share: float | str) -> None:
    path = write_slide(simple)
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] if share == "1 KB" else whole[: int(len(whole) * float(share))])
    with pytest.raises(SlideError) as failure:
        open_slide(path)
    assert failure.value.reason is FailureReason.OPEN


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "ndpi_test3-DAPI-2-387.ndpi"]
)
@pytest.mark.fault(17)
def test_a_whole_scanner_file_passes_and_a_truncated_one_does_not(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "slides" / name
    check_tiff(source)
    whole = source.read_bytes()
    for share in (0.0, 0.3, 0.6, 0.99):
        path = tmp_path / name
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SlideError) as failure:
            open_slide(path)
        assert failure.value.reason is FailureReason.OPEN


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"II\x2a\0",
        b"II\x2a\0\x08\0\0\0",
        b"II\x2b\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"MM\0\x2a\0\0\0\x08\xff\xff",
        b"II\x2a\0\x08\0\0\0\0\0\x08\0\0\0",  # a directory that links to itself
    ],
)
def test_what_is_no_tiff_is_left_to_openslide_or_refused_but_never_crashes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.tiff"
    path.write_bytes(data)
    with pytest.raises(SlideError) as failure:
        open_slide(path)
    assert failure.value.reason is FailureReason.OPEN


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.fault(23)
def test_random_damage_to_a_header_gives_a_slide_or_a_slide_error(
    write_slide: Write, simple: np.ndarray, seed: int
) -> None:
    path = write_slide(simple[:300, :300])
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, 400, 4):
        data[place] = int(rng.integers(256))
    path.write_bytes(data)
    with contextlib.suppress(SlideError):  # anything else is a crash
        open_slide(path).close()
