"""The interface through which training reads bags: Parquet, caches, h5 files and classic sets implement it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from mhim_core.types import BagId

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor


class BagSource(Protocol):
    """Bags by name. Implementations are picklable and may be read from several threads."""

    @property
    def dim(self) -> int:
        """D: the length of every instance's feature."""
        ...

    def lengths(self) -> dict[BagId, int]:
        """N of every bag that can be read, in a fixed order; none is 0."""
        ...

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float32 on the CPU, instances in a fixed order. The caller may change it.

        Raises `IntegrityError` naming the bag if what is stored is not what was committed, `KeyError` if there is no
        such bag.
        """
        ...


@runtime_checkable
class HalfBags(Protocol):
    """A source that stores its bags as float16, so that a large one need not be held in float32 as well."""

    def read_half(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """What `read` gives as float16, which is exact. It may be the source's own copy, which must not be changed."""
        ...


class Beside(NamedTuple):
    """What is made once of a slide's features and its tiles' places, and kept beside the features."""

    name: str
    """Of what it is; another one where other numbers are made."""
    width: int
    """Numbers per tile."""
    make: "Callable[[np.ndarray, np.ndarray], np.ndarray]"
    """From features (N, D) and places (N, 2), x and y in level-0 pixels: int32 (N, width)."""


@runtime_checkable
class PlacedBags(Protocol):
    """A source that knows where the tiles lie. Only aggregators that ask for places read them."""

    def read_beside(self, bag_id: BagId, beside: Beside) -> "Sequence[np.ndarray]":
        """What `beside` makes of each slide of the bag, in the order of its instances; it must not be changed.

        Raises `InputError` naming the slide if the places of its tiles are not known, else as `read`.
        """
        ...


class BagReads(NamedTuple):
    """Where bags came from, in reads, and what is kept for the next ones. Add with `+`."""

    device: int = 0
    memory: int = 0
    disk: int = 0
    """The node's."""
    store: int = 0
    """Fetched from the store and decoded."""
    device_bytes: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    """Written there meanwhile."""

    def __add__(self, other: "BagReads") -> "BagReads":  # type: ignore[override]  # the sum of counts, no longer tuple
        return BagReads(*(own + more for own, more in zip(self, other, strict=True)))
