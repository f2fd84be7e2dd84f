"""What a store holds, without a request a slide."""

from collections.abc import Callable
from pathlib import Path

from mhim_core.features import SlideFeatures
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.contents import list_contents
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.manifest import write_manifest
from mhim_core.types import SlideId

Make = Callable[..., SlideFeatures]


class NoCommits(LocalStorage):
    """Where commits are neither read nor listed."""

    def get(self, key: str) -> bytes:
        assert not key.startswith((layout.COMMITS, layout.FEATURES + "/"))
        return super().get(key)

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        assert not prefix.startswith((layout.COMMITS, layout.FEATURES + "/"))
        return super().list(prefix)


def test_a_set_is_counted_by_its_newest_manifest(feature_set: FeatureSet, make_features: Make, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    register(storage, feature_set)
    records = [
        commit(storage, feature_set, make_features(name, num_tiles)).record for name, num_tiles in (("a", 3), ("b", 0))
    ]
    write_manifest(storage, feature_set, {SlideId("a"): records[0]})
    write_manifest(storage, feature_set, {SlideId("b"): records[1]})
    (contents,) = list_contents(NoCommits(tmp_path))
    assert contents.totals == (2, 1, 3, records[0].num_bytes)
    assert (contents.versions, contents.problem) == ((1, 2), "")
    assert contents.newest_s == (tmp_path / layout.manifest_key(feature_set.fingerprint, 2)).stat().st_mtime


def test_a_set_without_a_manifest_is_counted_by_its_commits(
    feature_set: FeatureSet, make_features: Make, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path)
    register(storage, feature_set)
    for name in ("a", "b", "c"):
        commit(storage, feature_set, make_features(name))
    (contents,) = list_contents(storage)
    assert (contents.totals, contents.newest_s, contents.num_committed) == (None, None, 3)


def test_a_damaged_record_hides_no_other_set(feature_set: FeatureSet, make_features: Make, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    register(storage, feature_set)
    record = commit(storage, feature_set, make_features("a")).record
    write_manifest(storage, feature_set, {SlideId("a"): record})
    storage.put(layout.manifest_key("f" * 64, 1), b"PAR1")
    mine, other = sorted(list_contents(storage), key=lambda contents: contents.fingerprint == "f" * 64)
    assert (mine.totals, mine.problem) == ((1, 0, 5, record.num_bytes), "")
    assert (other.totals, other.feature_set, other.problem != "") == (None, None, True)
