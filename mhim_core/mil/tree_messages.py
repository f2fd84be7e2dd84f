"""Messages between neighbours in a tree of instances (GENConv: Li et al., 2020).

Shape suffixes: see the package's docstring. A softmax over neighbours is each feature's own, so that some features at a
time go through it, and again in the backward pass: of the N×D arrays in between none exists whole. Nothing waits for
the device.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from mhim_core.mil.aggregator import SelfStarting
from mhim_core.mil.draws import Draws
from mhim_core.mil.large_bags import is_large

MESSAGE_FLOOR = 1e-7
EXPANSION = 2
VALUES_AT_ONCE = 2**21
ROWS_AT_ONCE = 8192


class TreeMessages(SelfStarting):
    """h ← h + dropout(relu(LN(MLP(h + Σ_j α_j m_j)))), m_j = relu(h_j) + 1e-7 of the neighbours j, α a softmax of t·m_j
    over them for each feature, t learned."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.sharpness = nn.Parameter(torch.zeros(1))
        self.widen = nn.Linear(dim, EXPANSION * dim)
        self.inner_norm = nn.LayerNorm(EXPANSION * dim)
        self.narrow = nn.Linear(EXPANSION * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def start_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """The softmax starts at t = 1."""
        nn.init.ones_(parameter)

    def forward(
        self, h_ND: Float[Tensor, "N D"], parent_N: Int64[Tensor, "N"], draws: Draws | None = None, purpose: str = ""
    ) -> Float[Tensor, "N D"]:
        """`parent_N`: the row of each one's parent, -1 for none. `draws`, `purpose`: dropout's; None: inference."""
        received_ND = receive(h_ND, parent_N, self.sharpness)
        if is_large(len(h_ND)):
            parts = zip(h_ND.split(ROWS_AT_ONCE), received_ND.split(ROWS_AT_ONCE), strict=True)
            change_ND = torch.cat([self._change_again(*part) for part in parts])
        else:
            change_ND = self._change(h_ND, received_ND)
        return h_ND + (change_ND if draws is None else draws.dropout(purpose, change_ND, self.dropout))

    def _change(self, h_RD: Tensor, received_RD: Tensor) -> Tensor:
        inner = self.inner_norm(self.widen(h_RD + received_RD)).relu()
        change_RD: Tensor = self.norm(self.narrow(inner)).relu()
        return change_RD

    def _change_again(self, h_RD: Tensor, received_RD: Tensor) -> Tensor:
        """The same, computed anew in the backward pass."""
        if not torch.is_grad_enabled():
            return self._change(h_RD, received_RD)
        change_RD: Tensor = checkpoint(self._change, h_RD, received_RD, use_reentrant=False, preserve_rng_state=False)
        return change_RD


def receive(
    h_ND: Float[Tensor, "N D"], parent_N: Int64[Tensor, "N"], sharpness: Float[Tensor, "1"]
) -> Float[Tensor, "N D"]:
    """Σ_j α_j m_j of every row's parent and children; 0 where it has neither. First derivatives alone."""
    received_ND: Tensor = _Received.apply(h_ND, parent_N, sharpness)
    return received_ND


class _Received(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, parent_N: Tensor, sharpness: Tensor) -> Tensor:
        ctx.save_for_backward(h_ND, parent_N, sharpness)
        received_ND = torch.empty_like(h_ND)
        width = _num_features(h_ND)
        for part_Nf, out_Nf in zip(h_ND.split(width, dim=1), received_ND.split(width, dim=1), strict=True):
            out_Nf.copy_(weigh_neighbours(part_Nf, parent_N, sharpness))
        return received_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, parent_N, sharpness = ctx.saved_tensors
        h_gradient_ND, sharpness_gradient = torch.empty_like(h_ND), torch.zeros_like(sharpness)
        width = _num_features(h_ND)
        parts = (tensor.split(width, dim=1) for tensor in (h_ND, gradient_ND, h_gradient_ND))
        for part_Nf, out_Nf, h_gradient_Nf in zip(*parts, strict=True):
            leaves = [part_Nf.detach().requires_grad_(), sharpness.detach().requires_grad_()]
            with torch.enable_grad():
                received_Nf = weigh_neighbours(leaves[0], parent_N, leaves[1])
            part, own = torch.autograd.grad(received_Nf, leaves, out_Nf)
            h_gradient_Nf.copy_(part)
            sharpness_gradient += own
        return h_gradient_ND, None, sharpness_gradient


def _num_features(h_ND: Tensor) -> int:
    return max(1, min(h_ND.shape[1], VALUES_AT_ONCE // len(h_ND)))


def weigh_neighbours(h_ND: Tensor, parent_N: Tensor, sharpness: Tensor) -> Tensor:
    """`receive` of some features in plain operations."""
    num = len(h_ND)
    is_root_N1 = (parent_N < 0)[:, None]
    up_N = torch.where(parent_N < 0, num, parent_N)  # row `num` is above the roots, and nobody's
    message_ND = h_ND.relu() + MESSAGE_FLOOR
    energy_ND = sharpness * message_ND
    from_parent = up_N.clamp(max=num - 1)
    with torch.no_grad():  # a softmax ignores what is taken off all its energies
        parent_energy_ND = energy_ND[from_parent].masked_fill(is_root_N1, -torch.inf)
        highest_ND = torch.cat([parent_energy_ND, parent_energy_ND.new_full((1, h_ND.shape[1]), -torch.inf)])
        highest_ND = highest_ND.scatter_reduce(0, up_N[:, None].expand_as(energy_ND), energy_ND, "amax")
        highest_ND = torch.where(highest_ND == -torch.inf, 0, highest_ND)
    parent_weight_ND = (energy_ND[from_parent] - highest_ND[:num]).masked_fill(is_root_N1, -torch.inf).exp()
    child_weight_ND = (energy_ND - highest_ND[up_N]).exp()
    none = h_ND.new_zeros(num + 1, h_ND.shape[1])
    weight_ND = parent_weight_ND + none.index_add(0, up_N, child_weight_ND)[:num]
    sum_ND = parent_weight_ND * message_ND[from_parent]
    sum_ND = sum_ND + none.index_add(0, up_N, child_weight_ND * message_ND)[:num]
    # the highest weighs 1, so that only a row without neighbours has no weight
    return sum_ND / torch.where(weight_ND > 0, weight_ND, 1)
