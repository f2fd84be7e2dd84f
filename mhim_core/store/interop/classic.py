"""Classic multiple-instance sets (Musk, Tiger, Fox, …) in .npz files."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from mhim_core.errors import InputError
from mhim_core.storage import open_file
from mhim_core.types import BagId

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


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
        with open_file(path) as stream, np.load(stream, allow_pickle=False) as file:
            x, bag, label = file["X"], file["bag"], file["label"]
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}; a classic set holds X, bag and label") from error
    except MemoryError:
        raise
    except Exception as error:  # a foreign file may break the reader in any way
        raise InputError(f"{path} cannot be read as .npz: {str(error) or type(error).__name__}") from error
    shapes = f"X {x.shape}, bag {bag.shape}, label {label.shape}"
    if x.ndim != 2 or 0 in x.shape or bag.shape != (len(x),) or label.shape != (len(x),):
        raise InputError(f"{path}: {shapes}; expected X of N × D, and N values in bag and label")
    if x.dtype.kind not in "fiu" or label.dtype.kind not in "iu":
        raise InputError(f"{path}: X is {x.dtype} and label {label.dtype}; expected numbers and whole numbers")
    if not np.isfinite(x).all():
        raise InputError(f"{path}: X holds NaN or infinite values")
    return _Arrays(x, bag, label)
