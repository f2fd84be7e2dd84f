"""Selective state spaces along several orders of a bag's instances, linear in their number (Dao & Gu, 2024, Mamba-2).

Shape suffixes: see the package's docstring; besides
    E channels (twice D)   H heads, of P channels each   S states of a channel   W taps of the convolution
    A branches: orders and directions, each with small parameters of its own   L tokens of a span   Q tokens of a chunk
    X = E + 2S + H: what a token brings along, its channels, B, C and Δ

Every branch is S_t = exp(-Δ_t e^A) S_{t-1} + Δ_t B_t x_tᵀ, y_t = C_tᵀ S_t + D x_t, Δ_t = softplus(dt_t + bias), after a
causal convolution of x, B and C with SiLU. Inside a chunk that is one masked product, between chunks a scan over
states; a difference of cumulated logarithms stands for each product of decays. Only one span of tokens is unfolded at a
time: what autograd would keep of it is computed anew in the backward pass. The gate's norm is a branch's own, and so is
in here, with the mean over the branches. All sums have a fixed order on every device.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mhim_core.mil.aggregator import SelfStarting

CONVOLUTION_WIDTH = 4
HEAD_DIM = 64
CHUNK_TOKENS = 64
"""Of a chunk: the published 256 is the same function and takes more arithmetic."""
SPAN_TOKENS = 2048
"""Tokens, over branches, that are unfolded at a time."""
NORM_EPS = 1e-5
DELTA_RANGE = (1e-3, 1e-1)
"""In which Δ starts, log-uniformly."""
DECAY_RANGE = (1.0, 16.0)
"""In which e^A starts, uniformly."""


class BranchParameters(NamedTuple):
    """Of all branches."""

    taps_AWV: Tensor
    """V = E + 2S channels of the convolution; the last tap is the token's own."""
    shift_AV: Tensor
    delta_bias_AH: Tensor
    log_decay_AH: Tensor
    skip_AH: Tensor


class SelectiveScan(SelfStarting):
    """A Mamba-2 block over several orders: norm, projection in, a scan per branch, projection out of their mean."""

    def __init__(self, dim: int, num_states: int, num_branches: int) -> None:
        super().__init__()
        self.num_channels, self.num_states = 2 * dim, num_states
        head_dim = math.gcd(self.num_channels, HEAD_DIM)
        num_heads, num_convolved = self.num_channels // head_dim, self.num_channels + 2 * num_states
        self.norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, self.num_channels + num_convolved + num_heads, bias=False)
        self.conv_taps = nn.Parameter(torch.zeros(num_branches, CONVOLUTION_WIDTH, num_convolved))
        self.conv_shift = nn.Parameter(torch.zeros(num_branches, num_convolved))
        self.delta_bias = nn.Parameter(torch.zeros(num_branches, num_heads))
        self.log_decay = nn.Parameter(torch.zeros(num_branches, num_heads))
        self.skip = nn.Parameter(torch.zeros(num_branches, num_heads))
        self.gate_scale = nn.Parameter(torch.zeros(self.num_channels))
        self.project_out = nn.Linear(self.num_channels, dim, bias=False)

    def start_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """As the published block: Δ and decay in their ranges, skip and scale 1, the convolution as PyTorch's."""
        if name in ("skip", "gate_scale"):
            nn.init.ones_(parameter)
        elif name.startswith("conv_"):
            bound = CONVOLUTION_WIDTH**-0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif name == "log_decay":
            nn.init.uniform_(parameter, *DECAY_RANGE, generator=generator)
            with torch.no_grad():
                parameter.log_()
        else:
            low, high = map(math.log, DELTA_RANGE)
            nn.init.uniform_(parameter, low, high, generator=generator)
            with torch.no_grad():
                parameter.copy_(inverse_softplus(parameter.exp()))

    def forward(self, h_ND: Float[Tensor, "N D"], rows_AN: Int64[Tensor, "A N"]) -> Float[Tensor, "N D"]:
        """`rows_AN`: the rows in each branch's order."""
        parameters = BranchParameters(self.conv_taps, self.conv_shift, self.delta_bias, self.log_decay, self.skip)
        mean_NE = scan(self.project_in(self.norm(h_ND)), rows_AN, parameters, self.num_states)
        # the scale in the weights: it is a product less that N rows have to be kept for
        return F.linear(mean_NE, self.project_out.weight * self.gate_scale)


def inverse_softplus(x: Tensor) -> Tensor:
    """y with softplus(y) = x > 0."""
    return x + torch.log(-torch.expm1(-x))


