"""Manifests: versions written once, merged by concurrent runs, verified when read."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mhim_core.errors import InputError, IntegrityError
from mhim_core.features import BackendUsed, SlideFeatures
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import newest_version, read_manifest, write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.types import SlideId, Status

Records = Callable[..., dict[SlideId, CommitRecord]]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


@pytest.fixture
def records(storage: LocalStorage, feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]) -> Records:
    def make(*slide_ids: str, num_tiles: int = 5) -> dict[SlideId, CommitRecord]:
        made = [
            commit(storage, feature_set, make_features(slide_id, num_tiles=num_tiles)).record for slide_id in slide_ids
        ]
        return {record.slide_id: record for record in made}

    return make


def test_what_is_written_is_read_and_its_pin_holds(
    storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    entries = {**records("b", "a"), **records("e", num_tiles=0)}
    ref = write_manifest(storage, feature_set, entries)
    assert (ref.version, ref.key) == (1, layout.manifest_key(feature_set.fingerprint, 1))
    manifest = read_manifest(storage, feature_set.fingerprint, version=1, sha256_pin=ref.sha256)
    assert manifest.ref == ref
    assert manifest.entries == entries
    assert list(manifest.entries) == ["a", "b", "e"]
    assert [record.status for record in manifest.bags().values()] == [Status.OK, Status.OK]


def test_an_entry_does_not_claim_to_know_who_decoded_its_slide(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]
) -> None:
    record = commit(storage, feature_set, make_features("a", backend=BackendUsed("plain", 1))).record
    write_manifest(storage, feature_set, {record.slide_id: record})
    assert read_manifest(storage, feature_set.fingerprint).entries[record.slide_id].reading.backend is None


def test_nothing_new_is_no_new_version(storage: LocalStorage, feature_set: FeatureSet, records: Records) -> None:
    first = write_manifest(storage, feature_set, records("a", "b"))
    assert write_manifest(storage, feature_set, records("a", "b")) == first
    assert write_manifest(storage, feature_set, records("a")) == first
    assert write_manifest(storage, feature_set, {}) == first
    assert newest_version(storage, feature_set.fingerprint) == 1


def test_slides_outside_the_cohort_keep_their_entry_and_none_takes_one_out(
    storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    write_manifest(storage, feature_set, records("a", "b"))
    second = write_manifest(storage, feature_set, {SlideId("b"): None, **records("c")})
    assert second.version == 2
    assert list(read_manifest(storage, feature_set.fingerprint).entries) == ["a", "c"]
    assert list(read_manifest(storage, feature_set.fingerprint, version=1).entries) == ["a", "b"]


def test_the_same_entries_give_the_same_bytes_in_any_order(
    tmp_path: Path, storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    entries = records("a", "b", "c")
    first = write_manifest(storage, feature_set, entries)
    backwards = dict(reversed(entries.items()))
    assert write_manifest(LocalStorage(tmp_path / "other"), feature_set, backwards) == first


@pytest.mark.fault(11)
def test_concurrent_writers_end_in_a_union(storage: LocalStorage, feature_set: FeatureSet, records: Records) -> None:
    parts = [records(f"s{index}") for index in range(6)]
    barrier = threading.Barrier(len(parts))

    def work(part: dict[SlideId, CommitRecord]) -> None:
        barrier.wait()
        write_manifest(storage, feature_set, part)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    newest = read_manifest(storage, feature_set.fingerprint)
    assert set(newest.entries) == {f"s{index}" for index in range(6)}
    assert newest.ref.version == 6
    sizes = [len(read_manifest(storage, feature_set.fingerprint, version=version).entries) for version in range(1, 7)]
    assert sizes == [1, 2, 3, 4, 5, 6]


def test_an_entry_of_another_set_or_slide_is_refused(
    storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    entries = records("a")
    with pytest.raises(IntegrityError, match="slide b"):
        write_manifest(storage, feature_set, {SlideId("b"): entries[SlideId("a")]})
    with pytest.raises(IntegrityError, match="slide a"):
        write_manifest(storage, replace(feature_set, tiling={}), entries)


def test_a_missing_version_is_bad_input_and_says_what_is_missing(
    storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    with pytest.raises(InputError, match="mhim embed"):
        read_manifest(storage, feature_set.fingerprint)
    write_manifest(storage, feature_set, records("a"))
    with pytest.raises(InputError, match="version 7"):
        read_manifest(storage, feature_set.fingerprint, version=7)


def test_a_changed_manifest_is_refused(storage: LocalStorage, feature_set: FeatureSet, records: Records) -> None:
    ref = write_manifest(storage, feature_set, records("a", "b"))
    data = storage.get(ref.key)
    storage.put(ref.key, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(IntegrityError, match="pinned"):
        read_manifest(storage, feature_set.fingerprint, version=1, sha256_pin=ref.sha256)
    storage.put(ref.key, b"not parquet")
    with pytest.raises(IntegrityError, match="not a manifest"):
        read_manifest(storage, feature_set.fingerprint)


def test_a_manifest_under_another_set_s_name_is_refused(
    storage: LocalStorage, feature_set: FeatureSet, records: Records
) -> None:
    ref = write_manifest(storage, feature_set, records("a"))
    other = replace(feature_set, tiling={}).fingerprint
    storage.put(layout.manifest_key(other, 1), storage.get(ref.key))
    with pytest.raises(IntegrityError, match="feature set"):
        read_manifest(storage, other)
