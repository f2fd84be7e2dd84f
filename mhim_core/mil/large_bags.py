"""Embedding of bags so large that what autograd keeps of them matters. Shape suffixes: see the package's docstring.

Of N = 200,000 instances at D = 512 every array takes 0.4 GiB, and the plain chain of layers keeps three of them until
the backward pass. Here one is kept, the result; the rest is computed again, a chunk at a time.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.draws import Keep

CHUNK = 32_768
"""Most instances at a time. Smaller bags go through the plain layers, to the same bits as ever; in larger ones the last
bits depend on this number."""


def is_large(num_instances: int) -> bool:
    """Whether so many instances are embedded here."""
    return num_instances > CHUNK


def embed_in_chunks(
    x_NF: Float[Tensor, "N F"],
    rows: Int64[Tensor, "K"] | None,
    embed: nn.Linear,
    activation: Callable[[Tensor], Tensor],
    keep: Keep | None,
) -> Float[Tensor, "K D"]:
    """activation(embed(x[rows])), with dropout where `keep` is given; `rows` None: all.

    The features may be of another precision than the layer's. No gradient flows into them.
    """
    embedded: Tensor = _Embedding.apply(x_NF, rows, embed.weight, embed.bias, activation, keep)
    return embedded


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NF: Tensor,
        rows: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        activation: Callable[[Tensor], Tensor],
        keep: Keep | None,
    ) -> Tensor:
        ctx.save_for_backward(x_NF, rows, weight, bias)
        ctx.activation, ctx.keep = activation, keep
        num = len(x_NF) if rows is None else len(rows)
        h_KD = weight.new_empty(num, len(weight))
        for span in _spans(num):
            part = activation(F.linear(_features(x_NF, rows, span, weight.dtype), weight, bias))
            h_KD[span] = part if keep is None else part.mul_(keep.factors(span, part))
        return h_KD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_KD,) = gradients
        x_NF, rows, weight, bias = ctx.saved_tensors
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        for span in _spans(len(gradient_KD)):
            part = gradient_KD[span]
            if ctx.keep is not None:
                part = part * ctx.keep.factors(span, part)
            x_cF = _features(x_NF, rows, span, weight.dtype)
            with torch.enable_grad():
                before_cD = F.linear(x_cF, weight.detach(), bias.detach()).requires_grad_()
                (part,) = torch.autograd.grad(ctx.activation(before_cD), before_cD, part)
            weight_gradient.addmm_(part.t(), x_cF)
            bias_gradient += part.sum(dim=0)
        return None, None, weight_gradient, bias_gradient, None, None


def _spans(num: int) -> Iterator[slice]:
    """About equal, since a few rows alone would be multiplied by another kernel."""
    length = -(-num // -(-num // CHUNK))
    return (slice(start, min(start + length, num)) for start in range(0, num, length))


def _features(x_NF: Tensor, rows: Tensor | None, span: slice, dtype: torch.dtype) -> Tensor:
    part = x_NF[span] if rows is None else x_NF.index_select(0, rows[span])
    return part.to(dtype)
