import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.source_identity import check_sha256, file_sha256, identity_of, source_hint, source_identity
from mhim_core.types import FailureReason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slide.bin"
    path.write_bytes(np.random.default_rng(0).bytes(2_000_000))
    return path


def test_a_moved_and_touched_file_is_the_same_source(file: Path) -> None:
    before = source_identity(file)
    moved = file.rename(file.with_name("elsewhere.bin"))
    os.utime(moved, (1, 1))
    assert source_identity(moved) == before
    assert before.num_bytes == 2_000_000


@pytest.mark.parametrize("place", [0, 65_535, 1_100_000, 1_999_999])
def test_a_change_in_head_middle_or_tail_is_a_new_source(file: Path, place: int) -> None:
    before = source_identity(file)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    sampled = [(1_934_464 * i // 9, 1_934_464 * i // 9 + 65_536) for i in range(10)]
    assert any(first <= place < last for first, last in sampled)
    assert source_identity(file) != before


def test_a_longer_file_is_a_new_source(file: Path) -> None:
    before = source_identity(file)
    with file.open("ab") as stream:
        stream.write(b"\0")
    assert source_identity(file) != before


@pytest.mark.parametrize("num_bytes", [0, 1, 65_536, 65_537, 300_000])
def test_small_files_are_read_whole(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "small.bin"
    data = np.random.default_rng(1).bytes(num_bytes)
    path.write_bytes(data)
    before = source_identity(path)
    for place in range(0, num_bytes, 30_011):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert source_identity(path) != before


def test_ranged_reads_give_the_same_identity_within_ten_blocks(file: Path) -> None:
    data, reads = file.read_bytes(), []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return data[offset : offset + length]

    assert identity_of(len(data), read) == source_identity(file)
    assert len(reads) == 10
    assert sum(reads) == 655_360


def test_the_hint_follows_place_size_and_mtime(file: Path) -> None:
    before = source_hint(file)
    assert source_hint(file) == before
    os.utime(file, ns=(1, 1))
    assert source_hint(file) != before


def test_the_expected_sha256_is_checked(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file_sha256(file) == digest
    assert check_sha256(file, digest.upper()) == digest
    assert check_sha256(file, None) == ""
    with pytest.raises(SlideError, match=digest) as failure:
        check_sha256(file, "0" * 64)
    assert failure.value.reason is FailureReason.SOURCE_HASH_MISMATCH


@pytest.mark.parametrize("function", [source_identity, source_hint, file_sha256])
def test_a_missing_file_is_not_found(tmp_path: Path, function: object) -> None:
    with pytest.raises(SlideError) as failure:
        function(tmp_path / "nowhere")
    assert failure.value.reason is FailureReason.NOT_FOUND
