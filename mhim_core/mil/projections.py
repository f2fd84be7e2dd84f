"""Queries, keys and values of a sequence, and the means that landmarks are made of. Shape suffixes: see `nystrom`."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class Projected(NamedTuple):
    """A sequence as attention needs it."""

    query_QD: Float[Tensor, "Q D"]
    key_TD: Float[Tensor, "T D"]
    value_TD: Float[Tensor, "T D"] | None
    mean_MD: Float[Tensor, "M D"]
    """Means over ⌈T/M⌉ consecutive tokens, zero rows filling up in front."""


def project(x_TD: Float[Tensor, "T D"], weight: Float[Tensor, "P D"], num_means: int, *, first_only: bool) -> Projected:
    """`weight`: of queries, keys and values, P = 3·D. `first_only`: the first token's query alone, and no values.

    All that reads the sequence is one function, so that its gradient is summed up where it lies.
    """
    return Projected(*_Projections.apply(x_TD, weight, num_means, first_only))


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight: Tensor, num_means: int, first_only: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        ctx.save_for_backward(x_TD, weight)
        ctx.num_queries = num_queries = 1 if first_only else len(x_TD)
        ctx.length = -(-len(x_TD) // num_means)
        weight_q, weight_k, weight_v = weight.chunk(3)
        value_TD = None if first_only else x_TD @ weight_v.t()
        return x_TD[:num_queries] @ weight_q.t(), x_TD @ weight_k.t(), value_TD, _means(x_TD, ctx.length, num_means)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        query_QD, key_TD, value_TD, mean_MD = gradients
        x_TD, weight = ctx.saved_tensors
        assert query_QD is not None
        assert key_TD is not None
        assert mean_MD is not None
        weight_q, weight_k, weight_v = weight.chunk(3)
        weight_gradient = torch.zeros_like(weight)
        into_q, into_k, into_v = weight_gradient.chunk(3)
        x_gradient_TD = key_TD @ weight_k
        torch.mm(key_TD.t(), x_TD, out=into_k)
        torch.mm(query_QD.t(), x_TD[: ctx.num_queries], out=into_q)
        x_gradient_TD[: ctx.num_queries].addmm_(query_QD, weight_q)
        if value_TD is not None:
            torch.mm(value_TD.t(), x_TD, out=into_v)
            x_gradient_TD.addmm_(value_TD, weight_v)
        _add_to_means(x_gradient_TD, mean_MD / ctx.length, ctx.length)
        return x_gradient_TD, weight_gradient, None, None


def _means(x_TD: Tensor, length: int, num_means: int) -> Tensor:
    rest = len(x_TD) % length
    num_sums = len(x_TD) // length + bool(rest)
    mean_MD = x_TD.new_zeros(num_means, x_TD.shape[1])
    mean_MD[num_means - num_sums] = x_TD[:rest].sum(dim=0)
    mean_MD[num_means - len(x_TD) // length :] = x_TD[rest:].unflatten(0, (-1, length)).sum(dim=1)
    return mean_MD.div_(length)


def _add_to_means(x_TD: Tensor, share_MD: Tensor, length: int) -> None:
    """Add to each token the share of its mean, in place."""
    rest, num_full = len(x_TD) % length, len(x_TD) // length
    x_TD[rest:].unflatten(0, (-1, length)).add_(share_MD[len(share_MD) - num_full :, None])
    if rest:
        x_TD[:rest] += share_MD[len(share_MD) - num_full - 1]
