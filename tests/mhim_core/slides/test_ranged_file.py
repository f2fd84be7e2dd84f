"""A file that is fetched by ranges: what is read was fetched before, once, and tiles are those of the whole file."""

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.facts import PlanFacts
from mhim_core.errors import SlideError, StorageError
from mhim_core.features import MppUsed
from mhim_core.slides import ranged_file, ranged_header
from mhim_core.slides.backend import open_backend
from mhim_core.slides.backends.direct import DirectBackend
from mhim_core.slides.ranged_file import MAX_WASTE, RangedFile, Span, coalesced, merged
from mhim_core.slides.ranged_header import fetch_header
from mhim_core.slides.reader import open_slide
from mhim_core.slides.source_identity import identity_blocks, source_hint
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason, SlideId, SlideTask


class Remote:
    """Bytes far away, and which of them were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[Span] = []
        self.failure: Exception | None = None

    def __call__(self, offset: int, num_bytes: int) -> bytes:
        self.asked.append(Span(offset, offset + num_bytes))
        if self.failure is not None:
            raise self.failure
        return self.data[offset : offset + num_bytes]


@pytest.fixture
def ranged(tmp_path: Path) -> Iterator[Callable[..., tuple[RangedFile, Remote]]]:
    """ranged(data, suffix) → the file, whose holes are noise and no zeros, and the remote bytes."""
    made: list[RangedFile] = []

    def make(data: bytes, suffix: str = "") -> tuple[RangedFile, Remote]:
        remote = Remote(data)
        path = tmp_path / f"ranged-{len(made)}{suffix}"
        made.append(RangedFile(path, len(data), remote))
        with path.open("r+b") as file:
            file.write(random.Random(1).randbytes(len(data)))
        return made[-1], remote

    yield make
    for file in made:
        file.close()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_read_is_there_and_hardly_anything_was_fetched_twice(ranged: Any, seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(200_000)
    file, remote = ranged(data)
    for _ in range(60):
        spans = [Span(start, start + rng.choice([1, 100, 5_000])) for start in rng.choices(range(201_000), k=3)]
        match rng.randrange(3):
            case 0:
                file.expect(spans)
            case 1:
                file.ensure(spans)
                on_disk = file.path.read_bytes()
                assert all(on_disk[span.start : span.stop] == data[span.start : span.stop] for span in spans)
            case _:
                assert file.read(*spans[0]) == data[spans[0].start :][: spans[0].stop]
    file.complete()
    assert file.path.read_bytes() == data
    assert len(data) <= sum(span.num_bytes for span in remote.asked) <= (1 + MAX_WASTE) * len(data)


@pytest.mark.parametrize("seed", range(4))
def test_gaps_are_closed_from_the_smallest_on_within_the_bytes_they_may_cost(seed: int) -> None:
    rng = random.Random(seed)
    starts = rng.sample(range(0, 10_000_000, 1_000), 200)
    spans = [Span(start, start + rng.randrange(1, 3_000)) for start in starts]
    wanted, fewer = merged(spans), coalesced(spans)
    num_bytes = sum(span.num_bytes for span in wanted)
    assert num_bytes <= sum(span.num_bytes for span in fewer) <= (1 + MAX_WASTE) * num_bytes
    assert len(fewer) < len(wanted)
    assert all(any(each.start <= span.start and span.stop <= each.stop for each in fewer) for span in wanted)


def test_what_cannot_be_fetched_is_told_when_it_is_needed_and_may_come_later(ranged: Any) -> None:
    file, remote = ranged(bytes(range(256)) * 100)
    remote.failure = StorageError("gone")
    file.expect([Span(0, 1_000)])
    with pytest.raises(StorageError, match="gone"):
        file.read(500, 10)
    remote.failure = None
    assert file.read(500, 10) == remote.data[500:510]
    file.close()
    file.close()


def test_what_is_waited_for_does_not_queue_behind_what_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged_file, "MAX_SPAN_BYTES", 100)
    is_released = threading.Event()

    def fetch(offset: int, num_bytes: int) -> bytes:
        if offset < 5_000:
            assert is_released.wait(30)
        return b"x" * num_bytes

    file = RangedFile(tmp_path / "file", 10_000, fetch)
    file.expect([Span(0, 10_000)])
    assert file.read(9_990, 10) == b"x" * 10
    is_released.set()
    file.close()


@pytest.mark.fault(13)
def test_a_disk_that_fills_up_while_ranges_are_written_is_no_space(
    ranged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = ranged(bytes(1_000))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SlideError) as failure:
        file.read(0, 10)
    assert failure.value.reason is FailureReason.NO_SPACE


def check_equal(path: Path, file: RangedFile, spec: TileSpec, mpp: float | None = None) -> int:
    """The number of tiles, which are the whole file's, as everything else that is known of the slide."""
    task, policy = SlideTask(SlideId("a"), str(path), mpp), SlidePolicy(max_upsample=2.1)
    of_file, of_ranges = (
        list(decode_slide(place, task, source_hint(path), spec=spec, policy=policy, ranged=by_ranges))
        for place, by_ranges in ((path, None), (file.path, file))
    )
    facts, expected = of_ranges.pop(0), of_file.pop(0)
    assert isinstance(facts, PlanFacts)
    assert isinstance(expected, PlanFacts)
    assert (facts.reading, facts.reading.view) == (expected.reading, expected.reading.view)
    assert (facts.cut, facts.decoding) == (expected.cut, expected.decoding)
    assert np.array_equal(facts.coords_l0_px, expected.coords_l0_px)
    for batch, other in zip(of_ranges, of_file, strict=True):
        assert np.array_equal(batch.tiles, other.tiles)
        assert np.array_equal(batch.background_share, other.background_share)
    return len(facts.coords_l0_px)


