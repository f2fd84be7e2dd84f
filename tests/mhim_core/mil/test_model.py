"""The model: size, initialisation, invariances."""

import pytest
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.model import AGGREGATORS, MilModel, build_model
from mhim_core.mil.options import AGGREGATOR_NAMES, Activation, MhimOptions, ModelOptions
from mhim_core.mil.recycle import queries_bound
from mhim_core.types import BagId

VARIANTS = [
    ModelOptions(embed_dim=16),
    ModelOptions(embed_dim=16, gated=True),
    ModelOptions(embed_dim=16, embed_activation=Activation.relu, attention_activation=Activation.tanh),
]


def bag(num: int, dim: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(options: ModelOptions, mhim: MhimOptions | None = None, seed: str = "s") -> MilModel:
    return build_model(10, 3, options, mhim, seed=seed, dtype=torch.float64)


def num_parameters(model: MilModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_abmil_has_the_papers_number_of_parameters() -> None:
    assert num_parameters(build_model(1024, 2, ModelOptions(), seed="s")) == 591_490
    assert num_parameters(build_model(1024, 2, ModelOptions(gated=True), seed="s")) == 591_490 + 512 * 128


def test_the_registry_and_the_options_name_the_same_aggregators() -> None:
    assert set(AGGREGATORS) == set(AGGREGATOR_NAMES)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_order_of_instances_does_not_matter(options: ModelOptions) -> None:
    model, x = make(options, MhimOptions()), bag(23)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    for append in (False, True):
        given, shuffled = model(x, append), model(x[order], append)
        torch.testing.assert_close(given.logits_C, shuffled.logits_C, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(given.attention_HN[:, :23][:, order], shuffled.attention_HN[:, :23])


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("num", [1, 2, 7])
def test_attention_sums_to_one_and_makes_the_bag_embedding(options: ModelOptions, num: int) -> None:
    model, x = make(options), bag(num)
    output = model(x)
    assert output.attention_HN.shape == (1, num)
    torch.testing.assert_close(output.attention_HN.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(output.attention_HN[0] @ model.embed_instances(x), output.feature_D)


def test_instance_evidence_sums_to_the_logits_less_the_bias() -> None:
    model, x = make(VARIANTS[0]), bag(9)
    h = model.embed_instances(x)
    output = model.aggregator(h)
    evidence = model.aggregator.instance_logits(h, output).sum(dim=0)
    torch.testing.assert_close(evidence + model.aggregator.head.bias, output.logits_C)


def test_the_recycled_tokens_change_inference_only_where_asked() -> None:
    model, x = make(VARIANTS[0], MhimOptions()), bag(9)
    assert torch.equal(model(x).logits_C, model(x, False).logits_C)
    assert not torch.equal(model(x).logits_C, model(x, True).logits_C)


def test_dropout_acts_only_with_draws() -> None:
    model, x = make(VARIANTS[0]), bag(9)
    assert torch.equal(model.embed_instances(x), model.embed_instances(x))
    assert (model.embed_instances(x, Draws(0, 0, BagId("a"))) == 0).any()


def test_initialisation_is_xavier_normal_with_zero_biases() -> None:
    model = build_model(1024, 2, ModelOptions(), MhimOptions(), seed="s").requires_grad_(False)
    assert abs(float(model.embed.weight.std()) - (2 / (1024 + 512)) ** 0.5) < 1e-4
    assert float(model.embed.bias.abs().max()) == 0
    assert model.recycle is not None
    assert float(model.recycle.norm.weight.min()) == float(model.recycle.norm.weight.max()) == 1
    bound = queries_bound(512)
    assert 0.95 * bound < float(model.recycle.queries.abs().max()) <= bound


def test_a_seed_gives_one_start_whatever_else_the_model_holds() -> None:
    plain, recycling, other = make(VARIANTS[0]), make(VARIANTS[0], MhimOptions()), make(VARIANTS[0], seed="t")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, recycling.state_dict()[name])
    assert not torch.equal(plain.embed.weight, other.embed.weight)


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    make(VARIANTS[0], MhimOptions())
    assert torch.equal(before, torch.get_rng_state())
