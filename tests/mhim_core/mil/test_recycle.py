"""The global recycle network."""

import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.recycle import RecycleNetwork
from mhim_core.types import BagId


def network(num_queries: int = 5) -> RecycleNetwork:
    options = MhimOptions(recycle_queries=num_queries)
    recycle = build_model(10, 2, ModelOptions(embed_dim=16), options, seed="s", dtype=torch.float64).recycle
    assert recycle is not None
    return recycle


def instances(num: int) -> torch.Tensor:
    return torch.randn(num, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_there_is_one_token_per_query_whatever_the_bag() -> None:
    for num in (1, 2, 50):
        assert network(3)(instances(num)).shape == (3, 16)


def test_tokens_do_not_depend_on_the_order_or_repetition_of_instances() -> None:
    recycle, h = network(), instances(9)
    torch.testing.assert_close(recycle(h), recycle(h.flip(0)))
    torch.testing.assert_close(recycle(h), recycle(torch.cat([h, h])))


def test_queries_take_no_gradient_and_all_weights_do() -> None:
    recycle = network()
    recycle(instances(9)).square().sum().backward()
    assert "queries" not in dict(recycle.named_parameters())
    assert all(parameter.grad is not None for parameter in recycle.parameters())


def test_queries_move_towards_the_mean_token() -> None:
    recycle = network()
    before, token = recycle.queries.clone(), torch.ones(5, 16, dtype=torch.float64)
    recycle.move_queries(token, 0.9)
    torch.testing.assert_close(recycle.queries, 0.9 * before + 0.1 * token)


def test_equal_token_and_query_is_a_fixed_point_and_momentum_one_freezes() -> None:
    recycle = network()
    before = recycle.queries.clone()
    recycle.move_queries(before.clone(), 0.37)
    assert torch.equal(recycle.queries, before)
    recycle.move_queries(torch.ones_like(before), 1.0)
    assert torch.equal(recycle.queries, before)


def test_dropout_acts_in_training_only() -> None:
    recycle, h = network(), instances(9)
    assert torch.equal(recycle(h), recycle(h))
    assert (recycle(h, Draws(0, 0, BagId("a"))) == 0).any()
