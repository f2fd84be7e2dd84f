"""How the workers of one training run communicate. The core knows a single process and torch.distributed."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mhim_core import errors


class TrainContext(Protocol):
    """The group of workers. Every method is collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    device: torch.device
    """Where this worker's tensors live."""

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the ranks, in place. Shapes and dtypes are equal on all ranks."""
        ...

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank; the others pass None."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...


class SingleProcess:
    """One worker."""

    rank = 0
    world_size = 1

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        pass

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        assert data is not None
        return data

    def barrier(self) -> None:
        pass


class ProcessGroupContext:
    """The default group of torch.distributed, which the caller has initialised (and bounds by its timeout)."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(device)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)

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
