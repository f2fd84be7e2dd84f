"""Which instances the student sees. Shape suffixes: see the package's docstring.

First the score-driven masks (high; low and random as options of ICCV 2023), then the random split into instances
that enter the aggregator and instances that are recycled (IJCV 2025).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import MhimOptions, StepSchedule, TokenOrder

MIN_MASKED_BAG = 4
"""Bags with fewer instances are passed whole."""


class Masks(NamedTuple):
    """Indices into the bag; each set is sorted."""

    kept: Int64[Tensor, "kept"]
    masked: Int64[Tensor, "masked"]
    """The union of the three below, without the instance released if all were masked."""
    high: Int64[Tensor, "high"]
    low: Int64[Tensor, "low"]
    random: Int64[Tensor, "random"]


class RecycleSplit(NamedTuple):
    """The student's instances: `rows[:num_entering]` enter the aggregator, the rest is recycled."""

    rows: Int64[Tensor, "rows"]
    num_entering: int


def high_ratio_at(options: MhimOptions, step: int, total_steps: int) -> float:
    """β_h at an optimizer step: constant, or β_h·½(1 + cos πt/T)."""
    if options.high_mask_schedule is StepSchedule.constant:
        return options.high_mask_ratio
    return options.high_mask_ratio * 0.5 * (1 + math.cos(math.pi * step / total_steps))


def mask_instances(score_HN: Float[Tensor, "H N"], high_ratio: float, options: MhimOptions, draws: Draws) -> Masks:
    """Unite the high, low and random masks; at least one instance survives, the lowest score being released."""
    num = score_HN.shape[1]
    device = score_HN.device
    none = torch.empty(0, dtype=torch.int64, device=device)
    if num < MIN_MASKED_BAG:
        return Masks(torch.arange(num, device=device), none, none, none, none)
    high = mask_high(score_HN, high_ratio, options.high_mask_subsample, draws)
    num_low = math.ceil(num * options.v1_low_mask_ratio)
    low = rank_instances(-score_HN, num_low)[:num_low].sort().values if num_low else none
    num_random = math.ceil(num * options.v1_random_mask_ratio)
    random = draws.sample("mask_random", num, num_random, device).sort().values if num_random else none

    hidden_N = torch.zeros(num, dtype=torch.uint8, device=device)
    for index_set in (high, low, random):
        hidden_N[index_set] = 1
    # one set alone has a known size; the size of a union of overlapping sets has to be read back from the device
    lone = len(high) + len(low) + len(random) == max(len(high), len(low), len(random))
    num_masked = len(high) + len(low) + len(random) if lone else int(hidden_N.sum())
    if num_masked == num:
        hidden_N[score_HN.mean(dim=0).argmin()] = 0
        num_masked -= 1
    order = hidden_N.argsort(stable=True)
    return Masks(order[: num - num_masked], order[num - num_masked :], high, low, random)


def mask_high(
    score_HN: Float[Tensor, "H N"], high_ratio: float, subsample: float, draws: Draws
) -> Int64[Tensor, "high"]:
    """The high-score mask, sorted: the top ⌈N·β/ρ⌉, of which a random share ρ is hidden."""
    ratio, subsample = candidate_share(high_ratio, subsample)
    num_candidates = math.ceil(score_HN.shape[1] * ratio)
    if num_candidates == 0:
        return torch.empty(0, dtype=torch.int64, device=score_HN.device)
    candidates = rank_instances(score_HN, num_candidates)[:num_candidates].sort().values
    if subsample == 1:
        return candidates
    num_drawn = math.ceil(num_candidates * subsample)
    drawn = draws.sample("mask_high", num_candidates, num_drawn, score_HN.device)
    return candidates[drawn].sort().values


def candidate_share(high_ratio: float, subsample: float) -> tuple[float, float]:
    """Which share of a bag are candidates for the high-score mask, and which share of these is hidden: β/ρ and ρ."""
    ratio = high_ratio / subsample
    return (1.0, high_ratio) if ratio > 1 else (ratio, subsample)


def rank_instances(score_HN: Float[Tensor, "H N"], num_voted: int) -> Int64[Tensor, "N"]:
    """All instances, best first. One head: by score. Several: each votes for its own top `num_voted`, then by votes,
    ties by the mean score over heads. Remaining ties always go to the lower index.
    """
    order_N = score_HN.mean(dim=0).argsort(descending=True, stable=True)
    if len(score_HN) == 1:
        return order_N
    top_HV = score_HN.argsort(dim=1, descending=True, stable=True)[:, :num_voted]
    votes_N = torch.zeros_like(order_N).scatter_add_(0, top_HV.flatten(), torch.ones_like(top_HV.flatten()))
    return order_N[votes_N[order_N].argsort(descending=True, stable=True)]


def split_recycled(
    kept: Int64[Tensor, "kept"], random_mask_ratio: float, draws: Draws, order: TokenOrder = TokenOrder.shuffled
) -> RecycleSplit:
    """Set a random share of the kept instances aside: ⌊N'·(1 - ratio)⌋ enter; if that is none, all do.

    Ratio 0 leaves the instances in bag order; otherwise those that enter are shuffled, or sorted if `order` says so.
    """
    num, num_in = len(kept), num_entering(len(kept), random_mask_ratio)
    if num_in == num:
        return RecycleSplit(kept, num)
    rows = kept[draws.permutation("recycle", num, kept.device)]
    if order is TokenOrder.sorted:
        rows = torch.cat([rows[:num_in].sort().values, rows[num_in:]])
    return RecycleSplit(rows, num_in)


def num_entering(num_kept: int, random_mask_ratio: float) -> int:
    """How many of a bag's kept instances enter the aggregator: ⌊N'·(1 - ratio)⌋, or all if that is none."""
    # (1 - .8) is .19999999999999996 as a double, and ⌊90 · that⌋ is 17; the published ⌊90 · .2⌋ is 18
    return math.floor(num_kept * round(1 - random_mask_ratio, 12)) or num_kept
