"""The global recycle network."""

import pytest
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.recycle import HEAD_DIM, NUM_HEADS, RecycleNetwork
from mhim_core.types import BagId


def network(num_queries: int = 5) -> RecycleNetwork:
    options = MhimOptions(recycle_queries=num_queries)
    recycle = build_model(10, 2, ModelOptions(embed_dim=16), options, seed="s", dtype=torch.float64).recycle
    assert recycle is not None
    return recycle


def instances(num: int) -> torch.Tensor:
    return torch.randn(num, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def written_out(recycle: RecycleNetwork, h_RD: torch.Tensor, draws: Draws | None) -> torch.Tensor:
    """MCA(LN(R), LN(G)) with every key and value."""
    query = recycle.to_q(recycle.norm(recycle.queries)).view(-1, NUM_HEADS, HEAD_DIM).transpose(0, 1)
    key, value = (
        part.view(-1, NUM_HEADS, HEAD_DIM).transpose(0, 1) for part in recycle.to_kv(recycle.norm(h_RD)).chunk(2, dim=1)
    )
    attention = (query @ key.transpose(1, 2) * HEAD_DIM**-0.5).softmax(dim=2)
    if draws is not None:
        attention = draws.dropout("recycle_attention", attention, recycle.dropout)
    tokens = recycle.to_out((attention @ value).transpose(0, 1).flatten(1))
    return tokens if draws is None else draws.dropout("recycle_output", tokens, recycle.dropout)


@pytest.mark.parametrize("draws", [None, Draws(0, 0, BagId("a"))], ids=["inference", "training"])
@pytest.mark.parametrize("num", [1, 2, 60])
def test_tokens_and_gradients_are_those_of_the_network_written_out(num: int, draws: Draws | None) -> None:
    recycle, h = network(), (instances(num) + 0.5).requires_grad_()
    with torch.no_grad():
        for parameter in recycle.norm.parameters():
            parameter += torch.linspace(-0.3, 0.3, 16, dtype=torch.float64)
    result, expected = recycle(h, draws), written_out(recycle, h, draws)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    fast, slow = (torch.autograd.grad(x.sin().sum(), [h, *recycle.parameters()]) for x in (result, expected))
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-11)


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
