"""CLAM's checkpoints give here the predictions of CLAM's own arithmetic."""

import io

import pytest
import torch
from torch import Tensor

from mhim_core.errors import InputError
from mhim_core.mil.formats.clam import from_clam
from mhim_core.mil.model import MilModel
from mhim_core.mil.published_file import load_published

D_IN, DIM, WIDTH = 12, 16, 256


def clam(num_classes: int, *, multi: bool, gate: int = 3, spread: bool = False) -> dict[str, Tensor]:
    """Names and shapes as the authors' `model_clam.py` saves them."""
    net = "attention_net.module." if spread else "attention_net."
    shapes = {f"{net}0": (DIM, D_IN), f"{net}{gate}.attention_a.0": (WIDTH, DIM)}
    shapes |= {f"{net}{gate}.attention_b.0": (WIDTH, DIM)}
    shapes |= {f"{net}{gate}.attention_c": (num_classes if multi else 1, WIDTH)}
    shapes |= (
        {f"classifiers.{c}": (1, DIM) for c in range(num_classes)} if multi else {"classifiers": (num_classes, DIM)}
    )
    shapes |= {f"instance_classifiers.{c}": (2, DIM) for c in range(num_classes)}
    draws = torch.Generator().manual_seed(7)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=draws, dtype=torch.float64)
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=draws, dtype=torch.float64)
    return tensors | {"instance_loss_fn.labels": torch.arange(2)}


def logits_of(tensors: dict[str, Tensor], x: Tensor, *, multi: bool) -> Tensor:
    """Lu et al. 2021, eqs. 1 to 3, written from the paper."""

    def layer(name: str, value: Tensor) -> Tensor:
        return value @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    h = layer("attention_net.0", x).clamp(min=0)
    hidden = layer("attention_net.3.attention_a.0", h).tanh() * layer("attention_net.3.attention_b.0", h).sigmoid()
    bags = layer("attention_net.3.attention_c", hidden).softmax(dim=0).T @ h
    if not multi:
        return layer("classifiers", bags[0])
    return torch.cat([layer(f"classifiers.{c}", bag) for c, bag in enumerate(bags)])


def as_file(tensors: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("multi", [False, True])
def test_a_clam_checkpoint_predicts_what_clam_predicts(num_classes: int, multi: bool) -> None:
    tensors = clam(num_classes, multi=multi)
    loaded = load_published(as_file(tensors))
    assert loaded.options.aggregator == ("clam-mb" if multi else "clam-sb")
    assert (loaded.d_in, loaded.num_outputs, loaded.recycle_queries) == (D_IN, num_classes, None)
    model = MilModel(loaded.d_in, loaded.num_outputs, loaded.options).to(torch.float64)
    model.load_state_dict(loaded.student)
    x = torch.randn(9, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model(x).logits_C, logits_of(tensors, x, multi=multi), rtol=0, atol=1e-12)


def test_weights_saved_from_several_gpus_or_without_dropout_are_the_same() -> None:
    plain = from_clam(clam(2, multi=False)).state
    for other in (clam(2, multi=False, spread=True), clam(2, multi=False, gate=2)):
        state = from_clam(other).state
        assert state.keys() == plain.keys()
        assert all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_net.3.module.0.weight": torch.zeros(2, 2)}, "attention_net.gate.module.0.weight"),
        ({"survival.weight": torch.zeros(2, 2)}, "survival.weight"),
    ],
)
def test_what_clam_does_not_have_is_named(change: dict[str, Tensor], named: str) -> None:
    with pytest.raises(InputError, match=named):
        from_clam(clam(2, multi=False) | change)


def test_what_is_missing_is_named() -> None:
    tensors = clam(2, multi=False)
    del tensors["classifiers.bias"]
    with pytest.raises(InputError, match=r"missing tensors.*classifiers\.bias"):
        from_clam(tensors)


def test_another_width_of_the_attention_is_named() -> None:
    tensors = clam(2, multi=False)
    tensors["attention_net.3.attention_c.weight"] = torch.zeros(1, 384, dtype=torch.float64)
    with pytest.raises(InputError, match="energy"):
        load_published(as_file(tensors))
