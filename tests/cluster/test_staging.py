"""A slide at hand: the file or its copy, with the sha256 that was checked; copies go, however their reader ends."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.decoding import Decoder, RetrySlide
from cluster.s3 import S3Client, S3Place
from cluster.staging import at_hand, staging_sweep
from mhim_core.errors import SlideError, StorageError
from mhim_core.fingerprint import sha256
from mhim_core.types import FailureReason, SlideId, SlideTask

pytestmark = pytest.mark.s3

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


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # a spawned child gets our sys.path
    import toy_copies

    return toy_copies


@pytest.fixture
def far(task: SlideTask, bucket: str) -> SlideTask:
    place = S3Place(bucket, "a.tiff")
    S3Client().call("write", place, lambda s3: s3.put_object(Bucket=bucket, Key="a.tiff", Body=BYTES))
    return task._replace(uri=f"s3://{bucket}/a.tiff")


@contextmanager
def decoder_of(toys: Any, folder: Path) -> Iterator[Decoder[Any]]:
    decoder: Decoder[Any] = Decoder(toys.decode_copy, 1.0, 60.0, staging_sweep(str(folder)))
    try:
        yield decoder
    finally:
        decoder.close()


@pytest.mark.fault(42)
def test_a_copy_is_gone_once_its_decoder_crashed_hung_or_was_killed_and_others_stay(
    toys: Any, far: SlideTask, tmp_path: Path
) -> None:
    folder = tmp_path / "staging"
    copies = [toys.Copy(far, str(folder), fault) for fault in ("crash", "hang", "")]
    reasons = []
    with at_hand(far, str(folder)) as other, decoder_of(toys, folder) as decoder:
        for stream in decoder.streams(copies):
            while True:
                try:
                    items = list(stream)
                    assert [num_bytes for _, num_bytes in items] == [len(BYTES)]
                    break
                except RetrySlide:
                    continue
                except SlideError as error:
                    reasons.append(error.reason)
                    assert {path.parent for path in folder.glob("*/*.tiff")} <= {other.path.parent}
                    break
        assert reasons == [FailureReason.DECODER_CRASH, FailureReason.TIMEOUT]
        abandoned = decoder.streams([toys.Copy(far, str(folder), "hang")])
        ((path, _),) = [next(iter(next(abandoned)))]
        assert Path(path).exists()
        decoder.close()
        assert [path.name for path in folder.iterdir()] == [other.path.parent.name]
    assert list(folder.iterdir()) == []


_HOLDER = """
import sys, time
from cluster.staging import at_hand
from mhim_core.types import SlideId, SlideTask
with at_hand(SlideTask(SlideId("a"), sys.argv[1]), sys.argv[2]) as slide:
    print(slide.path, flush=True)
    time.sleep(600)
"""


@pytest.mark.fault(42)
def test_the_next_run_sweeps_what_a_killed_one_left(toys: Any, far: SlideTask, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, far.uri, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        try:
            staging_sweep(str(tmp_path))
            assert path.read_bytes() == BYTES
        finally:
            process.send_signal(signal.SIGKILL)
    (lock,) = path.parent.glob(".tmp-*")
    os.utime(lock, (0, 0))
    with at_hand(far, str(tmp_path)) as slide:
        assert not path.exists()
        assert slide.path.exists()


_ON_SMALL_DISK = """
import sys
from pathlib import Path
from cluster.staging import at_hand
from mhim_core.errors import SlideError
from mhim_core.slides import staging
from mhim_core.types import SlideId, SlideTask
staging.SPARE_BYTES = int(sys.argv[3])
folder = Path(sys.argv[2])
try:
    with at_hand(SlideTask(SlideId("a"), sys.argv[1]), str(folder)):
        pass
except SlideError as error:
    print(error.reason.value)
print(sorted(path.name for path in folder.rglob("*")))
"""


@pytest.mark.fault(13)
@pytest.mark.parametrize("spare_bytes", [0, -(2**30)], ids=["known to be too small", "found full while copying"])
def test_a_full_disk_fails_the_slide_and_leaves_nothing(
    bucket: str, tmp_path: Path, task: SlideTask, spare_bytes: int
) -> None:
    """A disk of 1 MB that is real: the kernel says that it is full."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*_OWN_MOUNTS, "mount -t tmpfs none /mnt"], check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    place = S3Place(bucket, "a.tiff")
    S3Client().call("write", place, lambda s3: s3.put_object(Bucket=bucket, Key="a.tiff", Body=bytes(3 * 2**20)))
    script = 'mount -t tmpfs -o size=1m none "$2" && exec "$0" -c "$SCRIPT" "$1" "$2" "$3"'
    run = subprocess.run(
        [*_OWN_MOUNTS, script, sys.executable, f"s3://{bucket}/a.tiff", str(tmp_path), str(spare_bytes)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "SCRIPT": _ON_SMALL_DISK},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == ["no_space", "[]"]


_OWN_MOUNTS = ("unshare", "-rm", "sh", "-ec")
