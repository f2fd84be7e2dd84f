"""Landmarks' attention against softmax over a padded sequence, values and gradients."""

import pytest
import torch

from mhim_core.mil import landmark_attention
from mhim_core.mil.landmark_attention import summarise, weigh_tokens

HEADS, LANDMARKS, WIDTH = 2, 4, 3


def tensors(num: int) -> list[torch.Tensor]:
    shapes = [(HEADS, LANDMARKS, WIDTH), (num, HEADS * WIDTH), (num, HEADS * WIDTH), (HEADS, LANDMARKS)]
    generator = torch.Generator().manual_seed(num)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def attention(query: torch.Tensor, key: torch.Tensor, num_zeros: int) -> torch.Tensor:
    """H×M×T, from which the zero rows behind are cut off."""
    padded = torch.cat([key, key.new_zeros(num_zeros, key.shape[1])])
    key_HTE = padded.unflatten(1, (HEADS, WIDTH)).transpose(0, 1)
    return (query @ key_HTE.transpose(1, 2)).softmax(dim=2)[:, :, : len(key)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmark_attention, "CHUNK", 4)


@pytest.mark.parametrize("num", [1, 4, 11])
@pytest.mark.parametrize("num_zeros", [0, 3])
def test_summaries_are_those_of_the_whole_matrix(num: int, num_zeros: int) -> None:
    query, key, value, weight = tensors(num)
    summary, row = summarise(query, key, value, num_zeros, weight)
    matrix = attention(query, key, num_zeros)
    expected = matrix @ value.unflatten(1, (HEADS, WIDTH)).transpose(0, 1)
    torch.testing.assert_close(summary, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(row, (weight[:, None] @ matrix)[:, 0].detach(), rtol=1e-9, atol=1e-12)
    assert not row.requires_grad
    fast, slow = (torch.autograd.grad(x.sin().sum(), [query, key, value]) for x in (summary, expected))
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num", [1, 4, 11])
@pytest.mark.parametrize("num_zeros", [0, 3])
def test_weights_of_tokens_are_those_of_the_whole_matrix(num: int, num_zeros: int) -> None:
    query, key, _, weight = tensors(num)
    row, expected = weigh_tokens(query, key, num_zeros, weight), weight[:, None] @ attention(query, key, num_zeros)
    torch.testing.assert_close(row, expected[:, 0], rtol=1e-9, atol=1e-12)
    fast, slow = (torch.autograd.grad(x.sin().sum(), [query, key, weight]) for x in (row, expected))
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    query, key, value, weight = tensors(6)
    assert torch.autograd.gradcheck(lambda q, k, v: summarise(q, k, v, 2, weight.detach())[0], (query, key, value))
    assert torch.autograd.gradcheck(lambda q, k, w: weigh_tokens(q, k, 2, w), (query, key, weight))


def test_energies_far_apart_do_not_overflow() -> None:
    query, key, value, weight = tensors(11)
    summary, row = summarise(300 * query, 300 * key, value, 0, weight)
    assert torch.isfinite(summary).all()
    assert torch.isfinite(row).all()
