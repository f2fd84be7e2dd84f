"""Training beyond its memory: each feature file is read from the store once a node, to the same bits."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.storage import LocalStorage


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each feature file was read."""
    counter: Counter[str] = Counter()
    get = LocalStorage.get

    def counted(storage: LocalStorage, key: str) -> bytes:
        counter[key] += key.endswith(".parquet") and key.startswith("features/")
        return get(storage, key)

    monkeypatch.setattr(LocalStorage, "get", counted)
    return counter


def contents(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in (run / "fits").rglob("*") if path.is_file()}


def test_without_memory_for_bags_each_is_read_once_from_the_store_and_the_fits_are_the_same(
    tmp_path: Path,
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    mhim: Callable[..., Any],
    train_here: None,
    gets: Counter[str],
) -> None:
    names = [f"s{number:02d}" for number in range(12)]
    table = write_table(
        [
            {"slide_id": name, "path": f"{name}.svs", "patient_id": name, "label": "xy"[number % 2]}
            for number, name in enumerate(names)
        ]
    )
    words = (f"cohort={table}", made_store(names), "folds=3", "epochs=3", "patience=0", "embed_dim=8", "cache_gib=0")
    folder = tmp_path / "cache"
    files = {}
    for kept in (1, 0):
        gets.clear()
        run = tmp_path / f"run-{kept}"
        ended = mhim("train", *words, f"out={run}", f"cache_disk_gib={kept}", f"cache_dir={folder}")
        assert ended.code == 0, ended.err
        read = {key: num for key, num in gets.items() if num}
        assert len(read) == len(names)
        if kept:
            assert set(read.values()) == {1}
        else:
            assert min(read.values()) >= 3
        files[kept] = contents(run)
        assert list(folder.iterdir()) == []
    assert files[1] == files[0]
