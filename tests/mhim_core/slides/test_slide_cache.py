"""Slides that stay on a node's disk: fetched once, never beyond the limit, never taken from under a reader."""

import os
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.slides import slide_cache
from mhim_core.slides.slide_cache import SlideCache
from mhim_core.slides.staging import SPARE_BYTES, sweep_staged
from mhim_core.types import FailureReason

ROOT = Path(__file__).parents[3]


class Source:
    """Writes slides, and counts them."""

    def __init__(self) -> None:
        self.num_fetched = 0

    def of(self, num_bytes: int) -> Callable[[Path], None]:
        def fill(folder: Path) -> None:
            self.num_fetched += 1
            (folder / "slide").mkdir()
            (folder / "slide.mrxs").write_bytes(b"x" * (num_bytes // 2))
            (folder / "slide" / "Data0.dat").write_bytes(b"x" * (num_bytes - num_bytes // 2))

        return fill


@pytest.fixture
def source() -> Source:
    return Source()


def kept(cache: SlideCache) -> set[str]:
    return {slide.folder.name for slide in cache._slides()}


def use(cache: SlideCache, key: str, num_bytes: int, source: Source) -> bool:
    with cache.held(key, num_bytes, source.of(num_bytes)) as folder:
        if folder is not None:
            assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == num_bytes
        return folder is not None


def test_a_slide_is_fetched_once_and_the_one_not_used_for_longest_goes_first(tmp_path: Path, source: Source) -> None:
    cache = SlideCache(tmp_path, 3_000)
    for key in ("a", "b", "c", "a"):
        assert use(cache, key, 1_000, source)
    assert source.num_fetched == 3
    assert use(SlideCache(tmp_path, 3_000), "d", 1_000, source)
    assert kept(cache) == {"a", "c", "d"}
    assert use(cache, "e", 1_500, source)
    assert kept(cache) == {"d", "e"}
    assert {path.name for path in cache._root.glob("*.lock")} == {"books.lock", *(f"{key}.lock" for key in kept(cache))}


def test_what_is_in_use_stays_and_who_finds_no_room_beside_it_keeps_nothing(tmp_path: Path, source: Source) -> None:
    cache = SlideCache(tmp_path, 2_000)
    with cache.held("a", 1_000, source.of(1_000)) as folder:
        assert use(cache, "b", 1_000, source)
        assert use(cache, "c", 1_000, source)
        assert kept(cache) == {"a", "c"}
        assert not use(cache, "d", 1_500, source)
        assert folder is not None
        assert (folder / "slide.mrxs").exists()
    assert not use(cache, "too large", 2_001, source)
    assert use(cache, "d", 1_500, source)
    assert kept(cache) == {"d"}


def test_readers_of_one_slide_share_its_download(tmp_path: Path, source: Source) -> None:
    cache, all_here = SlideCache(tmp_path, 2_000), threading.Barrier(6)

    def read(_: int) -> bool:
        all_here.wait(30)
        return use(SlideCache(tmp_path, 2_000), "a", 1_000, source)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))
    assert source.num_fetched == 1
    assert kept(cache) == {"a"}


def test_many_readers_of_many_slides_never_exceed_the_limit_nor_lose_a_slide(tmp_path: Path, source: Source) -> None:
    def read(number: int) -> int:
        cache = SlideCache(tmp_path, 3_500)
        with cache.held(f"s{number * 7 % 5}", 1_000, source.of(1_000)) as folder:
            num_bytes = sum(slide.num_bytes for slide in cache._slides())
            if folder is not None:
                assert (folder / "slide" / "Data0.dat").stat().st_size == 500
        return num_bytes

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(read, range(80))) <= 3_000


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NotFoundError("s3://b/a"), FailureReason.NOT_FOUND), (SlideError(FailureReason.READ, "x"), FailureReason.READ)],
)
def test_a_download_that_fails_leaves_nothing(
    tmp_path: Path, source: Source, error: Exception, reason: FailureReason
) -> None:
    cache = SlideCache(tmp_path, 2_000)

    def fail(folder: Path) -> None:
        source.of(500)(folder)
        raise error

    with pytest.raises(SlideError) as failure, cache.held("a", 1_000, fail):
        pass
    assert failure.value.reason is reason
    with pytest.raises(StorageError), cache.held("a", 1_000, lambda _: (_ for _ in ()).throw(StorageError("gone"))):
        pass
    assert [path.name for path in cache._root.iterdir()] == ["books.lock"]
    assert use(cache, "a", 1_000, source)


@pytest.mark.fault(13)
def test_a_disk_that_fills_up_keeps_nothing_and_a_full_one_takes_from_the_cache(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SlideCache(tmp_path, 9_000)

    def full(folder: Path) -> None:
        source.of(500)(folder)
        raise SlideError(FailureReason.NO_SPACE, "full")

    with cache.held("a", 1_000, full) as folder:
        assert folder is None
    disk = namedtuple("disk", "total used free")

    def usage(_: object) -> object:
        return disk(0, 0, SPARE_BYTES + 2_500 - sum(slide.num_bytes for slide in cache._slides()))

    monkeypatch.setattr(slide_cache.shutil, "disk_usage", usage)
    for key in ("a", "b", "c"):
        assert use(cache, key, 1_000, source)
    assert kept(cache) == {"b", "c"}
    assert cache.make_room(2_500)
    assert kept(cache) == set()


def test_a_slide_that_somebody_changed_is_fetched_again(tmp_path: Path, source: Source) -> None:
    cache = SlideCache(tmp_path, 2_000)
    assert use(cache, "a", 1_000, source)
    os.truncate(cache._root / "a" / "slide.mrxs", 10)
    assert use(cache, "a", 1_000, source)
    assert source.num_fetched == 2


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SlideCache(tmp_path, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 4_242_424)
    with pytest.raises(SlideError, match="staging_dir") as failure:
        SlideCache(tmp_path, 1)
    assert failure.value.reason is FailureReason.NO_SPACE


_KILLED = """
import sys, time
from pathlib import Path
from mhim_core.slides.slide_cache import SlideCache
def fill(folder):
    (folder / "slide.svs").write_bytes(b"x" * 500)
    print("half", flush=True)
    time.sleep(600)
with SlideCache(sys.argv[1], 2_000).held("a", 1_000, fill):
    pass
"""


@pytest.mark.fault(42)
def test_a_killed_download_is_never_seen_and_the_next_reader_begins_anew(tmp_path: Path, source: Source) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    cache = SlideCache(tmp_path, 2_000)
    assert kept(cache) == set()
    sweep_staged(tmp_path, process.pid)
    assert sorted(path.name for path in cache._root.iterdir()) == ["a.lock", "books.lock"]
    assert use(cache, "a", 1_000, source)
