"""A slide is taken out of a store, whole, whenever the one who removes it is stopped and whoever embeds meanwhile."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mhim_core.errors import InputError, IntegrityError, StorageError
from mhim_core.features import SlideFeatures, SourceIdentity
from mhim_core.storage import Entry, LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.failures import record_failure
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.ledger import Ledger
from mhim_core.store.manifest import read_manifest, write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.removal import find_holdings, remove_slides, were_removed
from mhim_core.store.verify import Fault, audit
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

Make = Callable[..., SlideFeatures]
GONE = SlideId("gone")


class Interrupted(LocalStorage):
    """Calls `interrupt` before the operation of this number, counted from 1."""

    def __init__(self, root: Path, number: int, interrupt: Callable[[], None], *, reads: bool = False) -> None:
        super().__init__(root)
        self.left, self.interrupt, self.reads = number, interrupt, reads

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.interrupt()

    def put(self, key: str, data: bytes) -> None:
        self._count()
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count()
        return super().put_if_absent(key, data)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)

    def get(self, key: str) -> bytes:
        if self.reads:
            self._count()
        return super().get(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        if self.reads:
            self._count()
        return super().list(prefix)


class Policy:
    max_upsample = 1.1
    default_mpp = None
    max_mpp_factor = 4.0


def task(slide_id: str) -> SlideTask:
    return SlideTask(SlideId(slide_id), f"/slides/{slide_id}.svs")


@pytest.fixture
def fill(feature_set: FeatureSet, make_features: Make) -> Callable[[Path], LocalStorage]:
    """fill(folder) → a store of three slides; one is to go: two scans, a failure, two manifests."""

    def fill(root: Path) -> LocalStorage:
        storage = LocalStorage(root)
        register(storage, feature_set)
        records = {
            SlideId(slide_id): commit(storage, feature_set, make_features(slide_id)).record
            for slide_id in ("gone", "kept", "other")
        }
        write_manifest(storage, feature_set, records)
        scan = make_features("gone", seed=1, source=SourceIdentity(1000, "another scan"))
        write_manifest(storage, feature_set, {GONE: commit(storage, feature_set, scan).record})
        row = StatusRow(GONE, Status.FAILED, FailureReason.READ)
        record_failure(storage, feature_set.fingerprint, task("gone"), row, Policy(), None)
        return storage

    return fill


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def named(root: Path) -> list[str]:
    """Files and folders whose path has the slide's id."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if "gone" in path.as_posix())


def versions_naming(storage: LocalStorage, feature_set: FeatureSet) -> list[int]:
    return [manifest.version for manifest in find_holdings(storage, [GONE]).manifests]


