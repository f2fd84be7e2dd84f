"""Tokens on a square grid, convolved channel by channel. Shape suffixes: see `nystrom`; S cells of a side."""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

ROWS = 4
"""Rows of the grid at a time in the kernel's gradient on a CPU, so that they stay in its cache."""


def encode_positions(
    x_TD: Float[Tensor, "T D"], kernel_D1WW: Float[Tensor, "D 1 W W"], bias_D: Float[Tensor, "D"]
) -> Float[Tensor, "T D"]:
    """x + convolution of x, but for the first token, which has no place; W is odd.

    The others lie row-major on the smallest square grid. One that is not full is filled with the first of them; one of
    less than W×W cells is then extended by zeros.
    """
    encoded_TD: Tensor = _Positions.apply(x_TD, kernel_D1WW, bias_D)
    return encoded_TD


class _Positions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, kernel_D1WW: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, kernel_D1WW)
        encoded_TD = _convolve(_grid(x_TD, kernel_D1WW.shape[-1], fill=True), kernel_D1WW, bias_D)[: len(x_TD) - 1]
        result_TD = x_TD.clone()
        result_TD[1:] += encoded_TD
        return result_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_TD, kernel_D1WW = ctx.saved_tensors
        width, num = kernel_D1WW.shape[-1], len(x_TD) - 1
        gradient_1DSS = _grid(gradient_TD, width, fill=False)
        of_cells = _convolve(gradient_1DSS, kernel_D1WW.flip(2, 3), None)
        x_gradient_TD = gradient_TD.clone()
        x_gradient_TD[1:] += of_cells[:num]
        num_repeated = _side(num) ** 2 - num
        x_gradient_TD[1 : 1 + num_repeated] += of_cells[num : num + num_repeated]
        kernel_gradient = _kernel_gradient(_grid(x_TD, width, fill=True), gradient_1DSS, kernel_D1WW)
        return x_gradient_TD, kernel_gradient, gradient_TD[1:].sum(dim=0)


def _side(num: int) -> int:
    return math.isqrt(num - 1) + 1


def _grid(x_TD: Tensor, width: int, *, fill: bool) -> Tensor:
    """1×D×S×S, a view whose channels lie last in memory, the layout that the convolution is fastest in."""
    num = len(x_TD) - 1
    side = max(_side(num), width)
    cells = x_TD.new_empty(side * side, x_TD.shape[1])
    num_repeated = _side(num) ** 2 - num if fill else 0
    cells[:num], cells[num : num + num_repeated] = x_TD[1:], x_TD[1 : 1 + num_repeated]
    cells[num + num_repeated :] = 0
    return cells.view(1, side, side, -1).permute(0, 3, 1, 2)


def _convolve(grid_1DSS: Tensor, kernel_D1WW: Tensor, bias_D: Tensor | None) -> Tensor:
    """The cells, row-major."""
    convolved = F.conv2d(grid_1DSS, kernel_D1WW, bias_D, padding=kernel_D1WW.shape[-1] // 2, groups=len(kernel_D1WW))
    return convolved.permute(0, 2, 3, 1).flatten(0, 2)


def _kernel_gradient(grid_1DSS: Tensor, gradient_1DSS: Tensor, kernel_D1WW: Tensor) -> Tensor:
    dim, width, side = len(kernel_D1WW), kernel_D1WW.shape[-1], grid_1DSS.shape[-1]
    if grid_1DSS.device.type != "cpu":
        shape = list(kernel_D1WW.shape)
        return conv2d_weight(grid_1DSS, shape, gradient_1DSS, padding=width // 2, groups=dim)
    # torch takes three times as long for it: its kernel strides through memory channel by channel
    reach = width // 2
    padded_SSD = F.pad(grid_1DSS[0].permute(1, 2, 0), (0, 0, reach, reach, reach, reach))
    gradient_SSD = gradient_1DSS[0].permute(1, 2, 0)
    kernel_gradient = torch.zeros(width, width, dim, dtype=grid_1DSS.dtype)
    for first in range(0, side, ROWS):
        rows = gradient_SSD[first : first + ROWS]
        product = torch.empty_like(rows)
        for down in range(width):
            reached = padded_SSD[first + down : first + down + len(rows)]
            for right in range(width):
                torch.mul(reached[:, right : right + side], rows, out=product)
                kernel_gradient[down, right] += product.flatten(0, 1).sum(dim=0)
    return kernel_gradient.permute(2, 0, 1)[:, None].contiguous()
