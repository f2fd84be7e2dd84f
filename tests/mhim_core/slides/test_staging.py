import errno
import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.slides import staging
from mhim_core.slides.staging import staged
from mhim_core.types import FailureReason


def download(uri: str, path: Path) -> None:
    path.write_bytes(b"x" * 1000)


def raising(error: Exception):
    def fail(uri: str, path: Path) -> None:
        path.write_bytes(b"x" * 10)
        raise error

    return fail


def test_a_local_path_is_handed_through(tmp_path: Path) -> None:
    with staged("/data/slide.svs", raising(AssertionError("not called")), tmp_path) as path:
        assert path == Path("/data/slide.svs")
    assert not list(tmp_path.iterdir())


def test_a_remote_slide_keeps_its_suffix_and_is_gone_afterwards(tmp_path: Path) -> None:
    with staged("s3://bucket/a/slide.svs", download, tmp_path / "scratch", 1000) as path:
        assert path.suffix == ".svs"
        assert path.read_bytes() == b"x" * 1000
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFoundError("s3://bucket/slide.svs"), FailureReason.NOT_FOUND),
        (OSError(errno.ENOSPC, "No space left on device"), FailureReason.NO_SPACE),
    ],
)
def test_a_failed_download_has_its_reason_and_leaves_nothing(
    tmp_path: Path, error: Exception, reason: FailureReason
) -> None:
    with pytest.raises(SlideError) as failure, staged("s3://bucket/slide.svs", raising(error), tmp_path):
        pass
    assert failure.value.reason is reason
    assert not list(tmp_path.iterdir())


def test_a_storage_failure_is_the_runs_not_the_slides(tmp_path: Path) -> None:
    with pytest.raises(StorageError), staged("s3://b/slide.svs", raising(StorageError("denied")), tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_short_copy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="1,000 bytes") as failure, staged("s3://b/s.svs", download, tmp_path, 1001):
        pass
    assert failure.value.reason is FailureReason.STORAGE


def test_a_slide_larger_than_the_disk_is_not_even_begun(tmp_path: Path) -> None:
    never = raising(AssertionError("downloaded"))
    with pytest.raises(SlideError, match="staging disk") as failure, staged("s3://b/s.svs", never, tmp_path, 10**15):
        pass
    assert failure.value.reason is FailureReason.NO_SPACE
    assert not list(tmp_path.iterdir())


def test_an_error_while_reading_removes_the_copy(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged("s3://b/s.svs", download, tmp_path, 1000):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_slide_of_several_files_has_them_beside_it_and_all_of_them_are_counted(tmp_path: Path) -> None:
    def download_set(uri: str, path: Path) -> None:
        (path.parent / "slide").mkdir()
        (path.parent / "slide" / "Data0.dat").write_bytes(b"x" * 600)
        path.write_bytes(b"x" * 400)

    with staged("s3://b/s.mrxs", download_set, tmp_path, 1000) as path:
        assert (path.name, (path.parent / "slide" / "Data0.dat").stat().st_size) == ("slide.mrxs", 600)
    with pytest.raises(SlideError) as failure, staged("s3://b/s.mrxs", download_set, tmp_path, 1001):
        pass
    assert failure.value.reason is FailureReason.STORAGE
    assert not list(tmp_path.iterdir())


Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one slide of 1,000 bytes and for what is kept spare, in place of the real disk's."""

    def disk_usage(_: object) -> Disk:
        used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        return Disk(staging.SPARE_BYTES + 1500, used, staging.SPARE_BYTES + 1500 - used)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.setattr(staging, "_POLL_S", 0.01)


@pytest.mark.fault(13)
def test_a_slide_waits_while_another_s_copy_takes_the_room(small_disk: None, tmp_path: Path) -> None:
    is_begun, is_read = threading.Event(), threading.Event()

    def read_first() -> None:
        def slow(uri: str, path: Path) -> None:
            is_begun.set()  # nothing is written yet: what is promised counts as taken
            assert is_read.wait(30)
            download(uri, path)
            time.sleep(0.1)

        with staged("s3://b/first.svs", slow, tmp_path, 1000):
            order.append("first")

    order: list[str] = []
    first = threading.Thread(target=read_first)
    first.start()
    assert is_begun.wait(30)
    is_read.set()
    with staged("s3://b/second.svs", download, tmp_path, 1000):
        order.append("second")
    first.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(13)
def test_nobody_waits_for_room_that_no_copy_takes_or_longer_than_the_limit(
    small_disk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of-others").write_bytes(b"x" * 600)
    with pytest.raises(SlideError) as alone, staged("s3://b/s.svs", download, tmp_path, 1000):
        pass
    (tmp_path / "of-others").unlink()
    monkeypatch.setattr(staging, "MAX_WAIT_S", 0.05)
    with (
        staged("s3://b/first.svs", download, tmp_path, 1000),
        pytest.raises(SlideError) as behind,
        staged("s3://b/s.svs", download, tmp_path, 1000),
    ):
        pass
    assert {failure.value.reason for failure in (alone, behind)} == {FailureReason.NO_SPACE}
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(13)
def test_a_copy_that_finds_the_disk_full_half_way_begins_again_once_another_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_POLL_S", 0.01)
    other = staged("s3://b/other.svs", download, tmp_path, 1000)
    other.__enter__()
    num_tries = 0

    def full_at_first(uri: str, path: Path) -> None:
        nonlocal num_tries
        num_tries += 1
        path.write_bytes(b"x" * 10)
        if num_tries == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        if num_tries == 2:
            other.__exit__(None, None, None)
        download(uri, path)

    with staged("s3://b/s.svs", full_at_first, tmp_path, 1000) as path:
        assert path.read_bytes() == b"x" * 1000
    assert num_tries == 2
    with pytest.raises(SlideError) as failure, staged("s3://b/s.svs", raising(OSError(28, "")), tmp_path, 1000):
        pass
    assert failure.value.reason is FailureReason.NO_SPACE
    assert not list(tmp_path.iterdir())


def test_a_staging_folder_that_cannot_be_made_is_the_node_s_fault_not_the_slide_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SlideError) as failure, staged("s3://b/s.svs", download, tmp_path / "file" / "x", 1000):
        pass
    assert failure.value.reason is FailureReason.NO_SPACE


def test_folders_of_others_and_of_live_readers_are_left_alone_and_old_ones_without_a_lock_go(tmp_path: Path) -> None:
    young, old, foreign = (tmp_path / name for name in ("mhim-staged-young", "mhim-staged-old", "else-old"))
    for folder in (young, old, foreign):
        folder.mkdir()
    for folder in (old, foreign):
        os.utime(folder, (0, 0))
    with staged("s3://b/s.svs", download, tmp_path, 1000) as path:
        os.utime(path.parent, (0, 0))
        assert set(staging.sweep_staged(tmp_path)) == {path.parent, young}
        assert set(staging.sweep_staged(tmp_path, os.getpid())) == {path.parent}
    assert set(tmp_path.iterdir()) == {young, foreign}
