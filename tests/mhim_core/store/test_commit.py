"""Commits: whole or not at all, once per slide, the first one wins."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mhim_core.errors import ConflictError, IntegrityError, SlideError, StorageError
from mhim_core.features import BACKEND_OF_0_1, BackendUsed, MppUsed, SlideFeatures, SourceIdentity
from mhim_core.fingerprint import sha256
from mhim_core.storage import LocalStorage
from mhim_core.store import commit as commit_module
from mhim_core.store import layout
from mhim_core.store.commit import AlreadyCommitted, Committed, commit, find_commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.types import FailureReason, Status

Make = Callable[..., SlideFeatures]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


def keys(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [entry.key for entry in storage.list(prefix)]


def test_a_commit_says_what_lies_where(storage: LocalStorage, feature_set: FeatureSet, make_features: Make) -> None:
    result = commit(storage, feature_set, make_features())
    assert isinstance(result, Committed)
    record = result.record
    assert record.key == layout.features_key(feature_set.fingerprint, record.slide_id, record.sha256)
    data = storage.get(record.key)
    assert (sha256(data), len(data)) == (record.sha256, record.num_bytes)
    assert (record.status, record.num_tiles, record.dim, record.dtype) == (Status.OK, 5, 8, "float16")
    assert CommitRecord.from_json(storage.get(record.commit_key), "here") == record
    assert keys(storage) == sorted([record.commit_key, record.key])


@pytest.mark.parametrize("backend", [BACKEND_OF_0_1, BackendUsed("openslide", 2), BackendUsed("plain", 1)])
def test_a_record_states_the_backend_unless_it_is_that_of_0_1(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make, backend: BackendUsed
) -> None:
    record = commit(storage, feature_set, make_features(backend=backend)).record
    stated = json.loads(storage.get(record.commit_key)).get("backend", "nothing")
    assert stated == ("nothing" if backend == BACKEND_OF_0_1 else {"name": backend.name, "version": backend.version})
    assert CommitRecord.from_json(storage.get(record.commit_key), "here").reading.backend == backend


def test_the_backend_changes_neither_the_feature_file_nor_any_name(
    tmp_path: Path, feature_set: FeatureSet, make_features: Make
) -> None:
    contents = []
    for name in ("openslide", "plain"):
        place = LocalStorage(tmp_path / name)
        record = commit(place, feature_set, make_features(backend=BackendUsed(name, 1))).record
        contents.append((record.commit_key, record.key, place.get(record.key)))
    assert contents[0] == contents[1]


@pytest.mark.fault(20)
def test_an_empty_slide_is_a_commit_without_a_file(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    record = commit(storage, feature_set, make_features(num_tiles=0)).record
    assert (record.status, record.key, record.sha256, record.num_tiles) == (Status.EMPTY, "", "", 0)
    assert keys(storage) == [record.commit_key]


def test_the_first_commit_wins_and_later_ones_adopt_it(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    first = commit(storage, feature_set, make_features(seed=1))
    second = commit(storage, feature_set, make_features(seed=2))
    assert isinstance(second, AlreadyCommitted)
    assert second.record == first.record
    assert len(keys(storage)) == 2


def test_another_source_or_resolution_is_another_commit(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    variants = [
        make_features(),
        make_features(source=SourceIdentity(1001, "rescanned")),
        make_features(mpp=MppUsed(0.26, 0.26, "override")),
    ]
    assert all(isinstance(commit(storage, feature_set, variant), Committed) for variant in variants)
    assert len(keys(storage, layout.commits_prefix(feature_set.fingerprint))) == 3


def test_who_stated_the_same_mpp_shares_the_feature_file(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    stated = commit(storage, feature_set, make_features()).record
    override = commit(storage, feature_set, make_features(mpp=MppUsed(0.25, 0.25, "override"))).record
    assert stated.commit_key != override.commit_key
    assert stated.key == override.key


@pytest.mark.parametrize("at", ["encode", "put", "put_if_absent"])
@pytest.mark.fault(14)
def test_an_error_anywhere_leaves_no_commit_and_a_retry_succeeds(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("gone")

    with monkeypatch.context() as patch:
        if at == "encode":
            patch.setattr(commit_module, "encode_features", fail)
        else:
            patch.setattr(storage, at, fail)
        with pytest.raises(StorageError):
            commit(storage, feature_set, make_features())
    assert keys(storage, "commits") == []
    assert isinstance(commit(storage, feature_set, make_features()), Committed)
    assert len(keys(storage)) == 2


@pytest.mark.fault(8)
def test_a_lost_reply_is_taken_as_our_own_commit(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_if_absent = storage.put_if_absent
    monkeypatch.setattr(storage, "put_if_absent", lambda key, data: put_if_absent(key, data) and False)
    assert isinstance(commit(storage, feature_set, make_features()), Committed)
    assert len(keys(storage, "commits")) == 1


def test_threads_that_commit_one_slide_agree_on_one_commit(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    barrier = threading.Barrier(4)
    results: list[Committed | AlreadyCommitted] = []

    def work(seed: int) -> None:
        features = make_features(seed=seed)
        barrier.wait()
        results.append(commit(storage, feature_set, features))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({result.record.sha256 for result in results}) == 1
    assert sum(isinstance(result, Committed) for result in results) == 1
    assert len(keys(storage, "commits")) == 1


def test_a_commit_key_that_holds_something_else_is_a_conflict(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    features = make_features()
    record = commit(storage, feature_set, features).record
    reading = replace(record.reading, source=SourceIdentity(1, "other"))
    storage.put(record.commit_key, replace(record, reading=reading).to_json())
    with pytest.raises(ConflictError, match=record.commit_key):
        commit(storage, feature_set, features)
    storage.put(record.commit_key, b"{}")
    with pytest.raises(IntegrityError, match=record.commit_key):
        find_commit(storage, feature_set, features.slide_id, features.reading.source, features.reading.mpp)


@pytest.mark.parametrize(
    "change", [{"encoder": {"id": "other", "dim": 8}}, {"tiling": {"spec": {}}}, {"encoder": {"id": "toy", "dim": 8}}]
)
def test_features_of_another_set_are_refused(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make, change: dict[str, object]
) -> None:
    with pytest.raises(SlideError, match="slide s1"):
        commit(storage, feature_set, make_features(**change))
    assert keys(storage) == []


def test_a_commit_serves_a_source_of_its_sha256_or_of_an_unknown_one(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    record = commit(storage, feature_set, make_features(source_sha256="a" * 64)).record
    assert record.reading.source_sha256 == "a" * 64
    for verified in ("", "a" * 64):
        again = commit(storage, feature_set, make_features(source_sha256=verified))
        assert again == AlreadyCommitted(record)


def test_a_file_that_differs_only_between_the_sampled_blocks_is_not_taken_for_the_committed_one(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    first = commit(storage, feature_set, make_features(source_sha256="a" * 64)).record
    with pytest.raises(SlideError, match=f"slide s1.*{'a' * 64}.*{'b' * 64}") as caught:
        commit(storage, feature_set, make_features(source_sha256="b" * 64, seed=2))
    assert caught.value.reason is FailureReason.SOURCE_HASH_MISMATCH
    assert keys(storage) == sorted([first.commit_key, first.key])


def test_a_promised_dimension_is_kept(storage: LocalStorage, feature_set: FeatureSet, make_features: Make) -> None:
    longer = replace(feature_set, encoder={**feature_set.encoder, "dim": 16})
    with pytest.raises(SlideError, match="length 8"):
        commit(storage, longer, make_features())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"schema_version": 1}', b'{"schema_version": 2}', b"\xff"])
def test_what_is_no_record_is_an_integrity_error_naming_its_place(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="the-place"):
        CommitRecord.from_json(data, "the-place")
