"""Folders of .h5 files, as CLAM, TRIDENT and STAMP write them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mhim_core.errors import ConfigError, InputError, IntegrityError
from mhim_core.storage import open_file
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
    open_file(path).close()  # HDF5 would wait at a pipe for ever
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
