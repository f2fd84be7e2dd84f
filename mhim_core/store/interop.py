"""Other tools' bags as `BagSource`: folders of .h5 files, and classic multiple-instance sets in .npz."""

from __future__ import annotations

import copy
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mhim_core.errors import ConfigError, InputError, IntegrityError
from mhim_core.types import BagId

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FEATURE_NAMES = ("features", "feats")
"""The data set of features in CLAM's (and TRIDENT's) files, and in STAMP's."""
COORDS_NAME = "coords"


class H5Bags:
    """A `BagSource` over all `*.h5` files below a folder, one bag a file, its id the file's name without `.h5`.

    A file holds `features` (CLAM, TRIDENT) or `feats` (STAMP), N × D of floats, and `coords`, N × 2. Files of no
    instance are left out. Files are opened for every read, so that the source is picklable and holds none open.

    Raises InputError if the folder holds no bag, an id twice, or features of several lengths; IntegrityError naming
    the file if one is not such a file; ConfigError if h5py is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = sorted(self.folder.rglob("*.h5"), key=lambda path: (path.stem, path))
        repeated = sorted(stem for stem, count in Counter(path.stem for path in paths).items() if count > 1)
        if repeated:
            raise InputError(
                f"{self.folder}: several files for the bags {', '.join(repeated[:10])}; a bag's id is its file's name, "
                "so give the folder of one feature set"
            )
        shapes = {path: _read_shape(path) for path in paths}
        self._paths = {BagId(path.stem): path for path in paths if shapes[path].num}
        self._lengths = {bag_id: shapes[path].num for bag_id, path in self._paths.items()}
        dims = sorted({shapes[path].dim for path in self._paths.values()})
        if len(dims) != 1:
            described = f"features of lengths {dims}" if dims else f"{len(paths)} .h5 files, none with instances"
            raise InputError(f"{self.folder}: {described}; bags need one length")
        self._dim = dims[0]

    @property
    def dim(self) -> int:
        return self._dim

    def lengths(self) -> dict[BagId, int]:
        """The number of instances of every bag, sorted by id."""
        return dict(self._lengths)

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float32, instances in the file's order, a fresh tensor each time.

        Raises IntegrityError naming the file if it is damaged, changed or not finite; KeyError.
        """
        path = self._paths[bag_id]
        features = _read_features(path)
        if features.shape != (self._lengths[bag_id], self._dim):
            expected = (self._lengths[bag_id], self._dim)
            raise IntegrityError(f"{path} changed: its features are {features.shape}, they were {expected}")
        if not np.isfinite(features).all():
            raise IntegrityError(f"{path}: features are NaN or infinite")
        return torch.from_numpy(features)


class _Shape(NamedTuple):
    num: int
    dim: int


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("reading .h5 files needs h5py: pip install 'mhim[interop]'") from error
    return h5py  # type: ignore[no-any-return,unused-ignore]


def _open(path: Path) -> Any:
    # unlocked, since a lock cannot be taken on a read-only or shared file system
    return _h5py().File(path, "r", locking=False)


