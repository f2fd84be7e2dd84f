"""How the workers of one training run communicate. The core knows a single process and torch.distributed.

Shape suffixes: W ranks, C elements of each rank's part.
"""

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mhim_core import errors


class Notice(Enum):
    """What a worker has been told about its end."""

    none = 0
    save = 1
    """It may end soon."""
    stop = 2
    """It is to end now."""


def no_notice() -> Notice:
    """Of a worker that is told nothing."""
    return Notice.none


class TrainContext(Protocol):
    """The group of workers. Every method but `notice` is collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    device: torch.device
    """Where this worker's tensors live."""

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the ranks, in place. Shapes and dtypes are equal on all ranks.

        In an order of the library's own: for counts, and for sums of which one rank alone holds what is not zero.
        """
        ...

    def transpose(self, rows_WC: Tensor) -> Tensor:
        """Row c of every rank to rank c: what comes back holds the rows that the W ranks had for this one, in order."""
        ...

    def all_gather(self, row_C: Tensor) -> Tensor:
        """The rows of all ranks in order (W × C), on every rank."""
        ...

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank; the others pass None."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    @property
    def notice(self) -> Callable[[], Notice]:
        """What this worker has been told; asked after every step, so it must not wait."""
        ...


class SingleProcess:
    """One worker."""

    rank = 0
    world_size = 1

    def __init__(self, device: str | torch.device = "cpu", notice: Callable[[], Notice] = no_notice) -> None:
        self.device, self.notice = torch.device(device), notice

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        pass

    def transpose(self, rows_WC: Tensor) -> Tensor:
        return rows_WC

    def all_gather(self, row_C: Tensor) -> Tensor:
        return row_C[None]

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        assert data is not None
        return data

    def barrier(self) -> None:
        pass


class ProcessGroupContext:
    """The default group of torch.distributed, which the caller has initialised (and bounds by its timeout)."""

    def __init__(self, device: str | torch.device = "cpu", notice: Callable[[], Notice] = no_notice) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device, self.notice = torch.device(device), notice

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)

    def transpose(self, rows_WC: Tensor) -> Tensor:
        received_WC = torch.empty_like(rows_WC)
        dist.all_to_all_single(received_WC, rows_WC)
        return received_WC

    def all_gather(self, row_C: Tensor) -> Tensor:
        gathered = row_C.new_empty(self.world_size * len(row_C))  # gloo takes it flat
        dist.all_gather_single(gathered, row_C)
        return gathered.view(self.world_size, len(row_C))

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        size = torch.tensor([len(data or b"")], device=self.device)
        dist.broadcast(size, src=0)
        buffer = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if data:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if len(buffer):
            dist.broadcast(buffer, src=0)
        return buffer.cpu().numpy().tobytes()

    def barrier(self) -> None:
        dist.barrier()


def from_rank_zero(context: TrainContext, work: Callable[[], bytes]) -> bytes:
    """What `work` returns on rank 0, on every rank. It runs on rank 0 only; if it raises, every rank raises.

    Otherwise the other ranks would wait for a broadcast that never comes. They raise an error of this project with the
    same class and message, and any other error as MhimError.
    """
    if context.rank != 0:
        return _unpack(context.broadcast_bytes(None))
    try:
        data = work()
    except Exception as error:
        context.broadcast_bytes(b"\1" + json.dumps([type(error).__name__, str(error)]).encode())
        raise
    context.broadcast_bytes(b"\0" + data)
    return data


def _unpack(message: bytes) -> bytes:
    if message[:1] == b"\0":
        return message[1:]
    name, text = json.loads(message[1:])
    known = getattr(errors, name, errors.MhimError)
    raise (errors.MhimError if known is errors.SlideError else known)(text)
