"""Bags on the node's disk: read from the store once for all who train there, gone with them, never in the way."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.store import bag_cache
from mhim_core.store.bag_cache import BagCache, BagFile

A, B = BagFile("a" * 64, (5, 8)), BagFile("b" * 64, (5, 8))
ARRAYS = {
    bag.sha256: np.random.default_rng(seed).standard_normal(bag.shape).astype(np.float16)
    for seed, bag in enumerate((A, B))
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
    def make(max_bytes: int = 10**6, run: str = "run", root: Path = tmp_path) -> BagCache:
        return BagCache(str(root), run, [A, B], max_bytes, warnings.append)

    return make


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
    assert list(tmp_path.iterdir()) == []


def test_the_limit_holds_and_what_is_within_it_stays(
    make_cache: Callable[..., BagCache], store: Store, tmp_path: Path, warnings: list[str]
) -> None:
    with make_cache(A.num_bytes + B.num_bytes - 1) as cache:
        for bag in (A, B, A, B):
            store.read(cache, bag)
        assert store.decoded == [A.sha256, B.sha256, B.sha256]
    with make_cache(0) as off:
        store.read(off, A)
        assert list(tmp_path.iterdir()) == []
    assert warnings == []


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
        monkeypatch.setattr(np, "memmap", lambda *_, shape, **__: np.zeros(shape, np.uint16))
    with make_cache(root=root) as first, make_cache(root=root) as second:
        for cache in (first, second, first):
            np.testing.assert_array_equal(store.read(cache, A), ARRAYS[A.sha256])
        assert store.decoded == [A.sha256] * 3
        if fault in ("full", "torn"):
            assert not [path for path in root.rglob("*") if path.name.startswith("a") and path.suffix != ".turn"]
    assert len(warnings) == (1 if fault in ("full", "torn") else 2)  # without a folder nobody knows of the other


def test_a_damaged_or_lost_file_is_written_anew(make_cache: Callable[..., BagCache], store: Store) -> None:
    with make_cache() as cache:
        store.read(cache, A)
        path = cache._folder / A.sha256
        path.write_bytes(path.read_bytes()[:-1])
        np.testing.assert_array_equal(store.read(cache, A), ARRAYS[A.sha256])
        path.unlink()
        np.testing.assert_array_equal(store.read(cache, A), ARRAYS[A.sha256])
        assert path.stat().st_size == A.num_bytes
        assert store.decoded == [A.sha256] * 3


_WORKER = """
import sys, time
from mhim_core.store.bag_cache import BagCache, BagFile
cache = BagCache(sys.argv[1], "killed", [BagFile("a" * 64, (5, 8))], 1000, print)
print(cache._folder, flush=True)
time.sleep(600)
"""


def test_what_a_killed_worker_leaves_goes_with_the_next_run_and_a_live_one_s_stays(
    make_cache: Callable[..., BagCache], tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            folder = Path(process.stdout.readline().strip())
            (lock,) = folder.glob(".tmp-*")
            os.utime(lock, (0, 0))
            make_cache().close()
            assert folder.is_dir()
        finally:
            process.send_signal(signal.SIGKILL)
    make_cache().close()
    assert not folder.exists()