def test_all_of_a_slide_goes_and_nothing_of_the_others(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    before = content(tmp_path)
    held = find_holdings(storage, [GONE])
    assert (len(held.commits), len(held.files), len(held.failures)) == (2, 2, 1)
    left = remove_slides(storage, [GONE], older_manifests=False)
    assert (left.is_in_use, [manifest.version for manifest in left.older]) == (False, [2, 1])
    assert named(tmp_path) == []
    after = content(tmp_path)
    assert {key: data for key, data in before.items() if "/gone/" not in key}.items() <= after.items()
    mark, manifest = layout.removal_key(feature_set.fingerprint, GONE), layout.manifest_key(feature_set.fingerprint, 3)
    assert after.keys() - before.keys() == {mark, manifest}
    assert sorted(read_manifest(storage, feature_set.fingerprint).entries) == ["kept", "other"]


def test_what_was_removed_is_no_loss_but_what_is_lost_is(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    kept = read_manifest(storage, feature_set.fingerprint).entries[SlideId("kept")]
    remove_slides(storage, [GONE], older_manifests=False)
    assert audit(storage).findings == ()
    assert {(finding.fault, finding.slide_id) for finding in audit(storage, deep=True).findings} == {
        (Fault.REMOVED, "gone")
    }
    storage.delete(kept.commit_key)
    assert [finding.slide_id for finding in audit(storage, deep=True).lost] == ["kept"]


def test_earlier_manifests_are_rewritten_on_request_and_refuse_whoever_pinned_them(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    pinned = read_manifest(storage, feature_set.fingerprint, version=1)
    left = remove_slides(storage, [GONE], older_manifests=True)
    assert left.manifests == ()
    assert b"gone" not in b"".join(content(tmp_path).values())
    assert audit(storage, deep=True).findings == ()
    others = {slide_id: record for slide_id, record in pinned.entries.items() if slide_id != GONE}
    assert read_manifest(storage, feature_set.fingerprint, version=1).entries == others
    with pytest.raises(IntegrityError):
        read_manifest(storage, feature_set.fingerprint, 1, pinned.ref.sha256)


def test_a_slide_is_embedded_again_to_the_same_bytes(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, make_features: Make, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    before = content(tmp_path)
    remove_slides(storage, [GONE], older_manifests=False)
    record = commit(storage, feature_set, make_features("gone")).record
    write_manifest(storage, feature_set, {GONE: record})
    assert content(tmp_path)[record.key] == before[record.key]
    assert read_manifest(storage, feature_set.fingerprint).entries[GONE].sha256 == record.sha256
    assert audit(storage).findings == ()
    storage.delete(record.commit_key)  # a loss, though it was once removed
    assert [finding.slide_id for finding in audit(storage).lost] == ["gone"]


@pytest.mark.fault(51)
@pytest.mark.parametrize("older_manifests", [False, True])
def test_a_removal_that_is_killed_anywhere_is_explained_and_finished_by_another(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path, older_manifests: bool
) -> None:
    def kill() -> None:
        raise StorageError("killed")

    number, was_killed = 0, True
    while was_killed:
        number += 1
        root = tmp_path / str(number)
        others = {key: data for key, data in content(fill(root).root).items() if "/gone/" not in key}
        try:
            remove_slides(Interrupted(root, number, kill), [GONE], older_manifests=older_manifests)
            was_killed = False
        except StorageError:
            pass
        storage = LocalStorage(root)
        for finding in audit(storage, deep=True).findings:
            assert finding.slide_id == GONE
            assert finding.fault in (Fault.ORPHANED, Fault.REMOVED) or "store rm" in finding.message
        left = remove_slides(storage, [GONE], older_manifests=older_manifests)
        assert (left.is_in_use, bool(left.older), named(root)) == (False, not older_manifests, [])
        assert audit(storage, deep=True).lost == ()
        kept = {key: data for key, data in others.items() if "manifests/" not in key}
        assert kept.items() <= content(root).items()
        assert sorted(read_manifest(storage, feature_set.fingerprint).entries) == ["kept", "other"]
    assert number == (10 if older_manifests else 8)  # every step was the last one once


@pytest.mark.fault(51)
def test_a_run_that_knew_the_slide_before_does_not_name_it_afterwards_whenever_it_writes_its_manifest(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    for number in range(1, 9):
        root = tmp_path / str(number)
        storage = fill(root)
        record = read_manifest(storage, feature_set.fingerprint).entries[GONE]

        def write(storage: LocalStorage = storage, record: CommitRecord = record) -> None:
            write_manifest(storage, feature_set, {GONE: record, SlideId("other"): None})

        remove_slides(Interrupted(root, number, write), [GONE], older_manifests=False)
        write()
        assert sorted(read_manifest(storage, feature_set.fingerprint).entries) == ["kept"]
        assert audit(storage).lost == ()


@pytest.mark.fault(51)
def test_a_slide_that_is_removed_while_a_run_writes_its_manifest_is_not_named_by_it(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    """At every request of the run, with a slide that no manifest has named before."""
    for number in range(1, 9):
        root = tmp_path / str(number)
        storage = fill(root)
        record = read_manifest(storage, feature_set.fingerprint).entries[GONE]
        write_manifest(storage, feature_set, {GONE: None})

        def remove(storage: LocalStorage = storage) -> None:
            remove_slides(storage, [GONE], older_manifests=False)

        run = Interrupted(root, number, remove, reads=True)
        write_manifest(run, feature_set, {GONE: record})
        if run.left > 0:
            assert number > 4
            break
        assert sorted(read_manifest(storage, feature_set.fingerprint).entries) == ["kept", "other"], number
        assert audit(storage).lost == ()
    else:
        pytest.fail("the run made more requests than were interrupted")


def test_a_slide_that_is_committed_again_meanwhile_goes_or_stays_whole(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, make_features: Make, tmp_path: Path
) -> None:
    for number in range(1, 9):
        root = tmp_path / str(number)
        storage = fill(root)

        def embed(storage: LocalStorage = storage) -> None:
            commit(storage, feature_set, make_features("gone"))

        remove_slides(Interrupted(root, number, embed), [GONE], older_manifests=False)
        assert audit(storage).lost == ()
        assert named(root) == []


def test_a_removed_slide_is_left_to_do(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    remove_slides(storage, [GONE], older_manifests=False)
    pending = Ledger(storage, feature_set).pending(
        [task("gone"), task("kept")], hints=lambda _: None, policy=Policy(), retry_failed=False
    )
    assert (GONE in pending.done, GONE in {row.slide_id for row in pending.given_up}) == (False, False)


def test_what_killed_writers_left_of_the_slide_goes_too_and_a_live_one_s_stays(
    fill: Callable[[Path], LocalStorage], tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    file = next(tmp_path.glob("features/*/gone/*.parquet"))
    file.with_name(".tmp-dead").write_bytes(b"half of it")
    kept = next(tmp_path.glob("features/*/kept/*.parquet")).with_name(".tmp-dead")
    kept.write_bytes(b"another's")
    assert len(find_holdings(storage, [GONE]).temporaries) == 1
    remove_slides(storage, [GONE], older_manifests=False)
    assert named(tmp_path) == []
    assert kept.exists()


def test_whether_a_slide_was_removed_is_known_without_its_name(
    fill: Callable[[Path], LocalStorage], tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    assert not were_removed(storage, [GONE])
    remove_slides(storage, [GONE], older_manifests=True)
    assert were_removed(storage, [GONE])
    assert not were_removed(storage, [SlideId("kept")])


def test_a_removal_stops_before_anything_if_the_newest_manifest_is_damaged(
    fill: Callable[[Path], LocalStorage], feature_set: FeatureSet, tmp_path: Path
) -> None:
    storage = fill(tmp_path)
    (tmp_path / layout.manifest_key(feature_set.fingerprint, 2)).write_bytes(b"PAR1")
    before = content(tmp_path)
    with pytest.raises((IntegrityError, InputError)):
        remove_slides(storage, [GONE], older_manifests=False)
    assert content(tmp_path) == before
