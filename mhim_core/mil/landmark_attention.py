"""Softmax attention of a few landmarks over many tokens, whose zero rows in front are counted and never written.

The matrix of one head, M×T, is held at a time; the backward pass computes it anew, some tokens at a time. Shape suffixes:
see `nystrom`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2048
"""Tokens at a time: 2 MiB in float32 for 256 landmarks."""


class Summary(NamedTuple):
    """What landmarks see of the tokens."""

    summary_HME: Float[Tensor, "H M E"]
    """softmax(q kᵀ) v."""
    row_HT: Float[Tensor, "H T"]
    """w softmax(q kᵀ) without gradient."""


def summarise(
    query_HME: Float[Tensor, "H M E"],
    key_TD: Float[Tensor, "T D"],
    value_TD: Float[Tensor, "T D"],
    num_zeros: int,
    weight_HM: Float[Tensor, "H M"],
) -> Summary:
    """Attention over T tokens and `num_zeros` rows more whose keys and values are zero; w: a row of weights."""
    return Summary(*_Summary.apply(query_HME, key_TD, value_TD, num_zeros, weight_HM))


def weigh_tokens(
    query_HME: Float[Tensor, "H M E"], key_TD: Float[Tensor, "T D"], num_zeros: int, weight_HM: Float[Tensor, "H M"]
) -> Float[Tensor, "H T"]:
    """w softmax(q kᵀ) at the T tokens, with gradient. w (A v) = (w A) v: one row alone needs no summary."""
    weight_HT: Tensor = _TokenWeights.apply(query_HME, key_TD, num_zeros, weight_HM)
    return weight_HT


class _Summary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_HME: Tensor, key_TD: Tensor, value_TD: Tensor, num_zeros: int, weight_HM: Tensor
    ) -> tuple[Tensor, Tensor]:
        summary_HME, log_sum_HM = torch.empty_like(query_HME), torch.empty_like(weight_HM)
        row_HT = query_HME.new_empty(len(query_HME), len(key_TD))
        for head, (query_ME, key_TE, value_TE) in enumerate(_heads(query_HME, key_TD, value_TD)):
            power = _exponentials(query_ME, key_TE, num_zeros)
            torch.mm(power.exp_MT, value_TE, out=summary_HME[head])
            summary_HME[head] /= power.total_M[:, None]
            torch.mv(power.exp_MT.t(), weight_HM[head] / power.total_M, out=row_HT[head])
            log_sum_HM[head] = power.total_M.log().add_(power.largest_M)
        ctx.save_for_backward(query_HME, key_TD, value_TD, summary_HME, log_sum_HM)
        ctx.mark_non_differentiable(row_HT)
        return summary_HME, row_HT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_HME: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query_HME, key_TD, value_TD, summary_HME, log_sum_HM = ctx.saved_tensors
        query_gradient_HME = torch.zeros_like(query_HME)
        key_gradient_TD, value_gradient_TD = torch.empty_like(key_TD), torch.empty_like(value_TD)
        along_HM1 = (gradient_HME * summary_HME).sum(dim=2, keepdim=True)
        heads = _heads(query_HME, key_TD, value_TD, key_gradient_TD, value_gradient_TD)
        for head, (query_ME, key_TE, value_TE, key_gradient_TE, value_gradient_TE) in enumerate(heads):
            for span in _chunks(len(key_TD)):
                attention_Mc = _attention(query_ME, key_TE[span], log_sum_HM[head])
                torch.mm(attention_Mc.t(), gradient_HME[head], out=value_gradient_TE[span])
                energy_gradient_Mc = (gradient_HME[head] @ value_TE[span].t()).sub_(along_HM1[head])
                energy_gradient_Mc *= attention_Mc
                torch.mm(energy_gradient_Mc.t(), query_ME, out=key_gradient_TE[span])
                query_gradient_HME[head].addmm_(energy_gradient_Mc, key_TE[span])
        return query_gradient_HME, key_gradient_TD, value_gradient_TD, None, None


class _TokenWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_HME: Tensor, key_TD: Tensor, num_zeros: int, weight_HM: Tensor) -> Tensor:
        weight_HT, log_sum_HM = query_HME.new_empty(len(query_HME), len(key_TD)), torch.empty_like(weight_HM)
        for head, (query_ME, key_TE) in enumerate(_heads(query_HME, key_TD)):
            power = _exponentials(query_ME, key_TE, num_zeros)
            torch.mv(power.exp_MT.t(), weight_HM[head] / power.total_M, out=weight_HT[head])
            log_sum_HM[head] = power.total_M.log().add_(power.largest_M)
        ctx.save_for_backward(query_HME, key_TD, weight_HM, log_sum_HM)
        return weight_HT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_HT: Tensor) -> tuple[Tensor | None, ...]:
        query_HME, key_TD, weight_HM, log_sum_HM = ctx.saved_tensors
        query_gradient_HME, weight_gradient_HM = torch.empty_like(query_HME), torch.empty_like(weight_HM)
        key_gradient_TD = torch.empty_like(key_TD)
        heads = _heads(query_HME, key_TD, key_gradient_TD)
        for head, (query_ME, key_TE, key_gradient_TE) in enumerate(heads):
            attention_MT = _attention(query_ME, key_TE, log_sum_HM[head])
            along_M = torch.mv(attention_MT, gradient_HT[head], out=weight_gradient_HM[head])
            energy_gradient_MT = (gradient_HT[head] - along_M[:, None]).mul_(attention_MT)
            torch.mm(energy_gradient_MT, key_TE, out=query_gradient_HME[head])
            torch.mm(energy_gradient_MT.t(), query_ME * weight_HM[head][:, None], out=key_gradient_TE)
        query_gradient_HME *= weight_HM[:, :, None]
        return query_gradient_HME, key_gradient_TD, None, weight_gradient_HM


class _Exponentials(NamedTuple):
    exp_MT: Tensor
    """exp(q kᵀ - largest)."""
    largest_M: Tensor
    total_M: Tensor
    """Their sum, that of the zero rows included."""


def _exponentials(query_ME: Tensor, key_TE: Tensor, num_zeros: int) -> _Exponentials:
    exp_MT = query_ME @ key_TE.t()
    largest_M = exp_MT.amax(dim=1)
    if num_zeros:
        largest_M.clamp_(min=0)
    exp_MT.sub_(largest_M[:, None]).exp_()
    return _Exponentials(exp_MT, largest_M, exp_MT.sum(dim=1).add_(largest_M.neg().exp_(), alpha=num_zeros))


def _attention(query_ME: Tensor, key_TE: Tensor, log_sum_M: Tensor) -> Tensor:
    return (query_ME @ key_TE.t()).sub_(log_sum_M[:, None]).exp_()


def _heads(query_HME: Tensor, *tokens: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each head's queries, and its columns of T×D."""
    columns = [x_TD.tensor_split(len(query_HME), dim=1) for x_TD in tokens]
    return zip(query_HME, *columns, strict=True)


def _chunks(num: int) -> Iterator[slice]:
    return (slice(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK))
