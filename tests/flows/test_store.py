"""`mhim store verify` names what a store has lost; `mhim store repair` makes just that again, to the same bytes."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mhim_core.embed.card import RUNTIME_OPENVINO
from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import list_feature_sets
from mhim_core.store.manifest import read_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.types import SlideId


@pytest.fixture(scope="module")
def embedded(painted: Any, run_here: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the twelve painted slides; a test takes a copy."""
    store = tmp_path_factory.mktemp("embedded") / "store"
    ended = run_here("embed", f"cohort={painted.cohort}", f"store={store}", "encoder=hed-texture")
    assert ended.code == 0, ended
    return store


@pytest.fixture
def store(embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded, tmp_path / "store"))


@pytest.fixture
def records(store: Path) -> dict[SlideId, CommitRecord]:
    (fingerprint,) = (path.name for path in (store / "manifests").iterdir())
    return read_manifest(LocalStorage(store), fingerprint).entries


def table(store: Path, name: str) -> list[dict[str, str]]:
    """The newest report's table."""
    folder = max((path for path in (store / "reports").iterdir()), key=lambda path: path.stat().st_mtime_ns)
    return list(csv.DictReader(io.StringIO((folder / name).read_text())))


def faults(store: Path) -> set[tuple[str, str, str]]:
    return {(row["slide_id"], row["fault"], row["part"]) for row in table(store, "findings.csv")}


def content(store: Path) -> dict[str, bytes]:
    """Everything but the reports."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and "reports" not in path.parts
    }


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_whole_store_has_no_findings(mhim: Callable[..., Any], store: Path) -> None:
    ended = mhim("store", "verify", f"store={store}", "deep=true")
    assert (ended.code, faults(store)) == (0, set())


@pytest.mark.fault(15, 16)
def test_what_is_lost_is_named_by_slide_and_a_flipped_bit_is_found_by_reading(
    mhim: Callable[..., Any], store: Path, records: dict[SlideId, CommitRecord]
) -> None:
    (store / records[SlideId("s00")].key).unlink()
    truncated = store / records[SlideId("s01")].key
    truncated.write_bytes(truncated.read_bytes()[:-7])
    flip(store / records[SlideId("s02")].key)
    (store / records[SlideId("s03")].commit_key).unlink()
    (store / records[SlideId("s04")].commit_key).write_bytes(b"")
    listed = {
        ("s00", "missing", "features"),
        ("s01", "damaged", "features"),
        ("s03", "missing", "commit"),
        ("s04", "damaged", "commit"),
    }
    ended = mhim("store", "verify", f"store={store}")
    assert (ended.code, faults(store)) == (4, listed)
    assert "2 missing, 2 damaged, 0 orphaned, 0 left_behind" in ended.out
    ended = mhim("store", "verify", f"store={store}", "deep=true")
    assert (ended.code, faults(store)) == (4, listed | {("s02", "damaged", "features")})


def test_orphans_are_named_and_are_no_loss(
    mhim: Callable[..., Any], store: Path, records: dict[SlideId, CommitRecord]
) -> None:
    record = records[SlideId("s05")]
    orphan = (store / record.key).with_name(f"{'0' * 64}.parquet")
    orphan.write_bytes(b"left by an attempt that lost")
    ended = mhim("store", "verify", f"store={store}", "deep=true")
    assert (ended.code, faults(store)) == (0, {("s05", "orphaned", "features")})


@pytest.mark.fault(48)
def test_what_a_killed_writer_left_is_named_and_swept_by_repair(
    mhim: Callable[..., Any], painted: Any, store: Path, records: dict[SlideId, CommitRecord]
) -> None:
    left = (store / records[SlideId("s05")].key).with_name(".tmp-abc")
    left.write_bytes(b"half a file")
    time_s = left.stat().st_mtime - 7200
    os.utime(left, (time_s, time_s))
    ended = mhim("store", "verify", f"store={store}")
    assert (ended.code, faults(store), left.exists()) == (0, {("", "left_behind", "temporary")}, True)
    assert mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}").code == 0
    assert not left.exists()


def test_a_store_that_is_not_there_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    refused("store", "verify", f"store={tmp_path / 'none'}", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(16)
def test_repair_makes_what_is_lost_again_and_nothing_else_to_the_same_bytes(
    mhim: Callable[..., Any],
    embed_here: None,
    painted: Any,
    store: Path,
    records: dict[SlideId, CommitRecord],
) -> None:
    before, times = content(store), {path: path.stat().st_mtime_ns for path in (store / "features").rglob("*.parquet")}
    (store / records[SlideId("s00")].key).unlink()
    flip(store / records[SlideId("s02")].key)
    (store / records[SlideId("s03")].commit_key).unlink()
    (store / records[SlideId("s04")].commit_key).write_bytes(b"{")
    ended = mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}", "deep=true")
    assert ended.code == 0, ended
    assert content(store) == before
    assert {row["slide_id"]: row["left"] for row in table(store, "repaired.csv")} == dict.fromkeys(
        ["s00", "s02", "s03", "s04"], ""
    )
    written = {path.parent.name for path, time_ns in times.items() if path.stat().st_mtime_ns != time_ns}
    assert written == {"s00", "s02"}
    assert mhim("store", "verify", f"store={store}", "deep=true").code == 0


def test_a_store_without_losses_is_repaired_without_embedding(
    mhim: Callable[..., Any], painted: Any, store: Path
) -> None:
    before = content(store)
    assert mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}").code == 0  # Ray would fail the test
    assert content(store) == before


def test_what_cannot_be_made_again_is_left_with_the_reason(
    mhim: Callable[..., Any],
    embed_here: None,
    painted: Any,
    write_table: Callable[..., Path],
    store: Path,
    records: dict[SlideId, CommitRecord],
) -> None:
    slides = painted.cohort.parent
    paths = {"s00": slides / "s00.tiff", "s01": slides / "s03.tiff", "s02": slides / "none.tiff"}
    cohort = write_table([{"slide_id": key, "path": path, "label": "x"} for key, path in paths.items()])
    for slide_id in ("s00", "s01", "s02", "s03"):
        (store / records[SlideId(slide_id)].key).unlink()
    ended = mhim("store", "repair", f"store={store}", f"cohort={cohort}")
    assert ended.code == 4, ended
    left = {row["slide_id"]: row["left"] for row in table(store, "repaired.csv")}
    assert [key for key, reason in left.items() if reason] == ["s01", "s02", "s03"]
    assert "has changed" in left["s01"]
    assert "not there" in left["s02"]
    assert "cohort table" in left["s03"]
    assert (store / records[SlideId("s00")].key).is_file()
    assert not (store / records[SlideId("s01")].key).exists()


def test_features_that_come_out_otherwise_are_not_written(
    mhim: Callable[..., Any],
    embed_here: None,
    painted: Any,
    store: Path,
    records: dict[SlideId, CommitRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An encoder, a device or a package that computes other bits under the same name."""
    from mhim_core.embed.slide_encoder import SlideEncoder

    encode = SlideEncoder.each

    def differently(self: Any, batches: Any, facts: Any) -> Any:
        (features,) = encode(self, batches, facts)
        features.features[0, 0] += 1
        return [features]

    monkeypatch.setattr(SlideEncoder, "each", differently)
    (store / records[SlideId("s00")].key).unlink()
    before = content(store)
    ended = mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}")
    assert ended.code == 4, ended
    (row,) = table(store, "repaired.csv")
    assert row["left"].startswith("bad_features")
    assert content(store) == before


