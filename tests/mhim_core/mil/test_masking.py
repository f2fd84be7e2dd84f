"""What the student is shown. Small bags, ties, votes, subsets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.mil.draws import Draws
from mhim_core.mil.masking import high_ratio_at, mask_high, mask_instances, rank_instances, split_recycled
from mhim_core.mil.model_options import MhimOptions, StepSchedule, TokenOrder
from mhim_core.types import BagId

DRAWS = Draws(0, 0, BagId("a"))


def scores(num: int, heads: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(heads, num, generator=torch.Generator().manual_seed(seed))


def test_ratio_zero_masks_nothing_and_keeps_bag_order() -> None:
    options = MhimOptions(high_mask_ratio=0.0)
    masks = mask_instances(scores(50), 0.0, options, DRAWS)
    assert masks.kept.tolist() == list(range(50))
    assert len(masks.masked) == 0


def test_the_highest_scores_are_hidden() -> None:
    score = scores(200)
    masks = mask_instances(score, 0.03, MhimOptions(), DRAWS)
    assert len(masks.masked) == math.ceil(200 * 0.03)
    assert score[0, masks.masked].min() > score[0, masks.kept].max()


@given(
    num=st.integers(1, 40),
    heads=st.sampled_from([1, 3]),
    high=st.floats(0, 1),
    subsample=st.floats(0.01, 1),
    low=st.floats(0, 1),
    random=st.floats(0, 1),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_kept_and_masked_part_the_bag_and_something_survives(
    num: int, heads: int, high: float, subsample: float, low: float, random: float
) -> None:
    options = MhimOptions(high_mask_subsample=subsample, v1_low_mask_ratio=low, v1_random_mask_ratio=random)
    masks = mask_instances(scores(num, heads), high, options, DRAWS)
    assert len(masks.kept) >= 1
    assert sorted(masks.kept.tolist() + masks.masked.tolist()) == list(range(num))
    assert masks.kept.tolist() == sorted(masks.kept.tolist())
    union = {*masks.high.tolist(), *masks.low.tolist(), *masks.random.tolist()}
    assert set(masks.masked.tolist()) <= union
    assert len(union) - len(masks.masked) in (0, 1)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_bags_of_fewer_than_four_pass_whole(num: int) -> None:
    options = MhimOptions(v1_random_mask_ratio=0.9, v1_low_mask_ratio=0.9)
    assert mask_instances(scores(num), 1.0, options, DRAWS).kept.tolist() == list(range(num))


@pytest.mark.parametrize("num", [4, 5, 6, 7])
def test_where_everything_would_be_hidden_the_lowest_score_survives(num: int) -> None:
    score = scores(num)
    assert mask_instances(score, 1.0, MhimOptions(), DRAWS).kept.tolist() == [int(score.argmin())]


def test_ties_go_to_the_lower_index() -> None:
    assert mask_high(torch.zeros(1, 10), 0.3, 1.0, DRAWS).tolist() == [0, 1, 2]


def test_subsampling_hides_a_random_share_of_a_larger_top() -> None:
    score = scores(100)
    top = set(rank_instances(score, 20)[:20].tolist())
    first = mask_high(score, 0.1, 0.5, DRAWS)
    second = mask_high(score, 0.1, 0.5, Draws(0, 1, BagId("a")))
    assert len(first) == len(second) == 10
    assert set(first.tolist()) | set(second.tolist()) <= top
    assert first.tolist() != second.tolist()


def test_a_subsample_below_the_ratio_draws_from_the_whole_bag() -> None:
    drawn = {
        index for epoch in range(60) for index in mask_high(scores(20), 0.5, 0.1, Draws(0, epoch, BagId("a"))).tolist()
    }
    assert drawn == set(range(20))
    assert len(mask_high(scores(20), 0.5, 0.1, DRAWS)) == 10


def test_heads_vote_and_the_mean_score_breaks_ties() -> None:
    score = torch.tensor([[9.0, 8.0, 1.0, 0.0, 0.0], [0.0, 9.0, 8.0, 1.0, 0.0], [0.0, 0.0, 7.0, 9.0, 2.0]])
    # top two of each head: {0, 1}, {1, 2}, {2, 3}; votes 1 2 2 1 0; means 3, 5.67, 5.33, 3.33, .67
    assert rank_instances(score, 2).tolist() == [1, 2, 3, 0, 4]


def test_the_low_mask_hides_the_smallest() -> None:
    score = scores(50)
    masks = mask_instances(score, 0.0, MhimOptions(v1_low_mask_ratio=0.2), DRAWS)
    assert len(masks.low) == 10
    assert score[0, masks.low].max() < score[0, masks.kept].min()


def test_the_random_mask_ignores_scores_and_is_redrawn() -> None:
    options = MhimOptions(v1_random_mask_ratio=0.5)
    first, again, later = (mask_instances(scores(50), 0.0, options, Draws(0, e, BagId("a"))).random for e in (0, 0, 1))
    assert first.tolist() == again.tolist() != later.tolist()
    assert len(first) == 25


@pytest.mark.parametrize(("num", "ratio", "entering"), [(90, 0.8, 18), (90, 0.1, 81), (10, 0.25, 7), (3, 0.1, 2)])
def test_the_kept_count_is_the_floor_of_the_kept_share(num: int, ratio: float, entering: int) -> None:
    kept = torch.arange(num) * 2
    split = split_recycled(kept, ratio, DRAWS)
    assert split.num_entering == entering
    assert sorted(split.rows.tolist()) == kept.tolist()


def test_the_sorted_order_draws_the_same_instances() -> None:
    shuffled, ordered = (split_recycled(torch.arange(50), 0.4, DRAWS, order) for order in TokenOrder)
    assert ordered.num_entering == shuffled.num_entering == 30
    assert shuffled.rows[:30].tolist() != ordered.rows[:30].tolist() == sorted(shuffled.rows[:30].tolist())
    assert ordered.rows[30:].tolist() == shuffled.rows[30:].tolist()


def test_a_bag_too_small_to_keep_any_enters_whole() -> None:
    split = split_recycled(torch.arange(4), 0.9, DRAWS)
    assert split.num_entering == 4
    assert split.rows.tolist() == [0, 1, 2, 3]


def test_random_ratio_zero_recycles_nothing() -> None:
    split = split_recycled(torch.arange(9), 0.0, DRAWS)
    assert split.num_entering == 9
    assert split.rows.tolist() == list(range(9))


def test_the_cosine_schedule_falls_from_the_ratio_to_nothing() -> None:
    options = MhimOptions(high_mask_ratio=0.05, high_mask_schedule=StepSchedule.cosine)
    assert high_ratio_at(options, 0, 100) == 0.05
    assert high_ratio_at(options, 50, 100) == pytest.approx(0.025)
    assert high_ratio_at(options, 100, 100) == 0
    assert high_ratio_at(MhimOptions(), 77, 100) == 0.03
