"""Randomness named by (seed, epoch, bag, purpose)."""

import torch

from mhim_core.mil.draws import Draws
from mhim_core.types import BagId

A, B = BagId("a"), BagId("b")
KNOWN_ORDER = [9, 4, 11, 2, 8, 5, 1, 3, 0, 10, 6, 7]


def test_a_draw_depends_on_its_key_and_on_nothing_drawn_before() -> None:
    first, second = Draws(1, 2, A), Draws(1, 2, A)
    first.dropout("other", torch.ones(5, 5), 0.25)
    assert torch.equal(first.permutation("x", 50), second.permutation("x", 50))


def test_seed_epoch_bag_stream_and_purpose_each_change_the_draw() -> None:
    keys = [Draws(1, 2, A), Draws(9, 2, A), Draws(1, 9, A), Draws(1, 2, B), Draws(1, 2, A).stream("s")]
    orders = {tuple(draws.permutation("x", 40).tolist()) for draws in keys}
    orders.add(tuple(Draws(1, 2, A).permutation("y", 40).tolist()))
    assert len(orders) == 6


def test_known_bits_never_change() -> None:
    assert Draws(2021, 0, BagId("slide-1")).permutation("recycle", 12).tolist() == KNOWN_ORDER


def test_a_permutation_holds_every_index_once_and_a_sample_is_its_start() -> None:
    draws = Draws(0, 0, A)
    assert sorted(draws.permutation("x", 1000).tolist()) == list(range(1000))
    assert torch.equal(draws.sample("x", 1000, 30), draws.permutation("x", 1000)[:30])


def test_samples_are_uniform_over_the_items() -> None:
    counts = torch.zeros(10)
    for epoch in range(2000):
        counts[Draws(0, epoch, A).sample("x", 10, 3)] += 1
    assert (counts - 600).abs().max() < 5 * (600 * 0.7) ** 0.5


def test_dropout_keeps_the_asked_share_and_the_expectation() -> None:
    for rate in (0.25, 0.1, 0.5):
        dropped = Draws(0, 0, A).dropout("x", torch.ones(1000, 512, dtype=torch.float64), rate)
        assert abs(float((dropped == 0).double().mean()) - rate) < 0.003
        assert abs(float(dropped.mean()) - 1) < 0.004
        assert dropped.unique().numel() == 2


def test_dropout_is_the_same_in_both_precisions() -> None:
    x = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    in_64 = Draws(0, 0, A).dropout("x", x, 0.25)
    in_32 = Draws(0, 0, A).dropout("x", x.float(), 0.25)
    assert torch.equal(in_64 == 0, in_32 == 0)


def test_dropout_of_rate_zero_is_the_identity() -> None:
    x = torch.randn(3, 3)
    assert Draws(0, 0, A).dropout("x", x, 0.0) is x


def test_the_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    Draws(0, 0, A).dropout("x", torch.ones(9, 9), 0.25)
    assert torch.equal(before, torch.get_rng_state())