def scan(
    zx_NX: Float[Tensor, "N EX"], rows_AN: Int64[Tensor, "A N"], parameters: BranchParameters, num_states: int
) -> Float[Tensor, "N E"]:
    """Mean over the branches of y·silu(z)/rms(y·silu(z)), each instance in its row again.

    `zx_NX`: of every instance the gate z (E), then its channels (E), B (S), C (S) and dt (H). First derivatives alone.
    """
    mean_NE: Tensor = _Scan.apply(zx_NX, rows_AN, num_states, *parameters)
    return mean_NE


class _Span(NamedTuple):
    branches: slice
    first: int
    last: int

    def rows(self, rows_AN: Tensor) -> Tensor:
        """Those of its tokens and of the few before them that the convolution looks at."""
        return rows_AN[self.branches, max(0, self.first - CONVOLUTION_WIDTH + 1) : self.last]

    @property
    def num_before(self) -> int:
        return min(self.first, CONVOLUTION_WIDTH - 1)


def _spans(num_branches: int, num: int) -> Iterator[list[_Span]]:
    """Small bags: several branches at once; large ones: span after span of each."""
    together = max(1, min(num_branches, SPAN_TOKENS // num))
    for branch in range(0, num_branches, together):
        branches = slice(branch, min(branch + together, num_branches))
        yield [_Span(branches, first, min(first + SPAN_TOKENS, num)) for first in range(0, num, SPAN_TOKENS)]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zx_NX: Tensor, rows_AN: Tensor, num_states: int, *tensors: Tensor) -> Tensor:
        parameters = BranchParameters(*tensors)
        num_branches, num = rows_AN.shape
        num_channels = parameters.taps_AWV.shape[2] - 2 * num_states
        mean_NE = zx_NX.new_zeros(num, num_channels)
        ctx.starts = []
        for spans in _spans(num_branches, num):
            num_together = spans[0].branches.stop - spans[0].branches.start
            state_ASE = zx_NX.new_zeros(num_together, num_states, num_channels)
            for span in spans:
                if ctx.needs_input_grad[0] or any(ctx.needs_input_grad[3:]):
                    ctx.starts.append(state_ASE)
                rows_AL = span.rows(rows_AN)
                own = BranchParameters(*(tensor[span.branches] for tensor in parameters))
                y_ALE, state_ASE = scan_span(zx_NX[rows_AL], state_ASE, own, span.num_before)
                for y_LE, rows_L in zip(y_ALE, rows_AL[:, span.num_before :], strict=True):
                    mean_NE.index_add_(0, rows_L, y_LE)
        ctx.save_for_backward(zx_NX, rows_AN, *parameters)
        ctx.num_states = num_states
        return mean_NE.div_(num_branches)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NE: Tensor) -> tuple[Tensor | None, ...]:
        zx_NX, rows_AN, *tensors = ctx.saved_tensors
        num_branches, num = rows_AN.shape
        zx_gradient_NX = torch.zeros_like(zx_NX)
        gradients = [torch.zeros_like(tensor) for tensor in tensors]
        starts = iter(reversed(ctx.starts))
        for spans in reversed(list(_spans(num_branches, num))):
            after_ASE: Tensor | None = None
            for span in reversed(spans):
                rows_AL = span.rows(rows_AN)
                leaves = [zx_NX[rows_AL], next(starts), *(tensor[span.branches] for tensor in tensors)]
                leaves = [leaf.detach().requires_grad_() for leaf in leaves]
                with torch.enable_grad():
                    y_ALE, state_ASE = scan_span(leaves[0], leaves[1], BranchParameters(*leaves[2:]), span.num_before)
                out_ALE = gradient_NE[rows_AL[:, span.num_before :]] / num_branches
                after_ASE = torch.zeros_like(state_ASE) if after_ASE is None else after_ASE
                zx_ALX, after_ASE, *own = torch.autograd.grad([y_ALE, state_ASE], leaves, [out_ALE, after_ASE])
                for rows_L, zx_LX in zip(rows_AL, zx_ALX, strict=True):
                    zx_gradient_NX.index_add_(0, rows_L, zx_LX)
                for total, part in zip(gradients, own, strict=True):
                    total[span.branches] += part
        return zx_gradient_NX, None, None, *gradients


class SpanResult(NamedTuple):
    """Of one span of tokens."""

    gated_ALE: Tensor
    state_ASE: Tensor
    """Behind its last token."""


