"""What another terminal is told of an embedding: counts, what the encoders do, and whether it still goes on."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import StorageError
from mhim_core.storage import LocalStorage
from mhim_core.store import progress
from mhim_core.store.progress import MAX_FAILURES, Progress, ProgressTeller, Work, read_progress
from mhim_core.types import FailureReason, SlideId, Status, StatusRow


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.01)


def teller(storage: LocalStorage, folder: str = "reports/1", num_todo: int = 30) -> ProgressTeller:
    return ProgressTeller(storage, folder, num_todo, "node7", 4711)


def newest(storage: LocalStorage) -> Progress:
    progress = read_progress(storage, 1)[0].progress
    assert isinstance(progress, Progress)
    return progress


def until_put(storage: LocalStorage, num_done: int) -> None:
    for _ in range(1000):
        if read_progress(storage, 1) and newest(storage).num_done == num_done:
            return
        time.sleep(0.01)
    raise AssertionError("no progress was put")


def rows() -> Iterator[StatusRow]:
    yield StatusRow(SlideId("a"), Status.OK, num_tiles=100, seconds=10, waited_s=2.0, encoded_s=7.0, stored_s=1.0)
    yield StatusRow(SlideId("b"), Status.EMPTY, seconds=1, waited_s=1.0)
    for number in range(MAX_FAILURES + 1):
        yield StatusRow(SlideId(f"f{number}"), Status.FAILED, FailureReason.READ, message="torn")


@pytest.mark.usefixtures("at_once")
def test_a_pass_is_told_while_it_runs_and_once_more_when_it_has_ended(storage: LocalStorage) -> None:
    with teller(storage) as told:
        until_put(storage, 0)
        for row in rows():
            told.update(row, left_s=60.0)
        until_put(storage, MAX_FAILURES + 3)
        assert (newest(storage).work, newest(storage).left_s) == (Work.running, 60.0)
    state = newest(storage)
    assert (state.work, state.left_s, state.host, state.pid) == (Work.ended, None, "node7", 4711)
    assert state.counts == {"ok": 1, "empty": 1, "failed": MAX_FAILURES + 1, "skipped": 0}
    assert (state.num_todo, state.num_tiles, len(state.failures)) == (30, 100, MAX_FAILURES)
    assert state.failures[-1] == f"f{MAX_FAILURES}: read: torn"
    assert state.shares() == "encoders: 64 % encoding, 27 % waiting for tiles, 9 % storing"


@pytest.mark.usefixtures("at_once")
def test_work_that_an_error_stops_says_so(storage: LocalStorage) -> None:
    def stopped() -> None:
        with teller(storage):
            until_put(storage, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert newest(storage).work is Work.stopped


def test_short_work_leaves_nothing(storage: LocalStorage) -> None:
    with teller(storage) as told:
        for row in rows():
            told.update(row, None)
    assert read_progress(storage, 5) == []


@pytest.mark.usefixtures("at_once")
def test_a_store_that_takes_nothing_stops_no_work(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def refuse(key: str, data: bytes) -> None:
        tried.append(key)
        raise StorageError("denied")

    monkeypatch.setattr(storage, "put", refuse)
    with teller(storage) as told:
        for _ in range(1000):
            if len(tried) > 2:
                break
            time.sleep(0.01)
        told.update(next(rows()), None)
    assert len(tried) > 2


@pytest.mark.usefixtures("at_once")
def test_the_newest_come_first_and_what_is_no_record_is_refused_by_its_key(storage: LocalStorage) -> None:
    for folder in ("reports/1", "reports/3", "reports/2"):
        with teller(storage, folder):
            for _ in range(1000):
                if any(told.key.startswith(folder) for told in read_progress(storage, 5)):
                    break
                time.sleep(0.01)
    assert [told.key for told in read_progress(storage, 2)] == ["reports/3/progress.json", "reports/2/progress.json"]
    storage.put("reports/4/progress.json", b"{}")
    (bad,) = read_progress(storage, 1)
    assert "reports/4" in str(bad.progress)


@pytest.mark.parametrize(
    ("waited_s", "encoded_s", "stored_s", "advice"),
    [(6.0, 3.0, 1.0, "decoders_per_actor"), (1.0, 5.0, 4.0, "store is slow"), (4.0, 5.0, 1.0, "")],
)
def test_what_holds_the_encoders_up_is_said(
    storage: LocalStorage, waited_s: float, encoded_s: float, stored_s: float, advice: str
) -> None:
    told = teller(storage)
    row = StatusRow(SlideId("a"), Status.OK, waited_s=waited_s, encoded_s=encoded_s, stored_s=stored_s)
    told.update(row, None)
    shares = told.progress(Work.running).shares()
    assert (advice in shares) if advice else "(" not in shares


@pytest.mark.parametrize(
    "change",
    [
        {"started_s": 1e300},
        {"counts": {"ok": "many"}},
        {"counts": {"ok": -1}},
        {"num_tiles": 10**12},
        {"left_s": -5.0},
        {"extra": 1},
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_record_with_impossible_numbers_says_so_and_hides_no_other(
    storage: LocalStorage, change: dict[str, Any]
) -> None:
    with teller(storage):
        until_put(storage, 0)
    fields = json.loads(storage.get("reports/1/progress.json"))
    storage.put("reports/2/progress.json", json.dumps(fields | change).encode())
    bad, good = read_progress(storage, 2)
    assert isinstance(bad.progress, str)
    assert isinstance(good.progress, Progress)
