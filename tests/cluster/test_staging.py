"""A slide at hand: the file or its copy, with the sha256 that was checked."""

from pathlib import Path

import pytest

from cluster.s3 import S3Client, S3Place
from cluster.staging import at_hand
from mhim_core.errors import SlideError, StorageError
from mhim_core.fingerprint import sha256
from mhim_core.types import FailureReason, SlideId, SlideTask

BYTES = b"a slide"


@pytest.fixture
def task(tmp_path: Path) -> SlideTask:
    (tmp_path / "a.tiff").write_bytes(BYTES)
    return SlideTask(SlideId("a"), str(tmp_path / "a.tiff"))


@pytest.mark.fault(19)
def test_a_named_sha256_is_checked_once_and_handed_on(task: SlideTask) -> None:
    with at_hand(task._replace(sha256=sha256(BYTES)), None) as slide:
        assert (slide.path, slide.sha256, slide.task) == (Path(task.uri), sha256(BYTES), task)
    with at_hand(task, None) as slide:
        assert slide.sha256 == ""
    wrong = task._replace(sha256="0" * 64)
    with pytest.raises(SlideError, match="sha256") as caught, at_hand(wrong, None):
        raise AssertionError("refused before any work")
    assert caught.value.reason is FailureReason.SOURCE_HASH_MISMATCH


def test_a_copy_lies_in_the_staging_folder_and_goes_whatever_the_block_raises(
    task: SlideTask, tmp_path: Path, bucket: str
) -> None:
    place = S3Place(bucket, "a.tiff")
    S3Client().call("write", place, lambda s3: s3.put_object(Bucket=bucket, Key="a.tiff", Body=BYTES))
    far, folder = task._replace(uri=f"s3://{bucket}/a.tiff", sha256=sha256(BYTES)), tmp_path / "staging"
    with at_hand(far, str(folder)) as slide:
        assert slide.path.is_relative_to(folder)
        assert slide.path.read_bytes() == BYTES
        assert (slide.hint.uri, slide.hint.num_bytes) == (far.uri, len(BYTES))
    assert list(folder.iterdir()) == []
    with pytest.raises(SlideError, match="gone") as caught, at_hand(far, str(folder)):
        raise StorageError("gone")
    assert caught.value.reason is FailureReason.STORAGE
    assert list(folder.iterdir()) == []


def test_what_is_not_there_is_not_found(task: SlideTask, bucket: str) -> None:
    for uri in (f"s3://{bucket}/b.tiff", f"{task.uri}.absent"):
        with pytest.raises(SlideError) as caught, at_hand(task._replace(uri=uri), None):
            raise AssertionError("there is no such slide")
        assert caught.value.reason is FailureReason.NOT_FOUND
