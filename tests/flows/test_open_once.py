"""A command opens each place once and reads its small records once, however many of its parts need them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.storage import LocalStorage


class Visits:
    """How often this process opened each folder and read each file."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    def reads(self, part: str) -> int:
        """The most that one file was read, of those with this in their address."""
        return max((number for place, number in self.read.items() if part in place), default=0)

    def clear(self) -> None:
        self.opened.clear()
        self.read.clear()


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    counted = Visits()
    init, get = LocalStorage.__init__, LocalStorage.get

    def counting_init(self: LocalStorage, root: Any) -> None:
        init(self, root)
        counted.opened[self.uri] += 1

    def counting_get(self: LocalStorage, key: str) -> bytes:
        counted.read[self.locate(key)] += 1
        return get(self, key)

    monkeypatch.setattr(LocalStorage, "__init__", counting_init)
    monkeypatch.setattr(LocalStorage, "get", counting_get)
    return counted


@pytest.mark.usefixtures("train_here")
def test_each_command_opens_its_places_once_and_reads_their_records_once(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Path],
    cohort_rows: Callable[..., Any],
    visits: Visits,
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=4, neg=4)
    store = made_store([row["slide_id"] for row in rows])
    first, second = f"{tmp_path}/first", f"{tmp_path}/second"
    train = ("train", f"cohort={write_table(rows)}", store, "folds=1", "epochs=1", "embed_dim=8")
    of_store, workers = {store.removeprefix("store="): 1}, 1

    def visited(*words: str) -> dict[str, int]:
        visits.clear()
        ended = mhim(*words)
        assert ended.code == 0, ended
        assert max(visits.reads(ending) for ending in ("feature_sets", "cohort-")) <= 1
        return dict(visits.opened)

    assert visited(*train, f"out={first}") == dict.fromkeys((first, *of_store), 1 + workers)
    assert visits.reads("manifests") == 1
    assert visited(*train, f"out={first}") == {first: 1, **of_store}
    assert (visits.reads("first/run.json"), visits.reads("manifests")) == (1, 1)
    taught = visited(*train, f"out={second}", f"teacher={first}", "recipe=mhim-v2")
    assert taught == {first: 1} | dict.fromkeys((second, *of_store), 1 + workers)
    assert (visits.reads("first/run.json"), visits.reads("manifests")) == (1, 1)
    for command in ("evaluate", "report"):
        assert visited(command, f"run={first}") == {first: 1, **of_store}
        assert visits.reads("first/run.json") == 1
    compared = visited("compare", f"runs={first},{second}", f"out={tmp_path}/compared")
    assert compared == {first: 1, second: 1, f"{tmp_path}/compared": 1, **of_store}
    assert (visits.reads("first/run.json"), visits.reads("second/run.json")) == (1, 1)
