"""Other tools' bags: read as they are, refused where they are not what they claim."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mhim_core.bags import BagSource
from mhim_core.errors import ConfigError, InputError, IntegrityError
from mhim_core.store.interop import ClassicBags, H5Bags
from mhim_core.types import BagId

h5py = pytest.importorskip("h5py")


def write_h5(path: Path, num: int = 3, dim: int = 4, name: str = "features", **replaced: np.ndarray | None) -> None:
    arrays: dict[str, np.ndarray | None] = {
        name: np.arange(num * dim, dtype=np.float16).reshape(num, dim),
        "coords": np.zeros((num, 2), np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in (arrays | replaced).items():
            if values is not None:
                file[key] = values


@pytest.mark.parametrize("name", ["features", "feats"])
def test_features_come_back_as_float32_in_file_order(tmp_path: Path, name: str) -> None:
    write_h5(tmp_path / "a.h5", name=name)
    bags: BagSource = H5Bags(tmp_path)
    x = bags.read(BagId("a"))
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.arange(12.0).reshape(3, 4))


def test_bags_are_sorted_by_id_and_files_without_instances_left_out(tmp_path: Path) -> None:
    write_h5(tmp_path / "b.h5", num=2)
    write_h5(tmp_path / "h5_files" / "a.h5", num=5)
    write_h5(tmp_path / "empty.h5", num=0)
    bags = H5Bags(tmp_path)
    assert list(bags.lengths().items()) == [("a", 5), ("b", 2)]
    assert bags.dim == 4


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5")
    bags = H5Bags(tmp_path)
    bags.read(BagId("a")).zero_()
    assert bags.read(BagId("a")).sum() > 0


def test_h5_bags_are_picklable_and_an_unknown_bag_is_a_key_error(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5")
    bags = pickle.loads(pickle.dumps(H5Bags(tmp_path)))
    assert len(bags.read(BagId("a"))) == 3
    with pytest.raises(KeyError):
        bags.read(BagId("b"))


def test_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "one" / "a.h5")
    write_h5(tmp_path / "two" / "a.h5")
    with pytest.raises(InputError, match="several files for the bags a;"):
        H5Bags(tmp_path)


def test_features_of_several_lengths_are_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", dim=4)
    write_h5(tmp_path / "b.h5", dim=5)
    with pytest.raises(InputError, match=r"lengths \[4, 5\]"):
        H5Bags(tmp_path)


def test_a_folder_without_bags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 \.h5 files"):
        H5Bags(tmp_path)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"features": None}, "holds coords; expected exactly one of features and feats"),
        ({"feats": np.zeros((3, 4), np.float32)}, "exactly one"),
        ({"features": np.zeros((1, 3, 4), np.float32)}, "N × D"),
        ({"features": np.zeros((3, 4), np.int32)}, "expected floats"),
        ({"features": np.zeros((3, 0), np.float32)}, "N × D"),
        ({"coords": None}, "no coords"),
        ({"coords": np.zeros((2, 2), np.int64)}, "coords of shape"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(
    tmp_path: Path, replaced: dict[str, np.ndarray | None], message: str
) -> None:
    write_h5(tmp_path / "odd.h5", **replaced)
    with pytest.raises(IntegrityError, match=rf"odd\.h5.*{message}"):
        H5Bags(tmp_path)


def test_a_group_in_the_place_of_features_is_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "odd.h5", features=None)
    with h5py.File(tmp_path / "odd.h5", "a") as file:
        file.create_group("features")
    with pytest.raises(IntegrityError, match="exactly one"):
        H5Bags(tmp_path)


def test_a_pipe_is_refused_by_name_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "odd.h5")
    with pytest.raises(IntegrityError, match=r"odd\.h5 cannot be read.*pipe"):
        H5Bags(tmp_path)


def test_a_file_that_is_not_hdf5_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd.h5").write_bytes(b"version https://git-lfs")
    with pytest.raises(IntegrityError, match=r"odd\.h5 cannot be read"):
        H5Bags(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_features_that_are_not_finite_in_float32_are_refused(tmp_path: Path, value: float) -> None:
    features = np.zeros((3, 4))
    features[1, 2] = value
    write_h5(tmp_path / "a.h5", features=features)
    bags = H5Bags(tmp_path)
    with pytest.raises(IntegrityError, match=r"a\.h5: features are NaN or infinite"):
        bags.read(BagId("a"))


def test_a_file_that_changed_or_went_is_noticed(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", num=3)
    bags = H5Bags(tmp_path)
    write_h5(tmp_path / "a.h5", num=2)
    with pytest.raises(IntegrityError, match="changed"):
        bags.read(BagId("a"))
    (tmp_path / "a.h5").unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        bags.read(BagId("a"))


def test_without_h5py_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_h5(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"mhim\[interop\]"):
        H5Bags(tmp_path)


def test_real_bags_of_clam_and_stamp_are_read(shared_data: Path) -> None:
    clam, stamp = H5Bags(shared_data / "bags/atlas10x"), H5Bags(shared_data / "bags/foreign")
    assert (clam.dim, len(clam.lengths())) == (1280, 21)
    assert (stamp.dim, list(stamp.lengths().values())) == (512, [777])
    for bags in (clam, stamp):
        for bag_id, length in bags.lengths().items():
            assert bags.read(bag_id).shape == (length, bags.dim)


def write_npz(path: Path, **replaced: np.ndarray) -> Path:
    arrays = {
        "X": np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [100.0, 1.0]], np.float32),
        "bag": np.array([2, 1, 2, 3]),
        "label": np.array([1, 0, 1, 0], np.int8),
    }
    np.savez(path, **arrays | replaced)
    return path


def test_classic_bags_gather_their_instances_in_file_order(tmp_path: Path) -> None:
    bags = ClassicBags(write_npz(tmp_path / "set.npz"))
    assert bags.lengths() == {"2": 2, "1": 1, "3": 1}
    assert bags.labels() == {"2": 1, "1": 0, "3": 0}
    assert torch.equal(bags.read(BagId("2")), torch.tensor([[0.0, 1.0], [4.0, 1.0]]))


def test_standardised_by_the_given_bags_alone(tmp_path: Path) -> None:
    raw = ClassicBags(write_npz(tmp_path / "set.npz"))
    bags = raw.standardised(raw.measure([BagId("1"), BagId("2")]))
    together = torch.cat([bags.read(BagId("2")), bags.read(BagId("1"))])
    torch.testing.assert_close(together[:, 0].mean(), torch.tensor(0.0))
    torch.testing.assert_close(together[:, 0].std(correction=0), torch.tensor(1.0))
    assert torch.equal(together[:, 1], torch.zeros(3)), "a constant feature is centred, not divided by 0"
    assert bags.read(BagId("3"))[0, 0] > 50
    assert torch.equal(raw.read(BagId("3")), torch.tensor([[100.0, 1.0]])), "the raw set stays raw"


def test_statistics_of_no_bag_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one bag"):
        ClassicBags(write_npz(tmp_path / "set.npz")).measure([])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"label": np.array([1, 0, 0, 0])}, "bag 2 has the labels 1 and 0"),
        ({"label": np.array([1, 0, 1])}, "N values"),
        ({"bag": np.zeros((4, 1), int)}, "N values"),
        ({"X": np.zeros(4)}, "N × D"),
        ({"X": np.full((4, 2), np.nan)}, "NaN"),
        ({"label": np.zeros(4)}, "whole numbers"),
    ],
)
def test_a_classic_set_that_does_not_fit_together_is_refused(
    tmp_path: Path, replaced: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ClassicBags(write_npz(tmp_path / "set.npz", **replaced))


def test_a_classic_set_lacking_an_array_or_no_set_at_all_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 2)))
    with pytest.raises(InputError, match="holds X, bag and label"):
        ClassicBags(tmp_path / "set.npz")
    (tmp_path / "other.npz").write_bytes(b"PK\x03\x04 and no more")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("other.npz", "absent.npz", "pipe.npz"):
        with pytest.raises(InputError, match="cannot be read"):
            ClassicBags(tmp_path / name)


def test_a_damaged_classic_set_is_refused_whatever_is_wrong_with_it(
    tmp_path: Path, damaged_zips: Callable[[bytes], dict[str, bytes]]
) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, X=np.arange(4000.0).reshape(500, 8), bag=np.arange(500), label=np.zeros(500, int))
    for what, data in damaged_zips(path.read_bytes()).items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"set\.npz cannot be read as \.npz"):
            pytest.fail(f"{what}: {ClassicBags(path).lengths()}")


@pytest.mark.parametrize(("name", "num_bags", "dim"), [("Musk1", 92, 166), ("Tiger", 200, 230), ("Fox", 200, 230)])
def test_real_classic_sets_are_read(shared_data: Path, name: str, num_bags: int, dim: int) -> None:
    bags: BagSource = ClassicBags(shared_data / f"bags/classic/{name}.npz")
    assert (len(bags.lengths()), bags.dim) == (num_bags, dim)
