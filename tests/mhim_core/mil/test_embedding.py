"""Embedding in chunks against the plain chain of layers: gather, linear, activation, dropout."""

import pytest
import torch

from mhim_core.mil import embedding, large_bags
from mhim_core.mil.draws import Draws
from mhim_core.mil.masking import RecycleSplit
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.types import BagId

DRAWS = Draws(0, 0, BagId("a"))
ROWS = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:40]
SPLIT = RecycleSplit(ROWS, 25)
X = torch.randn(50, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[False, True], ids=["small", "large"])
def chunk_of_seven(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CACHED_CHUNK", 7)
    if request.param:
        monkeypatch.setattr(large_bags, "CHUNK", 16)


def make(activation: Activation = Activation.gelu, rate: float = 0.25) -> MilModel:
    options = ModelOptions(embed_dim=24, embed_activation=activation, dropout=rate)
    return build_model(10, 2, options, MhimOptions(recycle_queries=3), seed="s", dtype=torch.float64)


def plain(model: MilModel, rows: torch.Tensor | None = None) -> torch.Tensor:
    x = X.double() if rows is None else X.double()[rows]
    return DRAWS.dropout("embed", model.activation(model.embed(x)), model.dropout)


def gradients(model: MilModel, *outputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(sum(x.square().sum() for x in outputs), model.embed.parameters()))


def assert_close(actual: torch.Tensor | list[torch.Tensor], expected: torch.Tensor | list[torch.Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("chunk_of_seven")
@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.3])
def test_it_is_the_plain_chain_of_layers(activation: Activation, rate: float) -> None:
    model = make(activation, rate)
    whole = model.embed_instances(X, DRAWS)  # of another precision than the model
    entering, recycled = model.embed_split(X, SPLIT, DRAWS)
    assert entering[25:].isnan().all()
    expected, expected_of_rows = plain(model), plain(model, ROWS)
    assert_close(whole, expected)
    assert_close(torch.cat([entering[:25], recycled]), expected_of_rows)
    fast = gradients(model, whole, entering[:25], recycled)
    assert_close(fast, gradients(model, expected, expected_of_rows))
    # of one part alone
    entering, recycled = model.embed_split(X, SPLIT, DRAWS)
    assert_close(gradients(model, recycled), gradients(model, plain(model, ROWS)[25:]))


@pytest.mark.thorough
@pytest.mark.usefixtures("chunk_of_seven")
def test_gradients_are_those_of_finite_differences() -> None:
    model = make()

    def embedded(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layer = torch.nn.utils.stateless._reparametrize_module
        with layer(model.embed, {"weight": weight, "bias": bias}):
            entering, recycled = model.embed_split(X, SPLIT, DRAWS)
        return entering[:25], recycled

    assert torch.autograd.gradcheck(embedded, tuple(p.detach().requires_grad_() for p in model.embed.parameters()))


def test_placed_tokens_lie_behind_the_instances_and_take_their_gradient() -> None:
    model = make()
    tokens = torch.randn(3, 24, dtype=torch.float64).requires_grad_()
    fast = embedding.place_tokens(model.embed_split(X, SPLIT, DRAWS).entering_KD, tokens)
    slow = torch.cat([plain(model, ROWS)[:25], tokens])
    assert_close(fast, slow)
    for result, expected in zip(
        *(torch.autograd.grad(x.sin().sum(), [tokens, *model.embed.parameters()]) for x in (fast, slow)), strict=True
    ):
        assert_close(result, expected)


def test_a_split_of_what_is_embedded_is_a_gather_with_its_gradient() -> None:
    model, h = make(), plain(make()).detach().requires_grad_()
    plan = model.plan_rows(SPLIT)
    entering, recycled = embedding.split_rows(h, plan)
    assert_close(torch.cat([entering[:25], recycled]), h[ROWS])
    assert entering[25:].isnan().all()
    (fast,) = torch.autograd.grad(entering[:25].sin().sum() + recycled.square().sum(), h)
    (slow,) = torch.autograd.grad(h[ROWS[:25]].sin().sum() + h[ROWS[25:]].square().sum(), h)
    assert_close(fast, slow)
    (fast,) = torch.autograd.grad(embedding.split_rows(h, plan).recycled_RD.sum(), h)
    assert float(fast.sum()) == 15 * 24


def test_a_model_that_recycles_nothing_leaves_no_room() -> None:
    model, all_enter = make(), RecycleSplit(ROWS, 40)
    assert model.embed_split(X, all_enter, DRAWS).entering_KD.shape == (40, 24)
    without = build_model(10, 2, ModelOptions(embed_dim=24), seed="s", dtype=torch.float64)
    entering, recycled = without.embed_split(X, SPLIT)
    assert (len(entering), len(recycled)) == (25, 15)


def test_features_that_take_a_gradient_get_it() -> None:
    x = X.double().requires_grad_()
    make().embed_instances(x).sum().backward()
    assert x.grad is not None
