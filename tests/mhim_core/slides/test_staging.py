import errno
from pathlib import Path

import pytest

from mhim_core.errors import NotFoundError, SlideError, StorageError
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


def test_a_format_of_several_files_cannot_be_staged(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="several files"), staged("s3://b/slide.mrxs", download, tmp_path):
        pass
