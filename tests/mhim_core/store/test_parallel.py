"""Many small requests: in order, and over at the first refusal."""

import threading
from pathlib import Path

import pytest

from mhim_core.errors import StorageError
from mhim_core.storage import LocalStorage
from mhim_core.store.parallel import NUM_THREADS, map_all, read_all


@pytest.mark.parametrize("num_items", [0, 1, 2, NUM_THREADS * 8, 1000])
def test_results_come_in_the_order_of_the_items(num_items: int) -> None:
    assert map_all(lambda item: item * 2, range(num_items)) == [item * 2 for item in range(num_items)]


def test_requests_wait_side_by_side() -> None:
    barrier = threading.Barrier(NUM_THREADS, timeout=100)
    assert len(map_all(lambda _: barrier.wait(), range(NUM_THREADS))) == NUM_THREADS


def test_the_first_error_ends_it_without_asking_on() -> None:
    asked: list[int] = []

    def denied(item: int) -> None:
        asked.append(item)
        raise StorageError("denied")

    with pytest.raises(StorageError, match="denied"):
        map_all(denied, range(100_000))
    assert len(asked) <= NUM_THREADS * 8


def test_missing_keys_are_left_out(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a", b"1")
    assert read_all(storage, ["a", "b"]) == {"a": b"1"}