def scan_span(zx_ALX: Tensor, state_ASE: Tensor, parameters: BranchParameters, num_before: int) -> SpanResult:
    """Gated and normed outputs of the tokens behind the first `num_before`, which only the convolution looks at."""
    num_states, num_channels = state_ASE.shape[1:]
    num_heads = parameters.delta_bias_AH.shape[1]
    sizes = [num_channels, num_channels + 2 * num_states, num_heads]
    z_ALE, xbc_ALV, dt_ALH = zx_ALX.split(sizes, dim=2)
    convolved_ALV = F.silu(_convolve(xbc_ALV, parameters, num_before))
    x_ALE, b_ALS, c_ALS = convolved_ALV.split([num_channels, num_states, num_states], dim=2)
    delta_ALH = F.softplus(dt_ALH[:, num_before:] + parameters.delta_bias_AH[:, None])
    y_ALE, state_ASE = _scan_chunks(x_ALE, b_ALS, c_ALS, delta_ALH, -parameters.log_decay_AH.exp(), state_ASE)
    per_channel = num_channels // num_heads
    y_ALE = y_ALE + parameters.skip_AH.repeat_interleave(per_channel, dim=1)[:, None] * x_ALE
    gated_ALE = y_ALE * F.silu(z_ALE[:, num_before:])
    rms_AL1 = (gated_ALE.square().mean(dim=2, keepdim=True) + NORM_EPS).rsqrt()
    return SpanResult(gated_ALE * rms_AL1, state_ASE)


def _convolve(xbc_ALV: Tensor, parameters: BranchParameters, num_before: int) -> Tensor:
    padded = F.pad(xbc_ALV, (0, 0, CONVOLUTION_WIDTH - 1 - num_before, 0))
    num = padded.shape[1] - CONVOLUTION_WIDTH + 1
    convolved_ALV = parameters.shift_AV[:, None]
    for tap in range(CONVOLUTION_WIDTH):
        convolved_ALV = convolved_ALV + parameters.taps_AWV[:, tap, None] * padded[:, tap : tap + num]
    return convolved_ALV


class _Scanned(NamedTuple):
    y_ALE: Tensor
    state_ASE: Tensor


def _scan_chunks(
    x_ALE: Tensor, b_ALS: Tensor, c_ALS: Tensor, delta_ALH: Tensor, rate_AH: Tensor, state_ASE: Tensor
) -> _Scanned:
    """The recursion. Tokens that fill the last chunk have Δ = 0: they leave the state as it is."""
    num, num_heads = delta_ALH.shape[1:]
    length = min(CHUNK_TOKENS, num)
    missing = -num % length
    x_AcQE, b_AcQS, c_AcQS, delta_AcQH = (
        F.pad(part, (0, 0, 0, missing)).unflatten(1, (-1, length)) for part in (x_ALE, b_ALS, c_ALS, delta_ALH)
    )
    is_later = torch.ones(length, length, dtype=torch.bool, device=x_ALE.device).triu(1)
    # a product in the place of cumsum, which has no deterministic kernel on a GPU
    log_AcQH = (~is_later).to(x_ALE.dtype) @ (delta_AcQH * rate_AH[:, None, None])
    x_AcQHP = x_AcQE.unflatten(3, (num_heads, -1))
    dx_AcQHP = x_AcQHP * delta_AcQH[..., None]

    # inside a chunk: y_t = Σ_{s ≤ t} (C_t·B_s) exp(log_t - log_s) Δ_s x_s
    log_AcHQ = log_AcQH.transpose(2, 3)
    decay_AcHQQ = (log_AcHQ[..., :, None] - log_AcHQ[..., None, :]).masked_fill(is_later, -torch.inf).exp()
    weights_AcHQQ = (c_AcQS @ b_AcQS.transpose(2, 3))[:, :, None] * decay_AcHQQ
    y_AcQHP = (weights_AcHQQ @ dx_AcQHP.transpose(2, 3)).transpose(2, 3)

    # what each chunk adds to the state behind it, and the states before the chunks
    to_end_AcQH = (log_AcQH[:, :, -1:] - log_AcQH).exp()
    added_AcSE = b_AcQS.transpose(2, 3) @ (dx_AcQHP * to_end_AcQH[..., None]).flatten(3)
    kept_AcE = log_AcQH[:, :, -1].exp().repeat_interleave(x_AcQHP.shape[4], dim=2)
    states = []
    for added_ASE, kept_AE in zip(added_AcSE.unbind(1), kept_AcE.unbind(1), strict=True):
        states.append(state_ASE)
        state_ASE = kept_AE[:, None] * state_ASE + added_ASE
    from_state_AcQE = c_AcQS @ torch.stack(states, dim=1)
    y_AcQHP = y_AcQHP + from_state_AcQE.unflatten(3, (num_heads, -1)) * log_AcQH.exp()[..., None]
    return _Scanned(y_AcQHP.flatten(3).flatten(1, 2)[:, :num], state_ASE)
