"""The composition of the global batches."""

import pytest

from mhim_core.task import ClassTarget
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import global_batches, num_batches, share_of
from mhim_core.types import BagId

BAGS = [LabelledBag(BagId(f"b{index}"), ClassTarget(index % 2)) for index in range(11)]


@pytest.mark.parametrize("global_batch", [1, 2, 4, 11, 50])
def test_every_bag_comes_once_an_epoch(global_batch: int) -> None:
    batches = global_batches(BAGS, 1, 0, global_batch)
    assert sorted(turn.bag for batch in batches for turn in batch) == sorted(BAGS)
    assert all(turn.draw_id == turn.bag.bag_id for batch in batches for turn in batch)
    assert len(batches) == num_batches(len(BAGS), global_batch)
    assert all(len(batch) == global_batch for batch in batches[:-1])


def test_the_order_is_that_of_seed_and_epoch_and_not_of_the_table() -> None:
    first = global_batches(BAGS, 1, 0, 2)
    assert first == global_batches(BAGS[::-1], 1, 0, 2)
    assert first != global_batches(BAGS, 1, 1, 2)
    assert first != global_batches(BAGS, 2, 0, 2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_whole_bags_and_take_equally_many_steps(world_size: int) -> None:
    for batch in global_batches(BAGS, 1, 0, 3):
        shares = [share_of(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(bag for share in shares for bag in share) == sorted(batch)
