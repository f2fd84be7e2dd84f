"""Bags that stay on a worker's device between epochs and fits, as float16."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from mhim_core.bags import BagReads, BagSource, Beside, HalfBags, PlacedBags
from mhim_core.types import BagId

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor


class CountedBags(BagSource, HalfBags, PlacedBags, Protocol):
    """A source of float16 bags that counts where they come from."""

    @property
    def reads(self) -> BagReads:
        """How often each place was read, and what is kept now."""
        ...


class KeptBags(CountedBags, Protocol):
    """One that keeps bags in memory."""

    def forget(self, bag_id: BagId) -> None:
        """Keep it no longer in memory."""
        ...


class DeviceBags:
    """A `BagSource` that keeps the bags of another one on a device, from their first reading on.

    As many as `max_bytes` hold; the others come from the source at every reading. `warn` is told where that is so.
    """

    def __init__(self, source: KeptBags, device: torch.device, max_bytes: int, warn: Callable[[str], None]) -> None:
        self._source, self._device, self._room, self._warn = source, device, max_bytes, warn
        self._kept: dict[BagId, Tensor] = {}
        self._num_bytes = self._num_reads = 0
        self._lock = threading.Lock()
        needed = 2 * source.dim * sum(source.lengths().values())
        if needed > max_bytes:
            warn(
                f"the bags take {needed / 2**30:.1f} GiB, of which {device} has room for {max_bytes / 2**30:.1f}; "
                "the others come from memory, or from the store, in every epoch"
            )

    @property
    def dim(self) -> int:
        return self._source.dim

    @property
    def reads(self) -> BagReads:
        """As the source's, with those that needed none of it."""
        with self._lock:
            return self._source.reads + BagReads(device=self._num_reads, device_bytes=self._num_bytes)

    def lengths(self) -> dict[BagId, int]:
        """The number of instances of every bag."""
        return self._source.lengths()

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """The source's own, as float32 on the CPU. Raises as it does."""
        return self._source.read(bag_id)

    def read_beside(self, bag_id: BagId, beside: Beside) -> Sequence[np.ndarray]:
        """The source's own, in memory: a hundredth of the features."""
        return self._source.read_beside(bag_id, beside)

    def read_half(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float16, on the device where it is kept, else on the CPU; it must not be changed.

        Raises as the source does.
        """
        with self._lock:
            kept = self._kept.get(bag_id)
            if kept is not None:
                self._num_reads += 1
                return kept
        features = self._source.read_half(bag_id)
        with self._lock:
            if features.nbytes > self._room or bag_id in self._kept:
                return features
            try:
                kept = features.to(self._device)
            except torch.OutOfMemoryError:
                self._room = 0
                self._warn(f"{self._device} has no room for more bags: the others come from memory, or from the store")
                return features
            self._kept[bag_id] = kept
            self._room -= features.nbytes
            self._num_bytes += features.nbytes
        self._source.forget(bag_id)
        return kept


def room_on(device: torch.device, num_sharing: float) -> int:
    """Bytes for bags on a GPU that so many workers share: half of what is free now, since steps need memory too."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free / 2 / num_sharing)
