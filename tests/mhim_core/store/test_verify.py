"""What a store has lost, from its own records: by listing, not by a request a slide."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mhim_core.features import SlideFeatures, SourceIdentity
from mhim_core.storage import Entry, LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.manifest import write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.verify import Audit, Fault, ObjectKind, audit, file_findings, list_sizes
from mhim_core.types import SlideId

Make = Callable[..., SlideFeatures]


class Counting(LocalStorage):
    """Counts what an object store would be asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.got: list[str] = []
        self.listed: list[str] = []

    def get(self, key: str) -> bytes:
        self.got.append(key)
        return super().get(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        self.listed.append(prefix)
        return super().list(prefix)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def filled(storage: Counting, feature_set: FeatureSet, make: Make, *slide_ids: str) -> dict[str, CommitRecord]:
    register(storage, feature_set)
    records = {slide_id: commit(storage, feature_set, make(slide_id)).record for slide_id in slide_ids}
    write_manifest(storage, feature_set, {SlideId(slide_id): record for slide_id, record in records.items()})
    storage.got.clear()
    storage.listed.clear()
    return records


def faults_of(result: Audit) -> list[tuple[Fault, ObjectKind, str]]:
    return [(finding.fault, finding.part, finding.slide_id) for finding in result.findings]


def test_a_whole_store_is_verified_by_a_handful_of_requests(
    storage: Counting, feature_set: FeatureSet, make_features: Make
) -> None:
    filled(storage, feature_set, make_features, *(f"s{i}" for i in range(40)))
    result = audit(storage)
    assert (result.num_commits, result.num_files, result.findings) == (40, 40, ())
    assert len(storage.got) == 2  # the feature set and the newest manifest
    assert len(storage.listed) == 4


def test_a_slide_without_tissue_needs_no_file(storage: Counting, feature_set: FeatureSet, make_features: Make) -> None:
    register(storage, feature_set)
    record = commit(storage, feature_set, make_features("empty", num_tiles=0)).record
    write_manifest(storage, feature_set, {SlideId("empty"): record})
    result = audit(storage, deep=True)
    assert (result.num_commits, result.num_files, result.findings) == (1, 0, ())


def test_a_commit_that_an_earlier_manifest_names_is_no_orphan_and_its_file_is_still_held_to_it(
    storage: Counting, feature_set: FeatureSet, make_features: Make
) -> None:
    """A slide was scanned again; runs that are pinned to the earlier version read the earlier features."""
    old = filled(storage, feature_set, make_features, "s1", "s2")["s1"]
    again = make_features("s1", seed=1, source=SourceIdentity(1000, "another scan"))
    write_manifest(storage, feature_set, {SlideId("s1"): commit(storage, feature_set, again).record})
    assert faults_of(audit(storage)) == []
    storage.delete(old.key)
    assert faults_of(audit(storage)) == [(Fault.MISSING, ObjectKind.FEATURES, "s1")]


def test_a_commit_that_no_manifest_names_is_an_orphan_and_its_own_file_is_not(
    storage: Counting, feature_set: FeatureSet, make_features: Make
) -> None:
    filled(storage, feature_set, make_features, "s1")
    record = commit(storage, feature_set, make_features("s2")).record
    assert faults_of(audit(storage)) == [(Fault.ORPHANED, ObjectKind.COMMIT, "s2")]
    storage.delete(record.key)
    lost = audit(storage).lost
    assert [(finding.part, finding.slide_id, finding.record) for finding in lost] == [
        (ObjectKind.FEATURES, "s2", record)
    ]


def test_a_lost_manifest_or_feature_set_is_named(
    storage: Counting, feature_set: FeatureSet, make_features: Make
) -> None:
    filled(storage, feature_set, make_features, "s1")
    filled(storage, feature_set, make_features, "s1", "s2")
    newest = layout.manifest_key(feature_set.fingerprint, 2)
    storage.put(newest, storage.get(newest)[:100])
    assert faults_of(audit(storage)) == [
        (Fault.DAMAGED, ObjectKind.MANIFEST, ""),
        (Fault.ORPHANED, ObjectKind.COMMIT, "s2"),  # by what is left of the manifests
    ]
    storage.delete(layout.manifest_key(feature_set.fingerprint, 1))
    storage.delete(layout.feature_set_key(feature_set.fingerprint))
    assert {(fault, part) for fault, part, _ in faults_of(audit(storage)) if fault is Fault.MISSING} == {
        (Fault.MISSING, ObjectKind.MANIFEST),
        (Fault.MISSING, ObjectKind.FEATURE_SET),
    }


@pytest.mark.fault(45)
def test_a_planted_commit_is_damaged(storage: Counting, feature_set: FeatureSet, make_features: Make) -> None:
    records = filled(storage, feature_set, make_features, "s1", "s2")
    storage.put(records["s1"].commit_key, records["s2"].to_json())
    assert faults_of(audit(storage)) == []  # the manifest stands for it
    assert faults_of(audit(storage, deep=True)) == [(Fault.DAMAGED, ObjectKind.COMMIT, "s1")]


def test_files_are_looked_for_by_one_listing_or_by_slide_whichever_asks_less(
    storage: Counting, feature_set: FeatureSet, make_features: Make
) -> None:
    records = filled(storage, feature_set, make_features, "s1", "s2", "s3")
    few = [records["s1"], records["s2"]]
    for num_slides, num_listings in ((3, 1), (100_000, 2)):
        storage.listed.clear()
        sizes = list_sizes(storage, few, num_slides)
        assert len(storage.listed) == num_listings
        assert {record.key: record.num_bytes for record in few}.items() <= sizes.items()
        assert file_findings(storage, few, sizes) == []
    assert [finding.slide_id for finding in file_findings(storage, few, {})] == ["s1", "s2"]
