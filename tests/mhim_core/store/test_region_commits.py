"""A slide's regions are part of what a commit is of; where none are used, everything is as it was without them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mhim_core.errors import IntegrityError, SlideError
from mhim_core.features import TILE_CLASS, MppUsed, SlideFeatures, SourceIdentity
from mhim_core.fingerprint import fingerprint
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import Committed, commit, find_commit
from mhim_core.store.failures import attempt_digest
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.ledger import Ledger
from mhim_core.store.manifest import read_manifest, write_manifest
from mhim_core.store.record import commit_digest
from mhim_core.store.restore import check_source
from mhim_core.store.schema import decode_features, encode_features, feature_schema
from mhim_core.types import SlideId, SlideTask

Make = Callable[..., SlideFeatures]
OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


def test_a_commit_without_regions_has_the_digest_of_0_1() -> None:
    source, mpp = SourceIdentity(10, "ab"), MppUsed(0.5, 0.5, "slide")
    assert commit_digest(source, mpp) == fingerprint({"source": source, "mpp": mpp})
    assert len({commit_digest(source, mpp, regions) for regions in ("", OLD, NEW)}) == 3


def test_one_slide_by_two_annotations_is_two_commits_and_each_is_found_by_its_own(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    results = [commit(storage, feature_set, make_features("a", regions=regions)) for regions in ("", OLD, NEW)]
    assert all(isinstance(result, Committed) for result in results)
    source, mpp = results[0].record.reading.source, results[0].record.reading.mpp
    for result, regions in zip(results, ("", OLD, NEW), strict=True):
        present = find_commit(storage, feature_set, SlideId("a"), source, mpp, regions=regions)
        assert present == result.record
        assert present.reading.regions == regions
    assert find_commit(storage, feature_set, SlideId("a"), source, mpp, regions="c" * 64) is None
    with pytest.raises(SlideError):
        check_source(results[1].record, results[2].record.reading)


def test_a_changed_annotation_is_work_to_do_and_the_former_one_is_still_there(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    register(storage, feature_set)
    records = {r: commit(storage, feature_set, make_features("a", regions=r)).record for r in ("", OLD)}
    hint = records[OLD].reading.hint
    for manifested in records.values():
        write_manifest(storage, feature_set, {SlideId("a"): manifested})
        for regions, is_done in (("", True), (OLD, True), (NEW, False)):
            task = SlideTask(SlideId("a"), hint.uri, regions=regions)
            pending = Ledger(storage, feature_set).pending([task], hints=lambda task: hint, policy=SlidePolicy())
            assert (task in pending.todo) != is_done
            if is_done:
                assert pending.done[SlideId("a")].reading.regions == regions


def test_a_manifest_has_the_column_only_where_a_slide_has_regions(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    for regions in ("", OLD):
        entries = {
            SlideId(name): commit(storage, feature_set, make_features(name, regions=own)).record
            for name, own in (("a", regions), ("b", ""))
        }
        ref = write_manifest(storage, feature_set, entries)
        assert ("regions" in pq.read_schema(pa.BufferReader(storage.get(ref.key))).names) == bool(regions)
        read = read_manifest(storage, feature_set.fingerprint, ref.version, ref.sha256).entries
        assert {name: record.reading.regions for name, record in read.items()} == {"a": regions, "b": ""}
        assert read == entries


def test_a_failure_with_one_annotation_is_not_held_against_another() -> None:
    task = SlideTask(SlideId("a"), "a.svs")
    asked = {"source": "a.svs", "mpp_override": None, "sha256": None}
    assert attempt_digest(task, None) == fingerprint(asked)
    assert attempt_digest(task._replace(regions=OLD), None) != attempt_digest(task._replace(regions=NEW), None)


def test_the_classes_of_tiles_are_stored_beside_their_features(make_features: Make) -> None:
    features = make_features(num_tiles=6)
    order = np.array([3, 0, 5, 1, 4, 2])
    named = np.array(["Tumör", "", "Stroma", "Tumör", "", "x" * 200], object)
    shuffled = replace(
        features,
        features=features.features[order],
        coords_l0_px=features.coords_l0_px[order],
        tissue_share=features.tissue_share[order],
        background_share=features.background_share[order],
        columns={TILE_CLASS: named[order]},
    )
    data = encode_features(shuffled)
    table = decode_features(data, slide_id=SlideId("s1"), dim=8, num_tiles=6)
    assert table.columns[TILE_CLASS].tolist() == named.tolist()
    assert np.array_equal(table.features, features.features)
    plain = encode_features(features)
    assert pq.read_schema(pa.BufferReader(plain)).remove_metadata() == feature_schema(8)
    assert decode_features(plain, slide_id=SlideId("s1"), dim=8).columns == {}


def test_an_unknown_column_or_one_of_another_length_is_refused(make_features: Make) -> None:
    for columns in ({"mood": np.zeros(5)}, {TILE_CLASS: np.array(["a"] * 4, object)}):
        with pytest.raises(SlideError):
            encode_features(make_features(columns=columns))
    table = pq.read_table(pa.BufferReader(encode_features(make_features())))
    sink = pa.BufferOutputStream()
    pq.write_table(table.append_column("mood", pa.array(["good"] * 5)), sink)
    with pytest.raises(IntegrityError, match="mood"):
        decode_features(sink.getvalue().to_pybytes(), slide_id=SlideId("s1"), dim=8)


def test_where_a_feature_file_lies_does_not_depend_on_regions(
    storage: LocalStorage, feature_set: FeatureSet, make_features: Make
) -> None:
    record = commit(storage, feature_set, make_features("a", regions=OLD)).record
    assert record.key == layout.features_key(feature_set.fingerprint, SlideId("a"), record.sha256)
    assert record.from_json(record.to_json(), "here") == record