@pytest.fixture(scope="module")
def glassy(tmp_path_factory: pytest.TempPathFactory, painted: np.ndarray) -> Path:
    """Tissue in a corner of much glass; levels that lie between pixels."""
    pixels = np.full((4_391, 4_787, 3), 243, np.uint8)
    pixels[600 : 600 + painted.shape[0] // 2, 300 : 300 + painted.shape[1] // 2] = painted[
        : painted.shape[0] // 2, : painted.shape[1] // 2
    ]
    # dust, so that glass has its bytes too
    pixels[::37, ::41] -= np.random.default_rng(0).integers(0, 9, pixels[::37, ::41].shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("glassy") / "slide.tiff"
    write_pyramid(path, pixels, mpp=(0.5, 0.5), downsamples=(1, 4, 16), tile_px=128)
    return path


@pytest.mark.parametrize("target_mpp", [0.5, 0.7, 2.0])
def test_tiles_of_ranges_are_those_of_the_file_and_glass_stays_where_it_is(
    ranged: Any, glassy: Path, target_mpp: float
) -> None:
    file, remote = ranged(glassy.read_bytes(), ".tiff")
    assert fetch_header(file)
    assert check_equal(glassy, file, TileSpec(target_mpp=target_mpp, tile_px=64)) > 10
    asked = sum(span.num_bytes for span in merged(remote.asked))
    assert asked <= file.num_fetched <= (1 + MAX_WASTE) * asked
    assert asked < 0.8 * file.num_bytes


def test_real_slides_by_ranges_are_the_same_slides(shared_data: Path, ranged: Any) -> None:
    folder = shared_data / "slides"
    for path, mpp in (
        (folder / "atlas20x/BS9_HE2_20x.tiff", None),
        (folder / "atlas10x/PDAC-tru-cut_HE3_10x.tiff", 1.0),
        (folder / "CMU-1-Small-Region.svs", None),
    ):
        file, _ = ranged(path.read_bytes(), path.suffix)
        assert fetch_header(file)
        assert check_equal(path, file, TileSpec(target_mpp=mpp or 0.5), mpp) > 40
        assert file.num_fetched < 0.87 * file.num_bytes


def test_regions_that_openslide_reads_are_fetched_first(ranged: Any, glassy: Path) -> None:
    file, _ = ranged(glassy.read_bytes(), ".tiff")
    assert fetch_header(file)
    by_ranges, whole = open_backend(file.path, "auto", file), open_backend(glassy, "openslide")
    rng = np.random.default_rng(2)
    for level, size in enumerate(whole.info().levels):
        for _ in range(12):
            x, y = (int(rng.integers(0, side * size.downsample)) for side in (size.width_px, size.height_px))
            region = (x, y, level, int(rng.integers(1, 300)), int(rng.integers(1, 300)))
            assert np.array_equal(by_ranges.read_region(*region), whole.read_region(*region))
    by_ranges.close()
    whole.close()


def test_a_level_that_openslide_reads_differently_is_read_by_it_from_ranges_as_well(
    ranged: Any, glassy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectBackend, "_maybe_direct", lambda *_: None)
    file, _ = ranged(glassy.read_bytes(), ".tiff")
    assert fetch_header(file)
    assert check_equal(glassy, file, TileSpec(tile_px=64)) > 10


@pytest.fixture
def with_holes(tmp_path: Path) -> Iterator[Callable[[bytes], RangedFile]]:
    """As `ranged`, but its holes read as zeros, as a file system's do: behind a head that is there a JPEG decodes."""
    made: list[RangedFile] = []

    def make(data: bytes) -> RangedFile:
        made.append(RangedFile(tmp_path / f"holes-{len(made)}.tiff", len(data), Remote(data)))
        return made[-1]

    yield make
    for file in made:
        file.close()


def test_tiles_whose_stated_length_cannot_be_are_openslide_s_from_bytes_that_are_there(
    with_holes: Callable[[bytes], RangedFile], glassy: Path, tmp_path: Path
) -> None:
    """The direct backend leaves them to OpenSlide, which reads on into the next tiles. Their heads are there."""
    import tifffile

    path = tmp_path / "slide.tiff"
    shutil.copy(glassy, path)
    blocks = list(identity_blocks(path.stat().st_size))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page: Any = tiff.pages[0]
        counts, too_many = list(page.databytecounts), 4 * page.tilewidth**2 * 3 + 70_000
        for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            is_cut = any(start <= offset < start + size < offset + count for start, size in blocks)
            if is_cut and offset + too_many < path.stat().st_size:
                counts[index] = too_many
        assert counts != list(page.databytecounts)
        page.tags["TileByteCounts"].overwrite(counts)
    file = with_holes(path.read_bytes())
    fetch_header(file)
    assert check_equal(path, file, TileSpec(tile_px=64, min_tissue=0.0)) > 10


def test_a_second_table_of_tiles_that_openslide_takes_is_read_where_it_points(
    with_holes: Callable[[bytes], RangedFile], glassy: Path, tmp_path: Path
) -> None:
    """libtiff takes the last of TileOffsets and StripOffsets, tifffile the first."""
    import struct

    import tifffile

    data = bytearray(glassy.read_bytes())
    with tifffile.TiffFile(glassy) as tiff:
        page: Any = tiff.pages[0]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        last = max(page.tags, key=lambda tag: tag.code)
    rng = random.Random(0)
    swapped = [offsets[rng.choice([j for j, size in enumerate(counts) if size <= count])] for count in counts]
    data[last.offset : last.offset + 12] = struct.pack("<HHII", 273, 4, len(swapped), len(data))
    data += struct.pack(f"<{len(swapped)}I", *swapped)
    path = tmp_path / "slide.tiff"
    path.write_bytes(data)
    file = with_holes(bytes(data))
    if not fetch_header(file):
        file.complete()
    assert check_equal(path, file, TileSpec(target_mpp=0.5, tile_px=64), 0.5) > 10


def test_the_picture_s_level_is_fetched_with_the_header_and_a_large_one_makes_it_a_copy(
    ranged: Any, glassy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching it may take long from a slow store; what comes after the header has a limit of minutes."""
    file, _ = ranged(glassy.read_bytes(), ".tiff")
    assert fetch_header(file)
    num_fetched = file.num_fetched
    with open_slide(file.path, ranged=file) as reader:
        reader.thumbnail(MppUsed(0.5, 0.5, "slide"), 8.0)
    assert file.num_fetched == num_fetched
    monkeypatch.setattr(ranged_header, "_MAX_OVERVIEW_BYTES", 1_000)
    again, _ = ranged(glassy.read_bytes(), ".tiff")
    assert not fetch_header(again)


def test_reads_out_of_order_do_not_look_at_all_that_is_expected(ranged: Any) -> None:
    file, remote = ranged(random.Random(0).randbytes(400_000))
    spans = [Span(start, start + 40) for start in range(0, 400_000, 200)]
    file.expect(spans)
    random.Random(1).shuffle(spans)
    for span in spans:
        assert file.read(span.start, 40) == remote.data[span.start : span.stop]
    assert sum(span.num_bytes for span in remote.asked) <= (1 + MAX_WASTE) * 40 * len(spans)


def test_a_tile_missing_above_level_0_makes_it_a_whole_copy(ranged: Any, glassy: Path, tmp_path: Path) -> None:
    """OpenSlide makes such a tile of an SVS from the finer level."""
    import tifffile

    path = tmp_path / "slide.tiff"
    shutil.copy(glassy, path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts: Any = tiff.pages[1].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    file, _ = ranged(path.read_bytes(), ".tiff")
    assert not fetch_header(file)
    open_backend(file.path, "auto", file).close()
    assert file.path.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["no TIFF", "empty", "short", "strips", "garbage after the header"])
def test_what_is_no_tiff_of_jpeg_tiles_is_fetched_whole(ranged: Any, tmp_path: Path, kind: str) -> None:
    import tifffile

    data = {
        "no TIFF": b"\x89PNG" + bytes(3_000),
        "empty": b"",
        "short": b"II*",
        "garbage after the header": b"II*\0\x08\0\0\0" + b"\xff" * 99,
    }
    if kind == "strips":
        tifffile.imwrite(tmp_path / "strips.tiff", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
        data[kind] = (tmp_path / "strips.tiff").read_bytes()
    file, _ = ranged(data[kind], ".tiff")
    assert not fetch_header(file)


def test_a_truncated_remote_slide_is_refused_by_its_header(ranged: Any, glassy: Path) -> None:
    data = glassy.read_bytes()
    file, _ = ranged(data[: len(data) * 3 // 5], ".tiff")
    with pytest.raises(SlideError, match="truncated") as failure:
        fetch_header(file)
    assert failure.value.reason is FailureReason.OPEN
    assert file.num_fetched < 0.8 * len(data)


def test_a_store_that_fails_amid_tiles_is_no_bad_tile(ranged: Any, glassy: Path) -> None:
    file, remote = ranged(glassy.read_bytes(), ".tiff")
    assert fetch_header(file)
    items = decode_slide(
        file.path, SlideTask(SlideId("a"), "s3://b/a.tiff"), source_hint(glassy),
        spec=TileSpec(tile_px=64), policy=SlidePolicy(), ranged=file,
    )  # fmt: skip
    next(items)
    remote.failure = StorageError("gone")
    with pytest.raises(StorageError, match="gone"):
        list(items)
