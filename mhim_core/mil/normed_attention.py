"""Attention of a few queries over many layer-normed rows, of which neither the norm nor a projection is ever written.

Shape suffixes: see the package's docstring; J queries of all heads.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class NormedPool(NamedTuple):
    """What attention sums up."""

    pooled_JD: Float[Tensor, "J D"]
    """Σ_r a_jr n_r, with n_r = (h_r - mean)/deviation."""
    total_J: Float[Tensor, "J"]
    """Σ_r a_jr, which dropout moves away from 1."""


def attend_normed(
    query_JD: Float[Tensor, "J D"],
    h_RD: Float[Tensor, "R D"],
    factors_JR: Float[Tensor, "J R"] | None,
    epsilon: float,
) -> NormedPool:
    """a = softmax_r(q_j·n_r), times the factors of dropout (None: 1), over the rows' n_r = (h_r - mean)/√(var + ε).

    The mean of a row is a sum over its features, so that q·(h - mean) = (q - mean of q)·h: the queries are centred
    instead of the rows, and so is what is pooled. Of R rows one pass for the deviations and a product each with J
    queries remain; of R×D nothing is kept but the rows themselves.
    """
    return NormedPool(*_NormedAttention.apply(query_JD, h_RD, factors_JR, epsilon))


class _NormedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_JD: Tensor, h_RD: Tensor, factors_JR: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        variance_R, mean_R = torch.var_mean(h_RD, dim=1, correction=0)
        inverse_R = (variance_R + epsilon).rsqrt()
        centred_JD = _centred(query_JD)
        energy_JR = (centred_JD @ h_RD.t()).mul_(inverse_R)
        attention_JR = energy_JR.softmax(dim=1)
        dropped_JR = attention_JR if factors_JR is None else attention_JR * factors_JR
        ctx.save_for_backward(centred_JD, h_RD, factors_JR, energy_JR, attention_JR, mean_R, inverse_R)
        return _centred((dropped_JR * inverse_R) @ h_RD), dropped_JR.sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pooled_gradient_JD: Tensor, total_gradient_J: Tensor) -> tuple[Tensor | None, ...]:
        centred_JD, h_RD, factors_JR, energy_JR, attention_JR, mean_R, inverse_R = ctx.saved_tensors
        dropped_JR = attention_JR if factors_JR is None else attention_JR * factors_JR
        pooled_gradient_JD = _centred(pooled_gradient_JD)
        weight_gradient_JR = pooled_gradient_JD @ h_RD.t()
        inverse_gradient_R = (weight_gradient_JR * dropped_JR).sum(dim=0)
        gradient_JR = torch.addcmul(total_gradient_J[:, None], weight_gradient_JR, inverse_R)
        if factors_JR is not None:
            gradient_JR.mul_(factors_JR)
        gradient_JR = torch._softmax_backward_data(gradient_JR, attention_JR, 1, attention_JR.dtype)
        inverse_gradient_R += (gradient_JR * energy_JR).sum(dim=0) / inverse_R
        gradient_JR *= inverse_R
        query_gradient_JD = _centred(gradient_JR @ h_RD)
        # through the variance, c·(h - mean): the mean's part joins the products as one more column
        variance_gradient_R = inverse_gradient_R * inverse_R**3 / -h_RD.shape[1]
        left = torch.cat([dropped_JR * inverse_R, gradient_JR, (-variance_gradient_R * mean_R)[None]])
        right = torch.cat([pooled_gradient_JD, centred_JD, torch.ones_like(h_RD[:1])])
        h_gradient_RD = (left.t() @ right).addcmul_(h_RD, variance_gradient_R[:, None])
        return query_gradient_JD, h_gradient_RD, None, None


def _centred(x_JD: Tensor) -> Tensor:
    return x_JD - x_JD.mean(dim=1, keepdim=True)
