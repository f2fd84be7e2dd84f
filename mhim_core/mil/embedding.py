"""Tile features to embedded instances, some rows at a time. Shape suffixes: see the package's docstring.

The plain chain of layers (gather, linear, activation, dropout) writes every array to memory and reads it again, and
autograd keeps four of them, the gathered features among them. Here a chunk of rows goes through the whole chain while
it lies in the processor's cache, and two arrays are kept: the result and what came before the activation. The features
are gathered anew in the backward pass; of a large bag what came before the activation is computed anew as well.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mhim_core.mil.draws import Keep
from mhim_core.mil.large_bags import CHUNK, is_large
from mhim_core.mil.model_options import Activation

CACHED_CHUNK = 1024
"""Most rows at a time on a CPU: at D = 512 they are 2 MiB, and their features 4."""


class SplitInstances(NamedTuple):
    """Embedded instances, as random masking split them."""

    entering_KD: Float[Tensor, "K D"]
    """Those that enter the aggregator; behind them, rows of NaN that `place_tokens` fills."""
    recycled_RD: Float[Tensor, "R D"]


class RowPlan(NamedTuple):
    """Which rows are embedded, and where the results go."""

    rows: Int64[Tensor, "rows"] | None
    """None: all, in their order."""
    num_entering: int
    num_recycled: int
    num_tokens: int
    """Rows left free behind those that enter."""


def embed(
    x_NF: Float[Tensor, "N F"], plan: RowPlan, layer: nn.Linear, activation: Activation, keep: Keep | None
) -> SplitInstances:
    """dropout(activation(layer(x[rows]))), dropout where `keep` is given.

    The features may be of another precision than the layer's. No gradient flows into them.
    """
    remembers = torch.is_grad_enabled() and not is_large(plan.num_entering + plan.num_recycled)
    return SplitInstances(*_Embedding.apply(x_NF, plan, layer.weight, layer.bias, activation, keep, remembers))


def place_tokens(entering_KD: Float[Tensor, "K D"], tokens_kD: Float[Tensor, "k D"]) -> Float[Tensor, "K D"]:
    """The entering instances with their last k rows filled, in place: [K ; T] without copying K."""
    placed: Tensor = _Placed.apply(entering_KD, tokens_kD)
    return placed


def split_rows(h_ND: Float[Tensor, "N D"], plan: RowPlan) -> SplitInstances:
    """The same from instances that are embedded already."""
    return SplitInstances(*_SplitRows.apply(h_ND, plan))


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NF: Tensor,
        plan: RowPlan,
        weight: Tensor,
        bias: Tensor,
        activation: Activation,
        keep: Keep | None,
        remembers: bool,
    ) -> tuple[Tensor, Tensor]:
        outputs = _empty(plan, weight, len(weight))
        before_KD = weight.new_empty(plan.num_entering + plan.num_recycled, len(weight)) if remembers else None
        for span, part_cD in _chunks(plan, outputs):
            before_cD = part_cD if before_KD is None else before_KD[span]
            torch.addmm(bias, _features(x_NF, plan.rows, span, weight), weight.t(), out=before_cD)
            _activate(before_cD, activation, part_cD)
            if keep is not None:
                part_cD.mul_(keep.factors(span, part_cD))
        ctx.save_for_backward(x_NF, before_KD, weight, bias)
        ctx.plan, ctx.activation, ctx.keep = plan, activation, keep
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x_NF, before_KD, weight, bias = ctx.saved_tensors
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        for span, part_cD in _chunks(ctx.plan, gradients):
            x_cF = _features(x_NF, ctx.plan.rows, span, weight)
            before_cD = torch.addmm(bias, x_cF, weight.t()) if before_KD is None else before_KD[span]
            if ctx.keep is not None:
                part_cD = ctx.keep.factors(span, part_cD).mul_(part_cD)
            part_cD = _activation_gradient(part_cD, before_cD, ctx.activation)
            weight_gradient.addmm_(part_cD.t(), x_cF)
            bias_gradient += part_cD.sum(dim=0)
        return None, None, weight_gradient, bias_gradient, None, None, None


class _Placed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entering_KD: Tensor, tokens_kD: Tensor) -> Tensor:
        ctx.num_tokens = len(tokens_kD)
        entering_KD[-len(tokens_kD) :] = tokens_kD
        ctx.mark_dirty(entering_KD)
        return entering_KD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_KD: Tensor) -> tuple[Tensor, Tensor]:
        # the embedding reads nothing of the last rows
        return gradient_KD, gradient_KD[-ctx.num_tokens :]


class _SplitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, plan: RowPlan) -> tuple[Tensor, Tensor]:
        ctx.plan, ctx.num = plan, len(h_ND)
        ctx.set_materialize_grads(False)
        outputs = _empty(plan, h_ND, h_ND.shape[1])
        for span, part_cD in _chunks(plan, outputs):
            assert plan.rows is not None
            torch.index_select(h_ND, 0, plan.rows[span], out=part_cD)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        some = next(gradient for gradient in gradients if gradient is not None)
        h_gradient_ND = some.new_zeros(ctx.num, some.shape[1])
        for span, part_cD in _chunks(ctx.plan, gradients):
            h_gradient_ND[ctx.plan.rows[span]] = part_cD  # no row is twice among them
        return h_gradient_ND, None


def _empty(plan: RowPlan, like: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    entering_KD = like.new_empty(plan.num_entering + plan.num_tokens, dim)
    entering_KD[plan.num_entering :] = torch.nan
    return entering_KD, like.new_empty(plan.num_recycled, dim)


def _chunks(plan: RowPlan, parts: Sequence[Tensor | None]) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the plan's rows, and where each lies in the entering or the recycled part; None is left out."""
    starts = (0, plan.num_entering)
    for start, num, part in zip(starts, (plan.num_entering, plan.num_recycled), parts, strict=True):
        if part is not None and num:
            most = CACHED_CHUNK if part.device.type == "cpu" else CHUNK
            # about equal, since a few rows alone would be multiplied by another kernel
            length = -(-num // -(-num // most))
            for first in range(0, num, length):
                last = min(first + length, num)
                yield slice(start + first, start + last), part[first:last]


def _features(x_NF: Tensor, rows: Tensor | None, span: slice, like: Tensor) -> Tensor:
    part_cF = x_NF[span] if rows is None else x_NF.index_select(0, rows[span])
    return part_cF.to(like.dtype)


def _activate(x: Tensor, activation: Activation, out: Tensor) -> None:
    if activation is Activation.gelu:
        torch.ops.aten.gelu.out(x, out=out)
    elif activation is Activation.relu:
        torch.clamp(x, min=0, out=out)
    else:
        torch.tanh(x, out=out)


def _activation_gradient(gradient: Tensor, x: Tensor, activation: Activation) -> Tensor:
    if activation is Activation.gelu:
        return torch.ops.aten.gelu_backward(gradient, x)
    if activation is Activation.relu:
        return torch.ops.aten.threshold_backward(gradient, x, 0)
    return torch.ops.aten.tanh_backward(gradient, x.tanh())
