"""`mhim store ls`, `gc` and `rm`: what a store holds, what nobody needs, and a slide that has to go."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.storage import LocalStorage
from mhim_core.store.manifest import read_manifest
from mhim_core.tables import write_parquet
from mhim_core.types import SlideId


@pytest.fixture(scope="module")
def cohort(painted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the painted slides."""
    path = tmp_path_factory.mktemp("three") / "cohort.csv"
    names = [f"s{number:02d}" for number in range(3)]
    rows = [f"{name},{painted.cohort.parent / name}.tiff,p{name},normal\n" for name in names]
    path.write_text("slide_id,path,patient_id,label\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def embedded(cohort: Path, run_here: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of these slides; a test takes a copy."""
    store = tmp_path_factory.mktemp("embedded") / "store"
    ended = run_here("embed", f"cohort={cohort}", f"store={store}", "encoder=hed-texture")
    assert ended.code == 0, ended
    return store


@pytest.fixture
def store(embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded, tmp_path / "store"))


def content(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def fingerprint_of(store: Path) -> str:
    (fingerprint,) = (path.name for path in (store / "manifests").iterdir())
    return fingerprint


def test_ls_tells_the_sets_in_a_line_each_and_the_slides_of_one(mhim: Callable[..., Any], store: Path) -> None:
    before, fingerprint = content(store), fingerprint_of(store)
    entries = read_manifest(LocalStorage(store), fingerprint).entries
    ended = mhim("store", "ls", f"store={store}")
    assert ended.code == 0, ended
    (line,) = (line for line in ended.out.splitlines() if line.startswith(fingerprint[:16]))
    num_tiles, num_bytes = (sum(getattr(record, name) for record in entries.values()) for name in NUMBERS)
    for words in ("hed-texture", "0.5 µm/px", "256 px", "3 slides", f"{num_tiles:,} tiles", f"{num_bytes:,} bytes"):
        assert words in line
    ended = mhim("store", "ls", f"store={store}", f"feature_set={fingerprint[:4]}")
    listed = {line.split()[0]: line for line in ended.out.splitlines()[:-1]}
    assert listed.keys() == entries.keys()
    assert listed["s01"].split()[1:3] == ["ok", str(entries[SlideId("s01")].num_tiles)]
    assert content(store) == before


NUMBERS = ("num_tiles", "num_bytes")


@pytest.mark.parametrize("words", [("ls",), ("gc",), ("gc", "delete=true"), ("rm", "slide=s01", "delete=true")])
def test_a_place_without_a_store_is_refused_and_left_as_it_is(
    refused: Callable[..., str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    refused("store", words[0], f"store={tmp_path / 'none'}", *words[1:])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", [(), ("slide=s01", "patient=p01", "cohort=c.csv"), ("patient=p01",)])
def test_what_to_remove_is_named_in_one_way(refused: Callable[..., str], store: Path, words: tuple[str, ...]) -> None:
    refused("store", "rm", f"store={store}", *words)


def test_a_slide_that_was_never_there_is_refused(refused: Callable[..., str], store: Path) -> None:
    before = content(store)
    refused("store", "rm", f"store={store}", "slide=s99", "delete=true")
    assert content(store) == before


def test_gc_deletes_what_it_lists_and_only_when_told(mhim: Callable[..., Any], store: Path) -> None:
    before = content(store)
    kept = next(store.glob("features/*/s01/*.parquet"))
    orphan = kept.with_name(f"{'0' * 64}.parquet")
    orphan.write_bytes(bytes(1234))
    time_s = kept.stat().st_mtime - 2 * 86_400
    os.utime(orphan, (time_s, time_s))
    ended = mhim("store", "gc", f"store={store}")
    assert (ended.code, orphan.exists()) == (0, True)
    assert "features: 1, 1,234 bytes" in ended.out
    ended = mhim("store", "gc", f"store={store}", "delete=true")
    assert (ended.code, content(store)) == (0, before)


def test_rm_says_what_would_go_and_then_removes_it_and_embed_makes_the_same_bytes_again(
    mhim: Callable[..., Any], embed_here: None, cohort: Path, store: Path, tmp_path: Path
) -> None:
    before = content(store)
    (features,) = [key for key in before if key.startswith("features/") and "/s02/" in key]
    ended = mhim("store", "rm", f"store={store}", "slide=s02")
    assert (ended.code, content(store)) == (0, before)
    assert features in ended.out
    cache = tmp_path / "cache" / "mhim-bags-0"
    cache.mkdir(parents=True)
    copy = cache / Path(features).stem
    copy.write_bytes(b"a bag")
    ended = mhim("store", "rm", f"store={store}", "slide=s02", f"cache_dir={tmp_path / 'cache'}", "delete=true")
    assert ended.code == 0, ended
    assert str(copy) in ended.out
    assert [path for path in store.rglob("*") if "s02" in path.name] == []
    assert mhim("store", "verify", f"store={store}", "deep=true").code == 0
    assert mhim("store", "rm", f"store={store}", "slide=s02", "delete=true").code == 0
    ended = mhim("embed", f"cohort={cohort}", f"store={store}", "encoder=hed-texture")
    assert ended.code == 0, ended
    assert content(store)[features] == before[features]
    assert len(read_manifest(LocalStorage(store), fingerprint_of(store)).entries) == 3
    assert mhim("store", "verify", f"store={store}", "deep=true").code == 0


def test_rm_of_a_patient_removes_the_slides_that_the_table_names(
    mhim: Callable[..., Any], store: Path, write_table: Callable[..., Path]
) -> None:
    patients = {"s00": "p1", "s01": "p2", "s02": "p1", "s14": "p1"}
    rows = [{"slide_id": name, "path": f"{name}.tiff", "patient_id": patient} for name, patient in patients.items()]
    words = ("store", "rm", f"store={store}", "patient=p1", f"cohort={write_table(rows)}")
    ended = mhim(*words, "older_manifests=true", "delete=true")
    assert ended.code == 0, ended
    assert [path.name for path in store.glob("features/*/*")] == ["s01"]
    storage, fingerprint = LocalStorage(store), fingerprint_of(store)
    for version in (1, 2):
        assert [*read_manifest(storage, fingerprint, version=version).entries] == ["s01"]


def test_rm_names_what_a_run_and_the_store_s_reports_still_hold(
    mhim: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = LocalStorage(tmp_path / "run")
    run.put("evaluation/attention/s02.parquet", b"weights")
    run.put("evaluation/attention/s020.parquet", write_parquet([{"tile": 0}]))
    run.put("evaluation/predictions.parquet", write_parquet([{"slide_id": "s02"}]))
    run.put("report.html", b"<td>s02</td>")
    run.put("evaluation/predictions.csv", b"slide_id,label\ns021,a\nxs02,b\n")
    LocalStorage(store).put("reports/20200101T000000Z-abcdef/failed.csv", b"slide_id,reason\ns02,open\n")
    ended = mhim("store", "rm", f"store={store}", "slide=s02", f"run={run.uri}", "delete=true")
    assert ended.code == 0, ended
    named = {line.strip().partition(":")[0] for line in ended.out.splitlines() if line.startswith("  ")}
    assert {
        "evaluation/attention/s02.parquet",
        "evaluation/predictions.parquet",
        "report.html",
        "reports/20200101T000000Z-abcdef/failed.csv",
    } <= named
    assert not {"evaluation/attention/s020.parquet", "evaluation/predictions.csv"} & named
    assert len(content(run.root)) == 5
