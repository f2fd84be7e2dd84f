"""Bags: read back verified, in float32, within a bounded memory."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mhim_core.bags import BagReads, BagSource, Beside
from mhim_core.errors import InputError, IntegrityError
from mhim_core.features import NO_PLACE_PX, MppUsed, SlideFeatures
from mhim_core.storage import LocalStorage
from mhim_core.store.bag_cache import BagCache, kept_bags
from mhim_core.store.bags import ParquetBags, PatientBags, bag_files
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.types import BagId, SlideId

BAG_BYTES = 5 * 8 * 2


class CountingStorage(LocalStorage):
    num_gets = 0

    def get(self, key: str) -> bytes:
        self.num_gets += 1
        return super().get(key)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path / "store")


@pytest.fixture
def entries(
    storage: CountingStorage, feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]
) -> dict[SlideId, CommitRecord]:
    slides = [make_features("b", seed=2), make_features("a", seed=1), make_features("none", num_tiles=0)]
    made = {slide.slide_id: commit(storage, feature_set, slide).record for slide in slides}
    storage.num_gets = 0
    return made


def test_bags_are_the_slides_with_tiles(storage: CountingStorage, entries: dict[SlideId, CommitRecord]) -> None:
    bags: BagSource = ParquetBags(storage, entries)
    assert bags.lengths() == {"a": 5, "b": 5}
    assert list(bags.lengths()) == ["a", "b"]
    assert bags.dim == 8
    assert storage.num_gets == 0


def test_a_bag_is_its_features_in_float32(
    storage: CountingStorage,
    entries: dict[SlideId, CommitRecord],
    make_features: Callable[..., SlideFeatures],
) -> None:
    bag = ParquetBags(storage, entries).read(BagId("a"))
    assert bag.dtype == torch.float32
    np.testing.assert_array_equal(bag.numpy(), make_features("a", seed=1).features.astype(np.float32))
    table = ParquetBags(storage, entries).read_table(BagId("a"))
    np.testing.assert_array_equal(table.coords_l0_px, make_features("a").coords_l0_px)


@pytest.mark.fault(15)
def test_a_flipped_byte_is_refused_naming_the_slide(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    key = entries[SlideId("a")].key
    data = storage.get(key)
    path = Path(storage.locate(key))
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    bags = ParquetBags(storage, entries, cache_gib=1)
    with pytest.raises(IntegrityError, match="slide a"):
        bags.read(BagId("a"))
    assert bags.read(BagId("b")).shape == (5, 8)


def test_a_file_that_is_gone_or_of_another_length_is_refused_naming_the_slide(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    longer = {SlideId("b"): replace(entries[SlideId("b")], num_tiles=6)}
    with pytest.raises(IntegrityError, match="slide b"):
        ParquetBags(storage, longer).read(BagId("b"))
    storage.delete(entries[SlideId("a")].key)
    with pytest.raises(IntegrityError, match="slide a"):
        ParquetBags(storage, entries).read(BagId("a"))


def test_a_cached_bag_is_not_read_again_and_cannot_be_spoilt(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    bags = ParquetBags(storage, entries, cache_gib=1)
    bags.read(BagId("a")).zero_()
    assert bags.read(BagId("a")).abs().sum() > 0
    assert storage.num_gets == 1


def test_memory_keeps_what_was_read_first_and_zero_keeps_nothing(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    bags = ParquetBags(storage, entries, cache_gib=1.5 * BAG_BYTES / 2**30)
    for bag_id in "abab":
        bags.read(BagId(bag_id))
    assert storage.num_gets == 3
    assert bags.reads == BagReads(memory=1, store=3, memory_bytes=BAG_BYTES)
    bags.forget(BagId("a"))
    for bag_id in "bba":
        bags.read(BagId(bag_id))
    assert bags.reads == BagReads(memory=2, store=5, memory_bytes=BAG_BYTES)
    uncached = ParquetBags(storage, entries)
    for _ in range(2):
        uncached.read(BagId("a"))
    assert uncached.reads == BagReads(store=2)


def test_what_the_disk_keeps_is_not_kept_in_memory_too_and_gives_the_same_bits(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord], tmp_path: Path
) -> None:
    files = bag_files([entries[SlideId("a")]])
    warnings: list[str] = []
    with BagCache(str(tmp_path / "cache"), files, 10**6, warnings.append) as disk:
        bags = ParquetBags(storage, entries, 1.0, disk)
        read = [bags.read_half(BagId(bag_id)) for bag_id in "ababab"]
        assert bags.reads == BagReads(
            disk=2, memory=2, store=2, memory_bytes=BAG_BYTES, disk_bytes=disk.num_written_bytes
        )
        uncached = ParquetBags(storage, entries)
        for bag_id, features in zip("ababab", read, strict=True):
            assert torch.equal(features.view(torch.int16), uncached.read_half(BagId(bag_id)).view(torch.int16))
    assert disk.num_written_bytes > BAG_BYTES
    assert warnings == []


def test_bags_travel_to_another_process_without_their_cache(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    bags = ParquetBags(storage, entries, cache_gib=1)
    bags.read(BagId("a"))
    copy = pickle.loads(pickle.dumps(bags))
    num_gets = copy.storage.num_gets
    assert torch.equal(copy.read(BagId("a")), bags.read(BagId("a")))
    assert copy.storage.num_gets == num_gets + 1


def test_no_tiles_at_all_or_two_lengths_are_bad_input(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord]
) -> None:
    with pytest.raises(InputError, match="none with tiles"):
        ParquetBags(storage, {SlideId("none"): entries[SlideId("none")]})
    with pytest.raises(InputError, match=r"\[8, 16\]"):
        ParquetBags(storage, {**entries, SlideId("a"): replace(entries[SlideId("a")], dim=16)})


def test_a_bag_that_is_not_there_is_a_key_error(storage: CountingStorage, entries: dict[SlideId, CommitRecord]) -> None:
    with pytest.raises(KeyError):
        ParquetBags(storage, entries).read(BagId("none"))


def a_number_a_tile(features: np.ndarray, coords_l0_px: np.ndarray) -> np.ndarray:
    return (coords_l0_px[:, :1] + (features[:, :1] > 0)).astype(np.int32)


PLACED = Beside("test", 1, a_number_a_tile)


def test_what_is_made_beside_the_features_is_made_once_and_kept_within_the_same_bound(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord], make_features: Callable[..., SlideFeatures]
) -> None:
    slide = make_features("a", seed=1)
    expected = a_number_a_tile(slide.features, slide.coords_l0_px)
    bags = ParquetBags(storage, entries, cache_gib=1.0)
    for _ in range(3):
        (array,) = bags.read_beside(BagId("a"), PLACED)
        assert array.dtype == np.int32
        assert np.array_equal(array, expected)
    assert storage.num_gets == 1
    assert bags.reads.memory_bytes == expected.nbytes
    bags = ParquetBags(storage, entries)
    for _ in range(2):
        bags.read_beside(BagId("a"), PLACED)
    assert storage.num_gets == 3, "nothing is kept where nothing may be"


def test_what_is_made_beside_the_features_is_kept_on_the_node_s_disk_under_its_own_name(
    storage: CountingStorage, entries: dict[SlideId, CommitRecord], tmp_path: Path
) -> None:
    files = bag_files(entries.values(), (PLACED,))
    assert len(files) == len({file.name for file in files}) == 4
    for num_gets in (1, 1):
        with BagCache(str(tmp_path), files, 2**20, pytest.fail, lasting=True) as disk:
            bags = PatientBags(ParquetBags(storage, entries, disk=disk), {BagId("p"): (SlideId("a"),)})
            (array,) = bags.read_beside(BagId("p"), PLACED)
            assert array.shape == (5, 1)
            assert storage.num_gets == num_gets
    digest = entries[SlideId("a")].sha256
    assert len(kept_bags(str(tmp_path), [digest])) == 0
    assert len(kept_bags(str(tmp_path), [digest], (PLACED.name,))) == 1


def test_places_that_were_never_known_are_an_error_that_names_the_slide(
    storage: CountingStorage, feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]
) -> None:
    slide = make_features("a", seed=1)
    cut = replace(slide.cut, tiling={"imported": "test"})
    reading = replace(slide.reading, mpp=MppUsed(0.0, 0.0, "imported"))
    places = np.full_like(slide.coords_l0_px, NO_PLACE_PX)
    slide, own_set = (
        replace(slide, cut=cut, reading=reading, coords_l0_px=places),
        replace(feature_set, tiling=cut.tiling),
    )
    record = commit(storage, own_set, slide).record
    with pytest.raises(InputError, match=r"slide a.*without coordinates"):
        ParquetBags(storage, {record.slide_id: record}).read_beside(BagId("a"), PLACED)
