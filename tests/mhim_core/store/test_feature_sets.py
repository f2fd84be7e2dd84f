"""Feature sets: what is fingerprinted, registered once, and chosen by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from mhim_core.errors import ConflictError, InputError, IntegrityError
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set, list_feature_sets, register


def other_tiling(feature_set: FeatureSet, target_mpp: float) -> FeatureSet:
    return replace(feature_set, tiling={"spec": {"target_mpp": target_mpp, "tile_px": 256}})


def test_only_what_changes_the_numbers_is_fingerprinted(feature_set: FeatureSet) -> None:
    assert (
        replace(feature_set, encoder={**feature_set.encoder, "licence": "MIT"}).fingerprint == feature_set.fingerprint
    )
    coarser = other_tiling(feature_set, 1.0)
    bf16 = replace(feature_set, encoder_identity={**feature_set.encoder_identity, "precision": "bfloat16"})
    assert len({feature_set.fingerprint, coarser.fingerprint, bf16.fingerprint}) == 3
    assert coarser.encoder_fingerprint == feature_set.encoder_fingerprint
    assert bf16.tiling_fingerprint == feature_set.tiling_fingerprint


def test_registering_twice_keeps_the_first_card(tmp_path: Path, feature_set: FeatureSet) -> None:
    storage = LocalStorage(tmp_path)
    register(storage, feature_set)
    register(storage, replace(feature_set, encoder={**feature_set.encoder, "licence": "MIT"}))
    assert list_feature_sets(storage) == [feature_set]


def test_a_key_that_describes_another_set_is_a_conflict(tmp_path: Path, feature_set: FeatureSet) -> None:
    storage = LocalStorage(tmp_path)
    storage.put(layout.feature_set_key(feature_set.fingerprint), other_tiling(feature_set, 2.0).to_json())
    with pytest.raises(ConflictError):
        register(storage, feature_set)
    with pytest.raises(IntegrityError):
        list_feature_sets(storage)


def test_the_only_set_is_the_choice_and_an_open_choice_lists_the_differences(
    tmp_path: Path, feature_set: FeatureSet
) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(InputError, match="holds no features"):
        choose_feature_set(storage)
    register(storage, feature_set)
    assert choose_feature_set(storage) == feature_set
    coarser = other_tiling(feature_set, 1.0)
    register(storage, coarser)
    with pytest.raises(InputError, match=r"2 feature sets fit") as caught:
        choose_feature_set(storage, encoder_id="toy")
    assert "target_mpp=0.5" in str(caught.value)
    assert "target_mpp=1.0" in str(caught.value)
    assert "tile_px" not in str(caught.value)


def test_a_set_is_chosen_by_tiling_encoder_or_fingerprint(tmp_path: Path, feature_set: FeatureSet) -> None:
    storage = LocalStorage(tmp_path)
    coarser = other_tiling(feature_set, 1.0)
    for registered in (feature_set, coarser):
        register(storage, registered)
    assert choose_feature_set(storage, tiling={"target_mpp": 1.0, "tile_px": 256}) == coarser
    assert choose_feature_set(storage, tiling={"spec.target_mpp": 0.5}) == feature_set
    assert choose_feature_set(storage, fingerprint=coarser.fingerprint[:10]) == coarser
    for asked in ({"encoder_id": "uni"}, {"tiling": {"target_mpp": 0.3}}, {"tiling": {"no_such": 1}}):
        with pytest.raises(InputError, match="no feature set fits") as caught:
            choose_feature_set(storage, **asked)  # type: ignore[arg-type]
        assert "toy (D=8)" in str(caught.value)


def test_a_card_without_a_dimension_is_refused(feature_set: FeatureSet) -> None:
    with pytest.raises(InputError, match="dim"):
        replace(feature_set, encoder={"id": "toy"})
    with pytest.raises(IntegrityError):
        FeatureSet.from_json(b"[]")
    with pytest.raises(IntegrityError, match="schema version 99"):
        FeatureSet.from_json(b'{"schema_version": 99}')


def test_a_set_that_does_not_state_a_later_setting_has_its_neutral_value(
    tmp_path: Path, feature_set: FeatureSet
) -> None:
    storage = LocalStorage(tmp_path)
    register(storage, feature_set)
    assert choose_feature_set(storage, tiling={"reader": "openslide"}, neutral={"reader": "openslide"}) == feature_set
    with pytest.raises(InputError, match="no feature set fits"):
        choose_feature_set(storage, tiling={"reader": "cucim"}, neutral={"reader": "openslide"})
    with pytest.raises(InputError, match="no feature set fits"):
        choose_feature_set(storage, tiling={"reader": "openslide"})


def test_a_folder_of_another_tool_s_features_is_told_from_an_empty_one(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "trident")
    storage.put("20x_256px/features_uni/slide1.h5", b"")
    with pytest.raises(InputError, match=r"slide1\.h5.*mhim import"):
        choose_feature_set(storage)
