"""Nyström attention against its definition, with every matrix written out."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.nystrom import NystromAttention, NystromOutput, join_heads, split_heads
from mhim_core.mil.pseudo_inverse import PseudoInverse

DIM = 16
HEADS, LANDMARKS = 8, DIM // 2


def make(scale: float = 1.0) -> NystromAttention:
    generator = torch.Generator().manual_seed(0)
    attention = NystromAttention(DIM, 0.1).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 3)
    return attention


def tokens(num: int) -> torch.Tensor:
    return torch.randn(num, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(num))


def by_definition(attention: NystromAttention, x: torch.Tensor) -> NystromOutput:
    """Zero rows in front, nothing masked, (A1 Z)(A3 v), the last rows."""
    num_zeros = -len(x) % LANDMARKS
    padded = torch.cat([torch.zeros(num_zeros, DIM, dtype=x.dtype), x])
    q, k, v = (split_heads(part) for part in attention.to_qkv(padded).chunk(3, dim=1))
    q = q * (DIM // HEADS) ** -0.5
    length = len(padded) // LANDMARKS
    landmark_q, landmark_k = (
        torch.stack([part[:, i * length : (i + 1) * length].sum(dim=1) / length for i in range(LANDMARKS)], dim=1)
        for part in (q, k)
    )
    a1 = (q @ landmark_k.transpose(1, 2)).softmax(dim=2)
    a2 = (landmark_q @ landmark_k.transpose(1, 2)).softmax(dim=2)
    a3 = (landmark_q @ k.transpose(1, 2)).softmax(dim=2)
    identity = torch.eye(LANDMARKS, dtype=x.dtype)
    inverse = PseudoInverse(a2).before(identity.expand_as(a2))
    to_landmarks = a1 @ inverse
    taps = attention.res_conv.weight[:, 0, :, 0]
    long = F.pad(v, (0, 0, 16, 16))
    convolved = sum(taps[:, i, None, None] * long[:, i : i + len(padded)] for i in range(33))
    joined = join_heads(to_landmarks @ (a3 @ v) + convolved)
    row = (to_landmarks @ a3)[:, num_zeros, num_zeros:]
    return NystromOutput(attention.to_out(joined)[num_zeros:], row)


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9, 40, 61])
def test_it_is_its_definition(num: int) -> None:
    attention, x = make(), tokens(num)
    actual, expected = attention(x), by_definition(attention, x)
    torch.testing.assert_close(actual.tokens_QD, expected.tokens_QD, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.first_row_HT, expected.first_row_HT.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num", [1, 5, 20, 61])
def test_the_first_token_alone_has_the_same_output_and_gradient(num: int) -> None:
    attention, x = make(), tokens(num).requires_grad_()
    whole = attention(x).tokens_QD[:1]
    alone = attention(x, first_only=True)
    torch.testing.assert_close(alone.first_row_HT, attention(x).first_row_HT)
    torch.testing.assert_close(alone.tokens_QD, whole)
    for left, right in zip(
        torch.autograd.grad(whole.square().sum(), [x, *attention.parameters()]),
        torch.autograd.grad(alone.tokens_QD.square().sum(), [x, *attention.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_joining_undoes_splitting() -> None:
    x = tokens(9)
    assert torch.equal(join_heads(split_heads(x)), x)
    assert torch.equal(split_heads(x)[1, :, 0], x[:, DIM // HEADS])
