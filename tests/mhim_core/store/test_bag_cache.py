"""Bags on the node's disk: read from the store once for all who train there, bounded, verified, never in the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mhim_core.store import bag_cache
from mhim_core.store.bag_cache import BagCache, BagFile

A, B, C = (BagFile(letter * 64, (5, 8)) for letter in "abc")
PAGE = 4096
SIZE = PAGE + A.num_bytes
ARRAYS = {
    bag.sha256: np.random.default_rng(seed).standard_normal(bag.shape).astype(np.float16)
    for seed, bag in enumerate((A, B, C))
}


class Store:
    """What the caches read from; `decoded` counts."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def reader(self, bag: BagFile) -> Callable[[], np.ndarray]:
        def decode() -> np.ndarray:
            time.sleep(0.05)
            self.decoded.append(bag.sha256)
            return ARRAYS[bag.sha256].copy()

        return decode

    def read(self, cache: BagCache, bag: BagFile) -> np.ndarray:
        return cache.read(bag, self.reader(bag))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def make_cache(tmp_path: Path, warnings: list[str]) -> Callable[..., BagCache]:
    def make(max_bytes: int = 10**6, root: Path = tmp_path, bags: str = "abc", lasting: bool = False) -> BagCache:
        files = [bag for bag in (A, B, C) if bag.sha256[0] in bags]
        return BagCache(str(root), files, max_bytes, warnings.append, lasting=lasting)

    return make


def kept(root: Path) -> set[str]:
    """First letters of the bags that lie below the folder."""
    return {path.name[0] for path in root.rglob("*") if len(path.name) == 64}


