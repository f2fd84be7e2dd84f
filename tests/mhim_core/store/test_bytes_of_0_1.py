"""What version 0.1 wrote, read and written again: the same bytes under the same names (`tests/fixtures/0.1`)."""

import json
from pathlib import Path

import pytest

from mhim_core.errors import IntegrityError
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceIdentity, TileCut
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet, list_feature_sets
from mhim_core.store.manifest import read_manifest, write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import decode_features, encode_features

STORE = Path(__file__).parents[2] / "fixtures/0.1/store"


@pytest.fixture
def old() -> LocalStorage:
    return LocalStorage(STORE)


@pytest.fixture
def feature_set(old: LocalStorage) -> FeatureSet:
    (only,) = list_feature_sets(old)
    return only


def committed(old: LocalStorage, feature_set: FeatureSet) -> list[CommitRecord]:
    keys = [entry.key for entry in old.list(layout.commits_prefix(feature_set.fingerprint))]
    return [CommitRecord.from_json(old.get(key), key) for key in keys]


def features_of(old: LocalStorage, record: CommitRecord) -> SlideFeatures:
    """What 0.1 had in its hands when it wrote the file."""
    table = decode_features(old.get(record.key), slide_id=record.slide_id, dim=record.dim, expect_sha256=record.sha256)
    stated = table.metadata
    return SlideFeatures(
        slide_id=table.slide_id,
        features=table.features,
        coords_l0_px=table.coords_l0_px,
        tissue_share=table.tissue_share,
        background_share=table.background_share,
        reading=SlideReading(
            source=SourceIdentity(**stated["source"]),
            hint=record.reading.hint,
            source_sha256="",
            mpp=MppUsed(*stated["mpp"], record.reading.mpp.source),
            effective_mpp=tuple(stated["effective_mpp"]),
            upsample=stated["upsample"],
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(
            tiling=stated["tiling"],
            tile_size_l0_px=tuple(stated["tile_size_l0_px"]),
            width_l0_px=stated["width_l0_px"],
            height_l0_px=stated["height_l0_px"],
        ),
        encoder=stated["encoder"],
        versions=stated["versions"],
        num_bad_tiles=stated["num_bad_tiles"],
    )


def test_commit_records_keep_their_bytes_and_their_keys(old: LocalStorage, feature_set: FeatureSet) -> None:
    records = committed(old, feature_set)
    assert len(records) == 27
    for record in records:
        assert old.get(record.commit_key) == record.to_json()


def test_feature_files_keep_their_bytes(old: LocalStorage, feature_set: FeatureSet) -> None:
    for record in committed(old, feature_set)[:5]:
        assert encode_features(features_of(old, record)) == old.get(record.key)


def test_a_manifest_of_the_same_commits_has_the_same_bytes(
    old: LocalStorage, feature_set: FeatureSet, tmp_path: Path
) -> None:
    first = read_manifest(old, feature_set.fingerprint, version=1)
    ref = write_manifest(LocalStorage(tmp_path), feature_set, first.entries)
    assert ref == first.ref


def test_the_same_features_are_committed_under_the_same_keys(
    old: LocalStorage, feature_set: FeatureSet, tmp_path: Path
) -> None:
    record = committed(old, feature_set)[0]
    again = commit(LocalStorage(tmp_path), feature_set, features_of(old, record)).record
    assert (again.key, again.commit_key, again.sha256) == (record.key, record.commit_key, record.sha256)
    assert again.reading == record.reading


@pytest.mark.parametrize("gone", ["source", "mpp", "upsample"])
def test_a_record_without_a_part_of_its_reading_is_refused_by_name(
    old: LocalStorage, feature_set: FeatureSet, gone: str
) -> None:
    values = json.loads(committed(old, feature_set)[0].to_json())
    del values[gone]
    with pytest.raises(IntegrityError, match=gone):
        CommitRecord.from_json(json.dumps(values), "here")
