"""Which bags make up each optimizer step: a function of (seed, epoch, global_batch) alone, never of the workers."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from mhim_core.task import ClassTarget
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

T = TypeVar("T")


class Sampled(NamedTuple):
    """A bag's turn in an epoch."""

    bag: LabelledBag
    repeat: int = 0
    """How many turns it had before in this epoch; above 0 only in balanced sampling."""

    @property
    def draw_id(self) -> BagId:
        """Names this turn's random numbers: each turn of a repeated bag is masked anew."""
        return BagId(f"{self.bag.bag_id}\0{self.repeat}") if self.repeat else self.bag.bag_id


def global_batches(
    bags: Sequence[LabelledBag], seed: int, epoch: int, global_batch: int, balanced: bool = False
) -> list[tuple[Sampled, ...]]:
    """The epoch's bags in an order drawn anew, `global_batch` to a step; the last step may hold fewer.

    Every bag comes once; `balanced`: as many turns in all, as many of each class (±1), a class's bags taking turns.
    The order of `bags` does not matter: each place comes from a hash of (seed, epoch, bag, repeat).
    """

    def place(turn: Sampled) -> bytes:
        return hashlib.sha256(f"{seed}\0{epoch}\0{turn.draw_id}".encode()).digest()

    turns = _balanced(sorted(bags, key=lambda bag: place(Sampled(bag)))) if balanced else [Sampled(bag) for bag in bags]
    order = sorted(turns, key=place)
    return [tuple(order[start : start + global_batch]) for start in range(0, len(order), global_batch)]


def _balanced(order: Sequence[LabelledBag]) -> list[Sampled]:
    """As many turns as bags; of a class with more bags than turns, the first in `order` take part."""
    members: dict[int, list[LabelledBag]] = defaultdict(list)
    for bag in order:
        assert isinstance(bag.target, ClassTarget)
        members[bag.target.class_index].append(bag)
    turns = []
    for position, class_index in enumerate(sorted(members)):
        own = members[class_index]
        num_turns = len(order) // len(members) + (position < len(order) % len(members))
        turns += [Sampled(own[turn % len(own)], turn // len(own)) for turn in range(num_turns)]
    return turns


def num_batches(num_bags: int, global_batch: int) -> int:
    """Optimizer steps per epoch."""
    return -(-num_bags // global_batch)


def share_of(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """This rank's items of a global batch, possibly none: it takes part in the step all the same."""
    return items[rank::world_size]
