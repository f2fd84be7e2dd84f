"""Memory that a process and its child both see, for arrays that are too large for a pipe.

A pipe moves a batch of tiles by five copies, which takes longer than decoding it. Here the child copies it once into a
slot, and the parent's arrays lie where it was written. The memory is anonymous (memfd_create): it has no name in
/dev/shm, is not bounded by that file system's size, and is gone with the two processes, whoever killed them.
"""

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np

_ALIGNMENT = 64


class Span(NamedTuple):
    """Where a buffer lies within a slot, in bytes."""

    start: int
    stop: int


class SharedSlots:
    """The parent's side: which slots are free, and arrays in the others. A slot is free once no array lies in it."""

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        """Raises OSError where the system has no such memory."""
        self._slot_bytes = slot_bytes
        self._descriptor = os.memfd_create("mhim-tiles", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._descriptor, num_slots * slot_bytes)
            self._memory = mmap.mmap(self._descriptor, num_slots * slot_bytes)
        except OSError:
            os.close(self._descriptor)
            raise
        self._free: deque[int] = deque(range(num_slots))

    def take_all(self) -> list[int]:
        """Every free slot; they are the caller's until given back or read."""
        taken = []
        while self._free:
            taken.append(self._free.popleft())
        return taken

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def read(self, slot: int, spans: Sequence[Span]) -> list[memoryview]:
        """The buffers that were written there; gives the slot back when the last reference to any of them is gone."""
        whole = np.frombuffer(self._memory, np.uint8, self._slot_bytes, slot * self._slot_bytes)
        weakref.finalize(whole, self._free.append, slot).atexit = False
        buffer = memoryview(whole)  # type: ignore[arg-type]
        return [buffer[span.start : span.stop] for span in spans]

    def writer(self) -> "SlotWriter":
        """The child's side, to be passed to a process that is being started."""
        return SlotWriter(self._descriptor, self._slot_bytes)

    def close(self) -> None:
        """The memory stays as long as arrays lie in it."""
        os.close(self._descriptor)


class SlotWriter:
    """The child's side. Pickled while its process is started, it brings the descriptor along."""

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def write(self, slot: int, buffers: Sequence[memoryview]) -> list[Span] | None:
        """Copy contiguous buffers into a slot; None if they do not fit, or there is no memory."""
        spans, start = [], 0
        for buffer in buffers:
            spans.append(Span(start, start + buffer.nbytes))
            start += -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT
        if spans and spans[-1].stop > self.slot_bytes:
            return None
        if self._memory is None:
            try:
                self._memory = mmap.mmap(self._descriptor, 0)
            except OSError:
                return None
        for span, buffer in zip(spans, buffers, strict=True):
            at = slot * self.slot_bytes
            self._memory[at + span.start : at + span.stop] = buffer
        return spans

    def __getstate__(self) -> dict[str, Any]:
        return {"slot_bytes": self.slot_bytes, "descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["descriptor"].detach(), state["slot_bytes"])  # type: ignore[misc]
