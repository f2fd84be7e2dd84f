"""The flip radius equals |margin|/‖w‖ where a model is linear, and is the same each time."""

import math

import pytest
import torch

from mhim_core.errors import ConfigError, InputError
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import ModelOptions
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.flip_radius import FlipOptions, feature_spread, flip_radius, quantile_among
from mhim_core.train.inference import Voter
from mhim_core.types import BagId

DIM = 6
TASK = FittedTask(kind=TaskKind.classification, classes=("normal", "tumour"))


def linear_model(weight: torch.Tensor, bias: float) -> MilModel:
    """Logits (0, w·mean(x) + bias): so far from zero, GELU is the identity."""
    model = build_model(DIM, 2, ModelOptions(aggregator="mean", embed_dim=DIM, dropout=0.0), seed="x")
    with torch.no_grad():
        model.embed.weight.copy_(torch.eye(DIM))
        model.embed.bias.fill_(50.0)
        model.aggregator.head.weight.copy_(torch.stack([torch.zeros(DIM), weight]))
        model.aggregator.head.bias.copy_(torch.tensor([0.0, bias - 50.0 * float(weight.sum())]))
    return model.requires_grad_(False).eval().double()


@pytest.mark.parametrize("margin", [-0.4, 1.7])
def test_of_a_linear_model_it_is_the_margin_over_the_norm_to_a_hundredth(margin: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, DIM, generator=generator, dtype=torch.float64)
    weight = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.0], dtype=torch.float64)
    voter = Voter(linear_model(weight, margin - float(x.mean(dim=0) @ weight)), False, TASK)
    spread = feature_spread([x])
    assert spread == pytest.approx(float(x.std(dim=0, correction=0).mean()) * math.sqrt(DIM))
    found = flip_radius(x, [voter], spread, BagId("a"), FlipOptions(num_chains=2, num_steps=3))
    assert found.radius == pytest.approx(abs(margin) / float(weight.norm()) / spread, rel=0.01)
    assert found.to_class == int(margin < 0)
    assert flip_radius(x, [voter] * 2, spread, BagId("a"), FlipOptions(num_chains=2, num_steps=3)).radius == (
        pytest.approx(found.radius, rel=0.01)
    ), "of two equal models"


def test_the_same_bag_and_seed_give_the_same_radius_of_an_attention_model() -> None:
    options = FlipOptions(num_chains=3, num_steps=4)
    model = build_model(DIM, 2, ModelOptions(aggregator="abmil", embed_dim=8), seed="y").requires_grad_(False).eval()
    x = torch.randn(30, DIM, generator=torch.Generator().manual_seed(2))
    voter = Voter(model, False, TASK)
    first = flip_radius(x, [voter], 1.0, BagId("a"), options)
    state = torch.random.get_rng_state()
    assert flip_radius(x, [voter], 1.0, BagId("a"), options) == first
    assert (torch.random.get_rng_state() == state).all(), "no global randomness"
    assert 0 < first.radius < math.inf
    small = FlipOptions(num_chains=3, num_steps=4, least=1e-4, largest=first.radius / 3)
    assert flip_radius(x, [voter], 1.0, BagId("a"), small).radius == math.inf, "well inside nothing is found"


def test_quantiles_and_what_is_refused() -> None:
    assert quantile_among(1.0, [0.5, 2.0, 3.0, math.inf]) == 0.75
    assert math.isnan(quantile_among(1.0, []))
    with pytest.raises(InputError):
        feature_spread([torch.ones(4, DIM)])
    with pytest.raises(ConfigError):
        FlipOptions(num_chains=0)
    regression = FittedTask(kind=TaskKind.regression)
    voter = Voter(linear_model(torch.ones(DIM), 0.0), False, regression)
    with pytest.raises(InputError):
        flip_radius(torch.ones(4, DIM), [voter], 1.0, BagId("a"))
