"""The masks of `masking` for all bags of a pack at once, by the same rules and the same draws.

Shape suffixes: see `packed`. How many rows of each bag there are follows from the bags' lengths, on the host, so that
nothing waits for the device; the exception is in `_num_hidden`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mhim_core.mil.draws import Draws
from mhim_core.mil.masking import MIN_MASKED_BAG, candidate_share, num_entering
from mhim_core.mil.model_options import MhimOptions, TokenOrder
from mhim_core.mil.packed import Pack


class PackedRows(NamedTuple):
    """Rows of a pack, bag after bag."""

    rows: Int64[Tensor, "rows"]
    lengths: list[int]
    """How many of each bag."""


class PackedSplit(NamedTuple):
    """The student's instances, bag after bag: of each, those that enter the aggregator before those recycled."""

    rows: Int64[Tensor, "rows"]
    num_entering: list[int]
    num_recycled: list[int]

    @property
    def lengths(self) -> list[int]:
        """Rows of each bag."""
        return [sum(parts) for parts in zip(self.num_entering, self.num_recycled, strict=True)]


def mask_pack(
    score_HN: Float[Tensor, "H N"], pack: Pack, high_ratio: float, options: MhimOptions, draws: Sequence[Draws]
) -> PackedRows:
    """The rows that `mask_instances` keeps of each bag, sorted. `draws`: of each bag."""
    high = _high(score_HN, pack, high_ratio, options.high_mask_subsample, draws)
    num_low = _shares(pack, options.v1_low_mask_ratio)
    low = PackedRows(_top(-score_HN, pack, num_low), num_low)
    num_random = _shares(pack, options.v1_random_mask_ratio)
    none = torch.arange(0, device=pack.device)
    drawn = [
        of_bag.sample("mask_random", length, num, pack.device) if num else none
        for of_bag, length, num in zip(draws, pack.lengths, num_random, strict=True)
    ]
    random = PackedRows(pack.rows(drawn), num_random)

    hidden_N = torch.zeros_like(pack.bag_of_rows)
    for index_set in (high, low, random):
        hidden_N.index_fill_(0, index_set.rows, 1)
    num_kept = []
    for bag, num_hidden in enumerate(_num_hidden(hidden_N, pack, (high, low, random))):
        start, length = pack.starts[bag], pack.lengths[bag]
        all_hidden = num_hidden == length
        if all_hidden:
            lowest = score_HN[:, start : start + length].mean(dim=0).argmin()
            hidden_N.index_fill_(0, start + lowest[None], 0)
        num_kept.append(length - num_hidden + all_hidden)
    # each bag's kept rows before its hidden ones, both in order
    order_N = (2 * pack.bag_of_rows + hidden_N).argsort(stable=True)
    return PackedRows(order_N[pack.first_rows(num_kept)], num_kept)


def split_pack(
    kept: PackedRows, random_mask_ratio: float, draws: Sequence[Draws], token_order: TokenOrder
) -> PackedSplit:
    """`split_recycled` of each bag."""
    entering = [num_entering(num, random_mask_ratio) for num in kept.lengths]
    device = kept.rows.device
    orders = [
        torch.arange(num, device=device) if num_in == num else of_bag.permutation("recycle", num, device)
        for num, num_in, of_bag in zip(kept.lengths, entering, draws, strict=True)
    ]
    pack = Pack(kept.lengths, device)
    rows = kept.rows[pack.rows(orders)]
    if token_order is TokenOrder.sorted:
        first = pack.first_rows(entering)
        rows = rows.index_copy(0, first, rows[first].sort().values)
    return PackedSplit(rows, entering, [num - num_in for num, num_in in zip(kept.lengths, entering, strict=True)])


def _high(score_HN: Tensor, pack: Pack, high_ratio: float, subsample: float, draws: Sequence[Draws]) -> PackedRows:
    """`mask_high` of each bag."""
    ratio, subsample = candidate_share(high_ratio, subsample)
    num_candidates = _shares(pack, ratio)
    candidates = _top(score_HN, pack, num_candidates)
    if subsample == 1:
        return PackedRows(candidates, num_candidates)
    drawn = [
        of_bag.sample("mask_high", num, math.ceil(num * subsample), pack.device) if num else candidates[:0]
        for num, of_bag in zip(num_candidates, draws, strict=True)
    ]
    rows = candidates[Pack(num_candidates, candidates.device).rows(drawn)]
    return PackedRows(rows, [len(of_bag) for of_bag in drawn])


def _shares(pack: Pack, ratio: float) -> list[int]:
    """How many of each bag a mask takes; none of a bag that is passed whole."""
    return [math.ceil(length * ratio) if length >= MIN_MASKED_BAG else 0 for length in pack.lengths]


def _top(score_HN: Tensor, pack: Pack, num_voted: list[int]) -> Tensor:
    """The best rows of each bag, sorted: the first `num_voted` of `rank_instances`."""
    best = pack.first_rows(num_voted)
    if len(best) == 0:
        return best
    order_N = pack.ranked(score_HN.mean(dim=0, keepdim=True))[0]
    if len(score_HN) > 1:
        voted_HV = pack.ranked(score_HN)[:, best]
        votes_N = torch.zeros_like(order_N).scatter_add_(0, voted_HV.flatten(), torch.ones_like(voted_HV.flatten()))
        order_N = order_N[pack.ranked(votes_N[order_N][None])[0]]
    return order_N[best].sort().values


def _num_hidden(hidden_N: Tensor, pack: Pack, masks: Sequence[PackedRows]) -> list[int]:
    """How many of each bag are hidden. The size of a union of overlapping masks (of ICCV 2023) has to be read back from
    the device, once for all bags."""
    sizes = list(zip(*(mask.lengths for mask in masks), strict=True))
    if all(sum(of_bag) == max(of_bag) for of_bag in sizes):
        return [max(of_bag) for of_bag in sizes]
    counts: list[int] = hidden_N.new_zeros(len(sizes)).scatter_add_(0, pack.bag_of_rows, hidden_N).tolist()
    return counts
