"""MamMIL as an aggregator: what its order depends on, what it learns from a layout, its layers."""

import dataclasses

import numpy as np
import pytest
import torch

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import to_plain
from mhim_core.mil import selective_scan, tree_messages
from mhim_core.mil.aggregators.mammil import Mammil
from mhim_core.mil.aggregators.mammil_options import MammilGraph
from mhim_core.mil.draws import Draws
from mhim_core.mil.layout import Layout, tree_array
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.types import BagId

D_IN = 10
OPTIONS = ModelOptions(aggregator="mammil", embed_dim=16, mammil_states=8)
TWO_LAYERS = dataclasses.replace(OPTIONS, mammil_layers=2)


def make(options: ModelOptions = OPTIONS) -> MilModel:
    return build_model(D_IN, 3, options, MhimOptions(), seed="s", dtype=torch.float64)


def bag(num: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    draw = np.random.default_rng(seed)
    places = np.sort(draw.choice(400, num, replace=False))
    return torch.from_numpy(draw.normal(size=(num, D_IN))), np.stack([places % 20, places // 20], axis=1)


def layout_of(x_NF: torch.Tensor, coords: np.ndarray) -> Layout:
    return Layout.of_arrays([tree_array(x_NF.numpy(), coords)])


@pytest.mark.parametrize("options", [OPTIONS, TWO_LAYERS], ids=["one layer", "two layers"])
@pytest.mark.parametrize("append", [False, True])
def test_tiles_in_another_order_with_their_coordinates_are_the_same_bag(options: ModelOptions, append: bool) -> None:
    model, (x, coords) = make(options), bag(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    straight = model(x, append, layout_of(x, coords))
    moved = model(x[order], append, layout_of(x[order], coords[order.numpy()]))
    torch.testing.assert_close(moved.logits_C, straight.logits_C, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.attention_HN[:, :40], straight.attention_HN[:, :40][:, order])


def test_without_their_coordinates_the_order_matters_and_so_do_the_coordinates_alone() -> None:
    model, (x, coords) = make(), bag(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    elsewhere = layout_of(x, coords[order.numpy()])
    with torch.no_grad():
        straight, moved = (model(x, False, layout).logits_C for layout in (layout_of(x, coords), elsewhere))
        path, shuffled = (model(features).logits_C for features in (x, x[order]))
    assert float((straight - moved).abs().max()) > 1e-6
    assert float((path - shuffled).abs().max()) > 1e-6


def test_another_slide_of_the_patient_adds_no_edge_but_goes_on_with_the_path() -> None:
    model, (x, coords) = make(), bag(15)
    (y, others), tail = bag(9, seed=1), slice(15, None)
    both = Layout.of_arrays([tree_array(x.numpy(), coords), tree_array(y.numpy(), others)])
    assert not ((both.parent_N[tail] >= 0) & (both.parent_N[tail] < 15)).any()
    output = model(torch.cat([x, y]), False, both)
    assert output.attention_HN.shape == (1, 24)


@pytest.mark.parametrize(("options", "num"), [(OPTIONS, 1), (TWO_LAYERS, 2), (TWO_LAYERS, 5)])
def test_gradients_along_a_tree_are_those_of_finite_differences(options: ModelOptions, num: int) -> None:
    model, (x, coords) = make(options).requires_grad_(False), bag(num)
    layout = layout_of(x, coords)
    assert torch.autograd.gradcheck(lambda leaf: model(leaf, True, layout)[:3], x.requires_grad_())


def test_every_layer_is_real() -> None:
    """With the published code's off-by-one, the second layer would get no gradient."""
    model, (x, coords) = make(TWO_LAYERS), bag(30)
    assert isinstance(model.aggregator, Mammil)
    assert [len(part) for part in (model.aggregator.scans, model.aggregator.messages)] == [2, 1]
    model(x, False, layout_of(x, coords)).logits_C.square().sum().backward()
    for name, parameter in model.aggregator.named_parameters():
        if name != "energy.bias":
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) > 1e-10, name


def test_dropout_is_the_bags_own_and_the_evidence_sums_to_the_logits() -> None:
    model, (x, coords) = make(), bag(30)
    layout, h = layout_of(x, coords), model.embed_instances(x)
    first, again, other = (model.aggregate(h, Draws(0, 0, BagId(name)), layout) for name in "aab")
    assert torch.equal(first.logits_C, again.logits_C)
    assert not torch.equal(first.logits_C, other.logits_C)
    evidence = model.aggregator.instance_logits(h, first).sum(dim=0)
    torch.testing.assert_close(evidence + model.aggregator.head.bias, first.logits_C)


def test_large_bags_go_piece_by_piece_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, coords) = make(), bag(60)
    layout = layout_of(x, coords)

    def outcome() -> list[torch.Tensor]:
        output = model(x, False, layout)
        gradients = torch.autograd.grad(output.logits_C.sum(), list(model.parameters()), allow_unused=True)
        return [output.logits_C, *(gradient for gradient in gradients if gradient is not None)]

    whole = outcome()
    monkeypatch.setattr(selective_scan, "SPAN_TOKENS", 16)
    monkeypatch.setattr(tree_messages, "is_large", lambda num: True)
    monkeypatch.setattr(tree_messages, "ROWS_AT_ONCE", 7)
    torch.testing.assert_close(outcome(), whole, rtol=1e-9, atol=1e-9)


def test_its_options_are_its_own_and_are_checked() -> None:
    assert not any(name.startswith("mammil") for name in to_plain(ModelOptions()))
    assert OPTIONS.needs_places
    assert not dataclasses.replace(OPTIONS, mammil_graph=MammilGraph.path).needs_places
    assert not ModelOptions().needs_places
    for wrong in ({"mammil_layers": 0}, {"mammil_states": 0}, {"mammil_dropout": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            dataclasses.replace(OPTIONS, **wrong)
    with pytest.raises(ConfigError, match="mammil_layers"):
        ModelOptions(mammil_layers=2)
