"""What nobody needs is found by age and by what the records name, and nothing else is ever deleted."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mhim_core.features import SlideFeatures, SourceIdentity
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.failures import last_failures, record_failure
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.garbage import GarbageKind, find_garbage, remove_garbage
from mhim_core.store.manifest import write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.verify import audit
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

Make = Callable[..., SlideFeatures]
DAY_S = 86_400


class Policy:
    max_upsample = 1.1
    default_mpp = None
    max_mpp_factor = 4.0


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def records(storage: LocalStorage, feature_set: FeatureSet, make_features: Make) -> dict[str, CommitRecord]:
    """By slide: superseded and scanned again (`old`), in the manifest (`s1`), committed alone (`alone`)."""
    register(storage, feature_set)
    records = {name: commit(storage, feature_set, make_features(name)).record for name in ("old", "s1", "alone")}
    write_manifest(storage, feature_set, {SlideId(name): records[name] for name in ("old", "s1")})
    scan = make_features("old", seed=1, source=SourceIdentity(1000, "another scan"))
    write_manifest(storage, feature_set, {SlideId("old"): commit(storage, feature_set, scan).record})
    return records


def age(path: Path, days: float) -> Path:
    time_s = path.stat().st_mtime - days * DAY_S
    os.utime(path, (time_s, time_s))
    return path


def age_all(storage: LocalStorage, days: float = 3) -> None:
    for path in storage.root.rglob("*"):
        if path.is_file():
            age(path, days)


def plant(storage: LocalStorage, key: str, days: float) -> str:
    storage.put(key, b"left")
    age(storage.root / key, days)
    return key


def orphan_key(record: CommitRecord, digit: str = "0") -> str:
    return layout.features_key(record.feature_set, record.slide_id, digit * 64)


def keys(storage: LocalStorage, kind: GarbageKind) -> set[str]:
    return {item.key for item in find_garbage(storage).of(kind)}


def test_a_store_in_use_has_no_garbage_however_old(storage: LocalStorage, records: dict[str, CommitRecord]) -> None:
    age_all(storage, 400)
    assert find_garbage(storage).objects == ()


def test_orphans_and_probes_go_a_day_after_they_were_written(
    storage: LocalStorage, records: dict[str, CommitRecord]
) -> None:
    age_all(storage)
    orphans = {plant(storage, orphan_key(records[name]), 1.1) for name in ("s1", "old", "alone")}
    orphans.add(plant(storage, layout.features_key("f" * 64, SlideId("never"), "0" * 64), 2))
    probe = plant(storage, "probe/abc", 1.1)
    for key in (orphan_key(records["s1"], "1"), "probe/def"):
        plant(storage, key, 0.9)
    plant(storage, "features/readme.txt", 9)  # not of our making
    found = find_garbage(storage)
    assert {(item.kind, item.key) for item in found.objects} == {
        *((GarbageKind.FEATURES, key) for key in orphans),
        (GarbageKind.PROBE, probe),
    }
    before = {entry.key for entry in storage.list("")}
    assert remove_garbage(storage, found.objects) == 5
    assert before - {entry.key for entry in storage.list("")} == {*orphans, probe}
    assert audit(storage, deep=True).lost == ()


def test_what_is_written_or_committed_again_after_it_was_found_stays(
    storage: LocalStorage, feature_set: FeatureSet, records: dict[str, CommitRecord], make_features: Make
) -> None:
    again, late = (commit(storage, feature_set, make_features(name)).record for name in ("again", "late"))
    claim = storage.get(late.commit_key)
    for record in (again, late):
        storage.delete(record.commit_key)
    age_all(storage)
    found = find_garbage(storage)
    assert {item.key for item in found.objects} == {again.key, late.key}
    storage.put(again.key, storage.get(again.key))
    storage.put(late.commit_key, claim)
    assert remove_garbage(storage, found.objects) == 0
    assert commit(storage, feature_set, make_features("again")).record.key == again.key
    assert audit(storage, deep=True).lost == ()


@pytest.mark.parametrize("damaged", ["commit", "manifest"])
def test_what_a_record_that_cannot_be_read_may_name_stays_and_is_said(
    storage: LocalStorage, records: dict[str, CommitRecord], damaged: str
) -> None:
    age_all(storage)
    key = plant(storage, orphan_key(records["alone"]), 3)
    other = plant(storage, layout.features_key("f" * 64, SlideId("never"), "0" * 64), 3)
    path = {
        "commit": records["alone"].commit_key,
        "manifest": layout.manifest_key(records["alone"].feature_set, 1),
    }[damaged]
    (storage.root / path).write_bytes(b"{")
    found = find_garbage(storage)
    assert {item.key for item in found.objects} == {other}
    assert len(found.unclear) == 1
    assert (storage.root / key).exists()


def test_failures_go_where_the_slide_was_committed_later(
    storage: LocalStorage, feature_set: FeatureSet, records: dict[str, CommitRecord]
) -> None:
    def fail(slide_id: str, days: float) -> str:
        row = StatusRow(SlideId(slide_id), Status.FAILED, FailureReason.READ)
        task = SlideTask(SlideId(slide_id), "/slides/x.svs")
        key = record_failure(storage, feature_set.fingerprint, task, row, Policy(), None)
        age(storage.root / key, days)
        return key

    age_all(storage, 2)
    before, after, never = fail("s1", 3), fail("s1", 1.5), fail("absent", 3)
    assert keys(storage, GarbageKind.FAILURE) == {before}
    remove_garbage(storage, find_garbage(storage).objects)
    assert {entry.key for entry in storage.list("attempts")} == {after, never}
    # the number of the next is not one that was used: the last is the newest
    newest = fail("s1", 0)
    task = SlideTask(SlideId("s1"), "/slides/x.svs")
    assert newest > after
    assert set(last_failures(storage, feature_set.fingerprint, [task], {})) == {"s1"}


def test_temporary_files_go_a_day_after_their_writer_was_killed(
    storage: LocalStorage, records: dict[str, CommitRecord]
) -> None:
    folder = (storage.root / records["s1"].key).parent
    for name, days in (("dead", 2.0), ("young", 0.5), ("live", 2.0)):
        (folder / f".tmp-{name}").write_bytes(b"half")
        age(folder / f".tmp-{name}", days)
    with (folder / ".tmp-live").open("rb+") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        found = find_garbage(storage)
        assert [Path(item.key).name for item in found.objects] == [".tmp-dead"]
        assert remove_garbage(storage, found.objects) == 1
    assert {path.name for path in folder.glob(".tmp-*")} == {".tmp-young", ".tmp-live"}