def test_a_bag_is_decoded_once_whoever_asks_and_nobody_can_spoil_it(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path
) -> None:
    with make_cache() as first, make_cache() as second:
        threads = [threading.Thread(target=store.read, args=(cache, A)) for cache in (first, second) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.read(second, A)[:] = 0
        for cache in (first, second):
            np.testing.assert_array_equal(store.read(cache, A), ARRAYS[A.sha256])
            np.testing.assert_array_equal(store.read(cache, B), ARRAYS[B.sha256])
        assert sorted(store.decoded) == [A.sha256, B.sha256]
        first.close()
        np.testing.assert_array_equal(store.read(second, A), ARRAYS[A.sha256])
        assert len(store.decoded) == 2
        assert second.num_written_bytes + first.num_written_bytes == 2 * SIZE
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_its_page_of_facts_and_the_aligned_array(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path
) -> None:
    with make_cache() as cache:
        store.read(cache, A)
        (path,) = tmp_path.glob(f"*/{A.sha256}")
        page, array = path.read_bytes()[:PAGE], path.read_bytes()[PAGE:]
        assert json.loads(page).items() >= {"of": A.sha256, "shape": [5, 8], "dtype": "float16"}.items()
        np.testing.assert_array_equal(np.frombuffer(array, np.float16).reshape(5, 8), ARRAYS[A.sha256])
        assert store.read(cache, A).ctypes.data % PAGE == 0


def test_the_limit_holds_and_what_is_in_use_stays(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path, warnings: list[str]
) -> None:
    with make_cache(3 * SIZE - 1) as cache:
        for bag in (A, B, C, A, B, C):
            store.read(cache, bag)
        assert store.decoded == [A.sha256, B.sha256, C.sha256, C.sha256]
        assert kept(tmp_path) == {"a", "b"}
    assert len(warnings) == 1
    with make_cache(0) as off:
        store.read(off, A)
        assert list(tmp_path.iterdir()) == []
    with make_cache(SIZE - 1) as too_small:
        store.read(too_small, A)
        assert kept(tmp_path) == set()


def test_a_lasting_cache_serves_the_next_command_and_drops_what_was_used_longest_ago(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path, warnings: list[str]
) -> None:
    for bags in ("a", "b", "a"):  # the last one finds A, which is used later than B then
        with make_cache(2 * SIZE, bags=bags, lasting=True) as cache:
            store.read(cache, A if bags == "a" else B)
    assert store.decoded == [A.sha256, B.sha256]
    with make_cache(2 * SIZE, bags="c", lasting=True) as cache:
        store.read(cache, C)
        assert kept(tmp_path) == {"a", "c"}
        with make_cache(2 * SIZE, bags="ab", lasting=True) as other:  # A is in its list, C in the first one's
            store.read(other, B)
            assert kept(tmp_path) == {"a", "c"}
    assert len(warnings) == 1
    folder = next(tmp_path.iterdir())
    assert list(folder.glob(".tmp-*")) == []
    assert int((folder / "books").read_text()) == 2 * SIZE


@pytest.mark.parametrize("fault", ["full", "unwritable", "other's", "torn"])
def test_a_disk_that_fails_only_stops_caching_and_says_so_once(
    make_cache: Callable[..., BagCache],
    store: Store,
    tmp_path: Path,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    root = tmp_path / "root"
    if fault == "unwritable":
        root.write_bytes(b"")
    elif fault == "other's":
        with make_cache(root=root) as own:
            name = own._folder.name
        (root / name).symlink_to(tmp_path)
    elif fault == "full":
        monkeypatch.setattr(bag_cache, "_SPARE_BYTES", shutil.disk_usage(tmp_path).total)
    else:
        monkeypatch.setattr(bag_cache, "_map", lambda _: bytes(SIZE))
    with make_cache(root=root) as cache:
        for _ in range(3):
            np.testing.assert_array_equal(store.read(cache, A), ARRAYS[A.sha256])
        assert store.decoded == [A.sha256] * 3
        assert kept(tmp_path) == set()
        assert list(root.glob("*/new/*")) == []
    assert len(warnings) == 1


@pytest.mark.parametrize("damage", ["bit of the array", "bit of the page", "length", "another bag", "gone"])
@pytest.mark.parametrize("seen_before", [True, False])
def test_a_damaged_or_lost_file_is_never_used_but_written_anew(
    make_cache: Callable[..., BagCache],
    store: Store,
    tmp_path: Path,
    warnings: list[str],
    damage: str,
    seen_before: bool,
) -> None:
    with make_cache(lasting=True) as cache:
        store.read(cache, A)
        store.read(cache, B)
        (path,) = tmp_path.glob(f"*/{A.sha256}")
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
        elif damage == "length":
            path.write_bytes(data[:-1])
        elif damage == "another bag":
            path.write_bytes(path.with_name(B.sha256).read_bytes())
        else:
            data[PAGE + 7 if damage == "bit of the array" else 20] ^= 1
            path.write_bytes(data)
        reader = cache if seen_before else make_cache(lasting=True)
        for _ in range(2):
            np.testing.assert_array_equal(store.read(reader, A), ARRAYS[A.sha256])
        assert store.decoded == [A.sha256, B.sha256, A.sha256]
        assert path.stat().st_size == SIZE
        assert len(warnings) == (damage != "gone")
        reader.close()


_WORKER = """
import os, sys, time
import numpy as np
from mhim_core.store import bag_cache
from mhim_core.store.bag_cache import BagCache, BagFile

root, lasting, doing = sys.argv[1], sys.argv[2] == "lasting", sys.argv[3]
bag = BagFile("a" * 64, (5, 8))
array = np.random.default_rng(0).standard_normal(bag.shape).astype(np.float16)
cache = BagCache(root, [bag], 1_000_000, print, lasting=lasting)

def decode():
    print("decoding", flush=True)
    time.sleep(0.3)
    return array

if doing == "writing":
    rename = os.rename
    os.rename = lambda *_: (print(cache._folder, flush=True), time.sleep(600))
    cache.read(bag, decode)
elif doing == "reading":
    assert np.array_equal(cache.read(bag, decode), array)
    cache.close()
else:
    print(cache._folder, flush=True)
    time.sleep(600)
"""


@contextmanager
def worker(root: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _WORKER, str(root), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def test_processes_that_start_together_decode_a_bag_once(tmp_path: Path) -> None:
    with worker(tmp_path, "lasting", "reading") as first, worker(tmp_path, "lasting", "reading") as second:
        said = [process.communicate(timeout=120)[0] for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(said) == ["", "decoding\n"]


def test_what_a_killed_worker_leaves_goes_with_the_next_run_and_a_live_one_s_stays(
    make_cache: Callable[..., BagCache], tmp_path: Path
) -> None:
    with worker(tmp_path, "temporary", "waiting") as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (lock,) = folder.glob(".tmp-*")
        os.utime(lock, (0, 0))
        make_cache(bags="").close()
        assert folder.is_dir()
    make_cache(bags="").close()
    assert not folder.exists()


def test_a_worker_killed_while_it_writes_leaves_nothing_that_is_read_or_counted(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path
) -> None:
    with worker(tmp_path, "lasting", "writing") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoding\n"
        folder = Path(process.stdout.readline().strip())
    (left,) = (folder / "new").iterdir()
    assert left.stat().st_size == SIZE
    for member in folder.glob(".tmp-*"):
        os.utime(member, (0, 0))
    with make_cache(SIZE, bags="b", lasting=True) as cache:
        assert not left.exists()
        store.read(cache, B)
        assert kept(tmp_path) == {"b"}
        assert len(list(folder.glob(".tmp-*"))) == 1


def test_of_many_bags_that_nobody_uses_some_go_ahead_so_that_not_every_bag_looks_through_the_folder(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 200
    with make_cache(lasting=True) as before:
        folder = before._folder
        for index in range(num):
            with open(folder / f"{index:064d}", "wb") as file:
                file.truncate(SIZE)
            os.utime(folder / f"{index:064d}", ns=(index, index))
    looks: list[int] = []
    unused = BagCache._unused

    def look(cache: BagCache) -> list[Path]:
        paths = unused(cache)
        looks.append(len(paths))
        return paths

    monkeypatch.setattr(BagCache, "_unused", look)
    with make_cache(num * SIZE, lasting=True) as cache:
        for bag in (A, B, C):
            store.read(cache, bag)
        assert looks == [num]
        assert sorted(path.name for path in folder.iterdir() if len(path.name) == 64) == sorted(
            [f"{index:064d}" for index in range(1 + num // 64, num)] + [A.sha256, B.sha256, C.sha256]
        ), "those that were used longest ago went"
        assert int((folder / "books").read_text()) == (num - 1 - num // 64 + 3) * SIZE
