"""Attention over layer-normed rows against the norm written out."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.normed_attention import attend_normed

QUERIES, DIM = 4, 6


def tensors(num: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((QUERIES, DIM), (num, DIM))
    ]


def dropout(num: int) -> torch.Tensor:
    return (torch.rand(QUERIES, num, generator=torch.Generator().manual_seed(1)) < 0.8).double() / 0.8


@pytest.mark.parametrize("num", [1, 2, 30])
@pytest.mark.parametrize("dropped", [False, True])
def test_it_is_attention_over_the_normed_rows(num: int, dropped: bool) -> None:
    query, h = tensors(num)
    factors = dropout(num) if dropped else None
    pool = attend_normed(query, h + 3, factors, 1e-5)
    normed = F.layer_norm(h + 3, (DIM,), eps=1e-5)
    attention = (query @ normed.T).softmax(dim=1)
    attention = attention if factors is None else attention * factors
    expected = [attention @ normed, attention.sum(dim=1)]
    for result, other in zip(pool, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-9, atol=1e-12)
    fast, slow = (
        torch.autograd.grad(pooled.sin().sum() + (total * torch.arange(QUERIES)).sum(), [query, h])
        for pooled, total in (pool, expected)
    )
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    query, h = tensors(7)
    assert torch.autograd.gradcheck(lambda q, x: attend_normed(q, x, dropout(7), 1e-5), (query, h))


def test_rows_without_deviation_stay_finite() -> None:
    query, _ = tensors(3)
    h = torch.full((3, DIM), 2.0, dtype=torch.float64, requires_grad=True)
    pool = attend_normed(query, h, None, 1e-5)
    assert float(pool.pooled_JD.detach().abs().max()) < 1e-9
    (gradient,) = torch.autograd.grad(pool.pooled_JD.sum(), h)
    assert torch.isfinite(gradient).all()