def test_another_encoder_is_said_and_its_slides_are_left(
    mhim: Callable[..., Any], painted: Any, made_store: Callable[..., str], tmp_path: Path
) -> None:
    word = made_store(["s00", "s01"])  # by an encoder that this version does not have
    (path,) = (tmp_path / "store" / "features").glob("*/s00/*.parquet")
    path.unlink()
    ended = mhim("store", "repair", word, f"cohort={painted.cohort}")
    assert ended.code == 4, ended
    (row,) = table(tmp_path / "store", "repaired.csv")
    assert (row["slide_id"], bool(row["left"])) == ("s00", True)


def test_features_of_another_version_of_the_packages_are_restored_if_their_numbers_are_the_same(
    mhim: Callable[..., Any],
    embed_here: None,
    painted: Any,
    store: Path,
    records: dict[SlideId, CommitRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mhim_core.embed.slide_encoder.versions_of", lambda card: {"mhim": "9.9"})
    before = content(store)
    (store / records[SlideId("s00")].key).unlink()
    assert mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}").code == 0
    assert content(store) == before


@pytest.mark.thorough
@pytest.mark.skipif(not (find_spec("openvino") and find_spec(PACKAGE)), reason="openvino or encoders is not installed")
def test_what_openvino_made_is_made_again_to_the_same_bytes_and_says_by_which_instructions(
    mhim: Callable[..., Any], embed_here: None, painted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    words = ("embed", f"cohort={painted.cohort}", f"store={store}", "target_mpp=1.0", "encoder=efficientnet-lite0")
    assert mhim(*words).code == 0
    (feature_set,) = list_feature_sets(LocalStorage(store))
    assert feature_set.encoder["runtime"] == RUNTIME_OPENVINO
    record = read_manifest(LocalStorage(store), feature_set.fingerprint).entries[SlideId("s00")]
    assert {"openvino", "openvino-isa"} <= set(record.versions)
    before = content(store)
    (store / record.key).unlink()
    # a node of another kind whose numbers are the same
    monkeypatch.setattr("mhim_core.embed.openvino_runtime._instruction_set", lambda compiled: "other")
    assert mhim("store", "repair", f"store={store}", f"cohort={painted.cohort}").code == 0
    assert content(store) == before


def test_the_report_counts(mhim: Callable[..., Any], store: Path, records: dict[SlideId, CommitRecord]) -> None:
    (store / records[SlideId("s00")].key).unlink()
    mhim("store", "verify", f"store={store}")
    folder = max((store / "reports").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["counts"] == {"missing": 1, "damaged": 0, "orphaned": 0, "left_behind": 0, "removed": 0}
    assert (summary["num_commits"], summary["num_files"]) == (12, 12)
    assert summary["num_bytes"] == sum(record.num_bytes for record in records.values())