def _read_shape(path: Path) -> _Shape:
    try:
        with _open(path) as file:
            features, coords = _find_features(file, path), file.get(COORDS_NAME)
            if features.ndim != 2 or features.dtype.kind != "f" or features.shape[1] < 1:
                raise IntegrityError(
                    f"{path}: {features.name} is {features.dtype} of shape {features.shape}, expected floats, N × D"
                )
            num, dim = features.shape
            if getattr(coords, "shape", None) != (num, 2):
                described = "no coords" if coords is None else f"coords of shape {getattr(coords, 'shape', None)}"
                raise IntegrityError(f"{path}: {described}, expected ({num}, 2) beside {num} features")
            return _Shape(num, dim)
    except (OSError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be read as HDF5: {error}") from error


def _find_features(file: Any, path: Path) -> Any:
    present = [name for name in FEATURE_NAMES if hasattr(file.get(name), "shape")]
    if len(present) != 1:
        names = ", ".join(sorted(file)) or "nothing"
        raise IntegrityError(f"{path} holds {names}; expected exactly one of {' and '.join(FEATURE_NAMES)}")
    return file[present[0]]


def _read_features(path: Path) -> np.ndarray:
    try:
        # what float32 cannot hold becomes infinite, which the caller refuses
        with _open(path) as file, np.errstate(over="ignore"):
            values: np.ndarray = _find_features(file, path)[()].astype(np.float32)
            return values
    except (OSError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be read as HDF5: {error}") from error


class Statistics(NamedTuple):
    """Of instances, per feature; float64 (D,)."""

    mean: np.ndarray
    deviation: np.ndarray
    """1 where a feature is constant."""


class ClassicBags:
    """A `BagSource` over a classic set: an .npz of `X` (instances × D), and per instance `bag` (an id) and `label`.

    The label is the bag's, repeated. Bag ids are the ids' text. Instances stay in the file's order.

    Raw, or with every feature as (x - mean)/deviation, by `statistics`: take them from `measure` on a fold's training
    bags, never from bags that are tested on.

    Raises InputError if the file is absent, lacks an array, its arrays do not fit together, a value is not finite, or
    a bag has several labels.
    """

    def __init__(self, path: str | Path, statistics: Statistics | None = None) -> None:
        self.path = Path(path)
        arrays = _read_arrays(self.path)
        self._x = arrays.x
        names = [str(name) for name in arrays.bag.tolist()]
        self._rows: dict[BagId, list[int]] = {}
        self._labels: dict[BagId, int] = {}
        for row, (name, label) in enumerate(zip(names, arrays.label.tolist(), strict=True)):
            self._rows.setdefault(BagId(name), []).append(row)
            if self._labels.setdefault(BagId(name), label) != label:
                raise InputError(f"{self.path}: bag {name} has the labels {self._labels[BagId(name)]} and {label}")
        self._statistics = statistics

    @property
    def dim(self) -> int:
        return int(self._x.shape[1])

    def lengths(self) -> dict[BagId, int]:
        """The number of instances of every bag, in the order of first appearance."""
        return {bag_id: len(rows) for bag_id, rows in self._rows.items()}

    def labels(self) -> dict[BagId, int]:
        """The label of every bag, as the file states it."""
        return dict(self._labels)

    def measure(self, bag_ids: Iterable[BagId]) -> Statistics:
        """Mean and deviation over all instances of these bags. Raises InputError if there is none; KeyError."""
        rows = [row for bag_id in bag_ids for row in self._rows[bag_id]]
        if not rows:
            raise InputError(f"{self.path}: statistics need at least one bag")
        x = self._x[rows].astype(np.float64)
        deviation = x.std(axis=0)
        return Statistics(x.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def standardised(self, statistics: Statistics) -> ClassicBags:
        """The same set with these statistics."""
        twin = copy.copy(self)
        twin._statistics = statistics
        return twin

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float32, a fresh tensor each time. Raises KeyError."""
        x = self._x[self._rows[bag_id]]
        if self._statistics is not None:
            x = (x - self._statistics.mean) / self._statistics.deviation
        return torch.from_numpy(np.array(x, dtype=np.float32))


class _Arrays(NamedTuple):
    x: np.ndarray
    bag: np.ndarray
    label: np.ndarray


def _read_arrays(path: Path) -> _Arrays:
    try:
        # opened here, since np.load leaves a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            x, bag, label = file["X"], file["bag"], file["label"]
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}; a classic set holds X, bag and label") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npz: {error}") from error
    shapes = f"X {x.shape}, bag {bag.shape}, label {label.shape}"
    if x.ndim != 2 or 0 in x.shape or bag.shape != (len(x),) or label.shape != (len(x),):
        raise InputError(f"{path}: {shapes}; expected X of N × D, and N values in bag and label")
    if x.dtype.kind not in "fiu" or label.dtype.kind not in "iu":
        raise InputError(f"{path}: X is {x.dtype} and label {label.dtype}; expected numbers and whole numbers")
    if not np.isfinite(x).all():
        raise InputError(f"{path}: X holds NaN or infinite values")
    return _Arrays(x, bag, label)
