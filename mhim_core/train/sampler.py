"""Which bags make up each optimizer step: a function of (seed, epoch, global_batch) alone, never of the workers."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from mhim_core.train.plan import LabelledBag

T = TypeVar("T")


def global_batches(
    bags: Sequence[LabelledBag], seed: int, epoch: int, global_batch: int
) -> list[tuple[LabelledBag, ...]]:
    """Every bag once, in an order drawn anew each epoch, `global_batch` to a step; the last step may hold fewer.

    The order of `bags` does not matter: each bag's place comes from a hash of (seed, epoch, bag).
    """
    order = sorted(bags, key=lambda bag: hashlib.sha256(f"{seed}\0{epoch}\0{bag.bag_id}".encode()).digest())
    return [tuple(order[start : start + global_batch]) for start in range(0, len(order), global_batch)]


def num_batches(num_bags: int, global_batch: int) -> int:
    """Optimizer steps per epoch."""
    return -(-num_bags // global_batch)


def share_of(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """This rank's whole items of a global batch, possibly none: it takes the step all the same."""
    return items[rank::world_size]
