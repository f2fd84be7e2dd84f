"""Softmax attention of a few landmarks over many tokens, whose zero rows in front are counted and never written.

One head's matrix is held at a time, T×M: so a chunk of tokens lies together and goes through product, exponential and
product while it is in the processor's cache. The backward pass computes it anew. Shape suffixes: see `nystrom`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1024
"""Tokens at a time on a CPU: 1 MiB in float32 for 256 landmarks."""


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
        summary_HME, log_sum_HM = torch.zeros_like(query_HME), torch.empty_like(weight_HM)
        row_HT = query_HME.new_empty(len(query_HME), len(key_TD))
        room_TM = query_HME.new_empty(len(key_TD), query_HME.shape[1])
        for head, (query_ME, key_TE, value_TE) in enumerate(_heads(query_HME, key_TD, value_TD)):
            powers = _exponentials(query_ME, key_TE, num_zeros, room_TM, (value_TE, summary_HME[head]))
            _weigh(powers, weight_HM[head], room_TM, row_HT[head])
            log_sum_HM[head] = powers.log_sum_M
        ctx.save_for_backward(query_HME, key_TD, value_TD, summary_HME, log_sum_HM)
        ctx.mark_non_differentiable(row_HT)
        return summary_HME, row_HT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_HME: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query_HME, key_TD, value_TD, summary_HME, log_sum_HM = ctx.saved_tensors
        query_gradient_HME = torch.zeros_like(query_HME)
        key_gradient_TD, value_gradient_TD = torch.empty_like(key_TD), torch.empty_like(value_TD)
        along_HM = (gradient_HME * summary_HME).sum(dim=2)
        rooms = query_HME.new_empty(2, next(_chunks(key_TD)).stop, query_HME.shape[1])
        heads = _heads(query_HME, key_TD, value_TD, key_gradient_TD, value_gradient_TD)
        for head, (query_ME, key_TE, value_TE, key_gradient_TE, value_gradient_TE) in enumerate(heads):
            for span in _chunks(key_TD):
                attention_cM, energy_gradient_cM = rooms[:, : span.stop - span.start]
                _attention(query_ME, key_TE[span], log_sum_HM[head], attention_cM)
                torch.mm(attention_cM, gradient_HME[head], out=value_gradient_TE[span])
                torch.mm(value_TE[span], gradient_HME[head].t(), out=energy_gradient_cM).sub_(along_HM[head])
                energy_gradient_cM *= attention_cM
                torch.mm(energy_gradient_cM, query_ME, out=key_gradient_TE[span])
                query_gradient_HME[head].addmm_(energy_gradient_cM.t(), key_TE[span])
        return query_gradient_HME, key_gradient_TD, value_gradient_TD, None, None


class _TokenWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_HME: Tensor, key_TD: Tensor, num_zeros: int, weight_HM: Tensor) -> Tensor:
        weight_HT, log_sum_HM = query_HME.new_empty(len(query_HME), len(key_TD)), torch.empty_like(weight_HM)
        room_TM = query_HME.new_empty(len(key_TD), query_HME.shape[1])
        for head, (query_ME, key_TE) in enumerate(_heads(query_HME, key_TD)):
            powers = _exponentials(query_ME, key_TE, num_zeros, room_TM, None)
            _weigh(powers, weight_HM[head], room_TM, weight_HT[head])
            log_sum_HM[head] = powers.log_sum_M
        ctx.save_for_backward(query_HME, key_TD, weight_HM, log_sum_HM)
        return weight_HT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_HT: Tensor) -> tuple[Tensor | None, ...]:
        query_HME, key_TD, weight_HM, log_sum_HM = ctx.saved_tensors
        query_gradient_HME, weight_gradient_HM = torch.zeros_like(query_HME), torch.zeros_like(weight_HM)
        key_gradient_TD = torch.empty_like(key_TD)
        room_TM = query_HME.new_empty(len(key_TD), query_HME.shape[1])
        heads = _heads(query_HME, key_TD, key_gradient_TD)
        for head, (query_ME, key_TE, key_gradient_TE) in enumerate(heads):
            for span in _chunks(key_TD):
                _attention(query_ME, key_TE[span], log_sum_HM[head], room_TM[span])
                weight_gradient_HM[head].addmv_(room_TM[span].t(), gradient_HT[head, span])
            weighted_ME = query_ME * weight_HM[head][:, None]
            for span in _chunks(key_TD):
                energy_gradient_cM = (gradient_HT[head, span, None] - weight_gradient_HM[head]).mul_(room_TM[span])
                query_gradient_HME[head].addmm_(energy_gradient_cM.t(), key_TE[span])
                torch.mm(energy_gradient_cM, weighted_ME, out=key_gradient_TE[span])
        query_gradient_HME *= weight_HM[:, :, None]
        return query_gradient_HME, key_gradient_TD, None, weight_gradient_HM


class _Powers(NamedTuple):
    largest: list[Tensor]
    """Per chunk, of each landmark: what its exponentials are relative to."""
    log_sum_M: Tensor


def _exponentials(
    query_ME: Tensor, key_TE: Tensor, num_zeros: int, room_TM: Tensor, summing: tuple[Tensor, Tensor] | None
) -> _Powers:
    """exp(q kᵀ - largest so far) into `room_TM`; `summing`: values, and zeros that become their weighted mean."""
    # of the zero rows, whose energy is 0
    largest_M = query_ME.new_full((len(query_ME),), 0.0 if num_zeros else -torch.inf)
    total_M = torch.full_like(largest_M, num_zeros)
    largest: list[Tensor] = []
    for span in _chunks(key_TE):
        exp_cM = torch.mm(key_TE[span], query_ME.t(), out=room_TM[span])
        before_M, largest_M = largest_M, torch.maximum(largest_M, exp_cM.amax(dim=0))
        exp_cM.sub_(largest_M).exp_()
        shrink_M = (before_M - largest_M).exp_()
        total_M.mul_(shrink_M).add_(exp_cM.sum(dim=0))
        if summing is not None:
            value_TE, summary_ME = summing
            summary_ME.mul_(shrink_M[:, None]).addmm_(exp_cM.t(), value_TE[span])
        largest.append(largest_M)
    if summing is not None:
        summing[1].div_(total_M[:, None])
    return _Powers(largest, largest_M + total_M.log())


def _weigh(powers: _Powers, weight_M: Tensor, exp_TM: Tensor, row_T: Tensor) -> None:
    for span, largest_M in zip(_chunks(exp_TM), powers.largest, strict=True):
        torch.mv(exp_TM[span], weight_M * (largest_M - powers.log_sum_M).exp_(), out=row_T[span])


def _attention(query_ME: Tensor, key_cE: Tensor, log_sum_M: Tensor, room_cM: Tensor) -> None:
    torch.mm(key_cE, query_ME.t(), out=room_cM).sub_(log_sum_M).exp_()


def _heads(query_HME: Tensor, *tokens: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each head's queries, and its columns of T×D."""
    columns = [x_TD.tensor_split(len(query_HME), dim=1) for x_TD in tokens]
    return zip(query_HME, *columns, strict=True)


def _chunks(x_TD: Tensor) -> Iterator[slice]:
    # a GPU is kept busier by all tokens at once
    num, length = len(x_TD), CHUNK if x_TD.device.type == "cpu" else len(x_TD)
    return (slice(first, min(first + length, num)) for first in range(0, num, length))
