"""A short filter of each head along a sequence, as products with small banded matrices. Shape suffixes: see `nystrom`.

Torch's convolutions of a channel a head take several times as long on a CPU.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 32
"""Tokens that one product makes."""


def convolve_tokens(x_TD: Float[Tensor, "T D"], taps_HW: Float[Tensor, "H W"]) -> Float[Tensor, "T D"]:
    """y_t = Σ_w taps_w x_{t + w - ⌊W/2⌋} within each head's features, zeros beyond both ends; W is odd."""
    convolved_TD: Tensor = _TokenConvolution.apply(x_TD, taps_HW)
    return convolved_TD


class _TokenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, taps_HW: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, taps_HW)
        return _convolve(x_TD, taps_HW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[Tensor, Tensor]:
        x_TD, taps_HW = ctx.saved_tensors
        num_heads, width = taps_HW.shape
        taps_gradient_HW = torch.empty_like(taps_HW)
        gradient_nBD = _blocks(gradient_TD, 0)
        heads = zip(_windows(x_TD, width, num_heads), gradient_nBD.tensor_split(num_heads, dim=2), strict=True)
        for head, (window_nVE, gradient_nBE) in enumerate(heads):
            banded_BV = (gradient_nBE @ window_nVE.transpose(1, 2)).sum(dim=0)
            taps_gradient_HW[head] = banded_BV.as_strided((BLOCK, width), (banded_BV.shape[1] + 1, 1)).sum(dim=0)
        return _convolve(gradient_TD, taps_HW.flip(1)), taps_gradient_HW


def _convolve(x_TD: Tensor, taps_HW: Tensor) -> Tensor:
    num_heads, width = taps_HW.shape
    convolved_nBD = x_TD.new_empty(-(-len(x_TD) // BLOCK), BLOCK, x_TD.shape[1])
    banded_HBV = torch.stack([F.pad(taps_HW, (row, BLOCK - 1 - row)) for row in range(BLOCK)], dim=1)
    heads = zip(banded_HBV, _windows(x_TD, width, num_heads), convolved_nBD.tensor_split(num_heads, dim=2), strict=True)
    for banded_BV, window_nVE, convolved_nBE in heads:
        convolved_nBE.copy_(banded_BV.expand(len(window_nVE), -1, -1) @ window_nVE)
    return convolved_nBD.flatten(0, 1)[: len(x_TD)]


def _blocks(x_TD: Tensor, reach: int) -> Tensor:
    """The tokens in blocks, zeros behind; with `reach` also that many zeros on both sides, not in blocks."""
    num_blocks = -(-len(x_TD) // BLOCK)
    padded = F.pad(x_TD, (0, 0, reach, num_blocks * BLOCK - len(x_TD) + reach))
    return padded if reach else padded.view(num_blocks, BLOCK, -1)


def _windows(x_TD: Tensor, width: int, num_heads: int) -> tuple[Tensor, ...]:
    """For each head the tokens that each block's products read, as a view of overlapping windows."""
    padded = _blocks(x_TD, width // 2)
    num_blocks, dim = -(-len(x_TD) // BLOCK), x_TD.shape[1]
    windows = padded.as_strided((num_blocks, BLOCK + width - 1, dim), (BLOCK * dim, dim, 1))
    return windows.tensor_split(num_heads, dim=2)
