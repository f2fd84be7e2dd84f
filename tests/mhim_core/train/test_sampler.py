"""The composition of the global batches."""

from collections import Counter

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


WEIGHTS = [0.0, 2.0, 1.0, 1.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0, 1.0]


def turns(epoch: int, bags: list[LabelledBag] = BAGS, weights: list[float] = WEIGHTS) -> Counter[str]:
    batches = global_batches(bags, 1, epoch, 3, weights=weights)
    assert sum(map(len, batches)) == len(bags), "an epoch is as long as without weights"
    return Counter(turn.bag.bag_id for batch in batches for turn in batch)


def test_weights_share_the_turns_of_an_epoch_to_within_one() -> None:
    for epoch in range(20):
        drawn = turns(epoch)
        for bag, weight in zip(BAGS, WEIGHTS, strict=True):
            assert abs(drawn[bag.bag_id] - len(BAGS) * weight / sum(WEIGHTS)) < 1
        assert drawn["b0"] == drawn["b7"] == 0


def test_over_the_epochs_the_share_of_each_bag_is_its_weight_s() -> None:
    drawn: Counter[str] = Counter()
    for epoch in range(400):
        drawn += turns(epoch)
    for bag, weight in zip(BAGS, WEIGHTS, strict=True):
        assert drawn[bag.bag_id] / 400 == pytest.approx(len(BAGS) * weight / sum(WEIGHTS), abs=0.1)


def test_weighted_turns_do_not_depend_on_the_table_and_are_masked_anew() -> None:
    batches = global_batches(BAGS, 1, 0, 2, weights=WEIGHTS)
    assert batches == global_batches(BAGS[::-1], 1, 0, 2, weights=WEIGHTS[::-1])
    assert batches != global_batches(BAGS, 1, 1, 2, weights=WEIGHTS)
    assert batches != global_batches(BAGS, 2, 0, 2, weights=WEIGHTS)
    ids = [turn.draw_id for batch in batches for turn in batch]
    assert len(set(ids)) == len(ids)


def test_equal_weights_draw_every_bag_once() -> None:
    assert set(turns(0, weights=[0.1] * len(BAGS)).values()) == {1}
