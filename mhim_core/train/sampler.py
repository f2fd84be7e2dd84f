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
    """How many turns it had before in this epoch; above 0 only in balanced or weighted sampling."""

    @property
    def draw_id(self) -> BagId:
        """Names this turn's random numbers: each turn of a repeated bag is masked anew."""
        return BagId(f"{self.bag.bag_id}\0{self.repeat}") if self.repeat else self.bag.bag_id


def global_batches(
    bags: Sequence[LabelledBag],
    seed: int,
    epoch: int,
    global_batch: int,
    balanced: bool = False,
    weights: Sequence[float] = (),
) -> list[tuple[Sampled, ...]]:
    """The epoch's bags in an order drawn anew, `global_batch` to a step; the last step may hold fewer.

    Every bag comes once; `balanced`: as many turns in all, as many of each class (±1), a class's bags taking turns.
    `weights`: one a bag, and as many turns in all, shared by them (`_weighted`); instead of `balanced`.
    The order of `bags` does not matter: each place comes from a hash of (seed, epoch, bag, repeat).
    """

    def place(turn: Sampled) -> bytes:
        return hashlib.sha256(f"{seed}\0{epoch}\0{turn.draw_id}".encode()).digest()

    if weights:
        assert not balanced
        weight_of = {bag.bag_id: weight for bag, weight in zip(bags, map(float, weights), strict=True)}
        by_place = sorted(bags, key=lambda bag: place(Sampled(bag)))
        turns = _weighted(by_place, [weight_of[bag.bag_id] for bag in by_place], _start(seed, epoch))
    elif balanced:
        turns = _balanced(sorted(bags, key=lambda bag: place(Sampled(bag))))
    else:
        turns = [Sampled(bag) for bag in bags]
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


def _weighted(order: Sequence[LabelledBag], weights: Sequence[float], start: int) -> list[Sampled]:
    """As many turns as bags: each bag its share of them by weight, rounded down or up so that over the epochs the share
    is met on average. A bag of weight 0 never has a turn.

    Systematic sampling: the shares lie end to end, and a turn is a point on them; points are one apart, the first at
    start / 2^48. In whole numbers, since rounding would decide where a point meets an end.
    """
    ratios = [weight.as_integer_ratio() for weight in weights]
    denominator = max(ratio[1] for ratio in ratios)  # a float's is a power of two
    counts = [numerator * (denominator // own) for numerator, own in ratios]
    total, turns, reached, begun = sum(counts), [], 0, 0
    for bag, count in zip(order, counts, strict=True):
        reached += count
        # the points before the end of this bag's share, reached / total · N
        ended = max(0, -(-((reached * len(order) << _START_BITS) - start * total) // (total << _START_BITS)))
        turns += [Sampled(bag, turn) for turn in range(ended - begun)]
        begun = ended
    return turns


_START_BITS = 48


def _start(seed: int, epoch: int) -> int:
    """From 0 to below 2^48."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{epoch}\0start".encode()).digest()[: _START_BITS // 8], "big")


def num_batches(num_bags: int, global_batch: int) -> int:
    """Optimizer steps per epoch."""
    return -(-num_bags // global_batch)


def share_of(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """This rank's items of a global batch, possibly none: it takes part in the step all the same."""
    return items[rank::world_size]
