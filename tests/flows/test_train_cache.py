"""Where training keeps its bags (`cache=`): to the same bits, each read from the store once where it is kept."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.config.keys import BagCaching, DecodeKeys, TrainExecution
from flows.config.store import StoreRmConfig
from flows.runs.bag_caching import plan_caching
from mhim_core.errors import ConfigError
from mhim_core.storage import LocalStorage
from mhim_core.types import Status


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


@pytest.mark.parametrize(
    ("bags", "modes"), [("slide", ["auto", "disk", "memory", "device", "none"]), ("patient", ["disk", "none"])]
)
def test_the_fits_are_the_same_bytes_wherever_bags_are_kept_and_each_is_read_once_where_they_are(
    tmp_path: Path,
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    mhim: Callable[..., Any],
    train_here: None,
    gets: Counter[str],
    bags: str,
    modes: list[str],
) -> None:
    names = [f"s{number:02d}" for number in range(12)]
    table = write_table(
        [
            {"slide_id": name, "path": f"{name}.svs", "patient_id": f"p{number % 6}", "label": "xy"[number % 2]}
            for number, name in enumerate(names)
        ]
    )
    words = (f"cohort={table}", made_store(names), "method=plain", "folds=3", "epochs=3", "patience=0", "embed_dim=8")
    folder = tmp_path / "cache"
    files = {}
    for mode in modes:
        gets.clear()
        run = tmp_path / f"run-{mode}"
        own = [f"bags={bags}", f"cache={mode}", f"cache_dir={folder}", *(["cache_gib=0"] if mode == "auto" else [])]
        ended = mhim("train", *words, "max_instances=2", f"out={run}", *own)
        assert ended.code == 0, ended.err
        read = {key: num for key, num in gets.items() if num}
        assert len(read) == len(names)
        if mode == "none":
            assert min(read.values()) >= 3
        else:
            assert set(read.values()) == {1}
        files[mode] = contents(run)
        assert len(list(folder.glob("*"))) == (mode != "auto")  # what cache=disk left stays
        assert ("gpus_per_worker" in ended.out) == (mode == "device")
    assert all(made == files["none"] for made in files.values())


def test_a_second_command_finds_the_bags_that_the_first_has_left_on_disk_but_for_a_changed_file(
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
    folder = tmp_path / "cache"
    options = ("method=plain", "folds=3", "epochs=2", "patience=0", "embed_dim=8")
    words = (f"cohort={table}", *options, "cache=disk", f"cache_dir={folder}")
    first = mhim("train", *words, made_store(names[:10]), f"out={tmp_path / 'first'}")
    assert first.code == 0, first.err
    assert sum(gets.values()) == 10
    (kept,) = folder.iterdir()
    damaged = next(path for path in kept.iterdir() if len(path.name) == 64)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    gets.clear()
    second = mhim("train", *words, made_store(names), f"out={tmp_path / 'second'}")
    assert second.code == 0, second.err
    assert sum(gets.values()) == 3  # two that are new in this manifest, one that was damaged
    assert str(damaged) in second.err
    assert second.out.count("from the store") == 1


@pytest.mark.parametrize(
    ("keys", "mode", "memory_gib", "disk_gib", "lasts"),
    [
        ({}, BagCaching.memory, 4, 0, False),
        ({"workers": 2}, BagCaching.disk, 4, 50, False),
        ({"cache_gib": 0.5}, BagCaching.disk, 0.5, 50, False),
        ({"cache_gib": 0.5, "cache_disk_gib": 0}, BagCaching.memory, 0.5, 0, False),
        ({"cache_gib": 0, "cache_disk_gib": 0}, BagCaching.none, 0, 0, False),
        ({"cache": BagCaching.memory, "workers": 2}, BagCaching.memory, 4, 0, False),
        ({"cache": BagCaching.disk}, BagCaching.disk, 0, 50, True),
        ({"cache": BagCaching.device, "gpus_per_worker": 0.5}, BagCaching.device, 4, 0, False),
        ({"cache": BagCaching.none}, BagCaching.none, 0, 0, False),
    ],
)
def test_where_bags_are_kept_follows_from_the_keys_and_their_size(
    keys: dict[str, Any], mode: BagCaching, memory_gib: float, disk_gib: float, lasts: bool
) -> None:
    slides: Any = [SimpleNamespace(status=Status.OK, num_tiles=2**19, dim=2**10), SimpleNamespace(status=Status.EMPTY)]
    plan = plan_caching(TrainExecution(**keys), slides)
    assert (plan.mode, plan.memory_gib, plan.disk_gib, plan.disk_lasts) == (mode, memory_gib, disk_gib, lasts)
    assert plan.num_bytes == 2**30
    assert plan.workers_per_gpu == (2 if "gpus_per_worker" in keys else 0)
    assert "1.00 GiB" in plan.sentence()
    is_too_large = mode is not BagCaching.none and memory_gib + disk_gib < 1
    assert ("50%" in plan.sentence()) == is_too_large


@pytest.mark.parametrize(("mode", "key"), [(BagCaching.memory, "cache_gib"), (BagCaching.disk, "cache_disk_gib")])
def test_a_place_without_room_is_refused(mode: BagCaching, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=0"):
        TrainExecution(**{"cache": mode, key: 0.0})


def test_a_folder_for_bags_is_the_command_s_and_not_that_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    folders = [plan_caching(TrainExecution(cache_dir=folder), []).folder for folder in ("bags", "~/bags", "/bags", "")]
    assert folders == [str(tmp_path / "bags"), "/home/me/bags", "/bags", ""]


@pytest.mark.parametrize(
    ("config", "key"),
    [(TrainExecution, "cache_dir"), (DecodeKeys, "staging_dir"), (partial(StoreRmConfig, store="x"), "cache_dir")],
)
def test_a_bucket_is_no_folder_of_a_machine(config: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        config(**{key: "s3://bucket/bags"})
