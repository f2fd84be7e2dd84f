"""What the ranks exchange in a step: gradients, and the mean of the recycled tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mhim_core.train.context import TrainContext


@torch.no_grad()
def reduce_gradients(model: nn.Module, context: TrainContext) -> None:
    """Sum every parameter's gradient over the ranks, in one flat buffer.

    A parameter that had no gradient on any rank keeps none, so that Adam leaves it untouched, weight decay included;
    the flags for that travel in the same buffer (one read-back per step, with several ranks only).
    """
    if context.world_size == 1:
        return
    parameters = list(model.parameters())
    flags = [float(parameter.grad is not None) for parameter in parameters]
    pieces = [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in parameters]
    flat = torch.cat([piece.flatten() for piece in pieces] + [parameters[0].new_tensor(flags)])
    context.all_reduce([flat])
    has_gradient = (flat[-len(flags) :] > 0).tolist()
    offset = 0
    for parameter, has in zip(parameters, has_gradient, strict=True):
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter) if has else None
        offset += parameter.numel()


@torch.no_grad()
def reduce_token_mean(tokens: Sequence[Tensor], queries_kD: Tensor, context: TrainContext) -> Tensor:
    """The mean of T (k×D) over the global batch's bags that recycled anything; the queries themselves if none did."""
    packed = queries_kD.new_zeros(queries_kD.numel() + 1)
    for tokens_kD in tokens:
        packed[:-1] += tokens_kD.flatten()
    packed[-1] = len(tokens)
    context.all_reduce([packed])
    mean_kD = (packed[:-1] / packed[-1].clamp(min=1)).view_as(queries_kD)
    return torch.where(packed[-1] > 0, mean_kD, queries_kD)
