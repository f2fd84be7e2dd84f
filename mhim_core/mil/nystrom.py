"""Nyström self-attention (Xiong et al., 2021): softmax attention in linear memory through landmarks.

Shape suffixes: see the package's docstring; T tokens (CLS first, then the instances), M landmarks, Q queries,
E features of one head.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import TRANSMIL_HEADS

PINV_ITERATIONS = 6
RESIDUAL_KERNEL = 33


class NystromOutput(NamedTuple):
    """One layer's output before the skip connection, for every token or for the first alone."""

    tokens_QD: Float[Tensor, "Q D"]
    first_row_HT: Float[Tensor, "H T"]
    """The first token's attention to all tokens, per head, without gradient. Only about a distribution: the
    approximate inverse makes small negative values, and landmarks of zero rows take a share."""


class NystromAttention(nn.Module):
    """out = A1 Z (A3 v) + conv(v), Z ≈ A2⁻¹, heads joined, projected, dropped out.

    A1 = softmax(q k̃ᵀ), A2 = softmax(q̃ k̃ᵀ), A3 = softmax(q̃ kᵀ), with D/2 landmarks q̃, k̃ that are means over
    ⌈T/M⌉ consecutive rows. Zero rows in front fill the sequence up to M·⌈T/M⌉; nothing masks them.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.num_landmarks = dim // 2
        self.scale = (dim // TRANSMIL_HEADS) ** -0.5
        self.dropout = dropout
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.res_conv = nn.Conv2d(
            TRANSMIL_HEADS,
            TRANSMIL_HEADS,
            (RESIDUAL_KERNEL, 1),
            padding=(RESIDUAL_KERNEL // 2, 0),
            groups=TRANSMIL_HEADS,
            bias=False,
        )

    def forward(
        self,
        x_TD: Float[Tensor, "T D"],
        draws: Draws | None = None,
        purpose: str = "",
        *,
        first_only: bool = False,
        with_row: bool = True,
    ) -> NystromOutput:
        """`x_TD` is layer-normed. `draws` and `purpose`: of the dropout; None: inference.

        `first_only`: the output of the first token alone, the same numbers for a third of the work. `with_row`: also
        compute the first token's attention row; else it is empty (H×0).
        """
        num_zeros = -len(x_TD) % self.num_landmarks
        weight_q, weight_k, weight_v = self.to_qkv.weight.chunk(3)
        # linear maps and means commute, so landmarks are averaged before they are projected
        mean_MD = F.pad(x_TD, (0, 0, num_zeros, 0)).view(self.num_landmarks, -1, x_TD.shape[1]).mean(dim=1)
        landmark_q_HME = split_heads(F.linear(mean_MD, weight_q)) * self.scale
        landmark_k_HME = split_heads(F.linear(mean_MD, weight_k))
        q_HQE = split_heads(F.linear(x_TD[:1] if first_only else x_TD, weight_q)) * self.scale
        # the zero rows' keys and values; the order of keys does not matter, so they go behind
        k_HTE = F.pad(split_heads(F.linear(x_TD, weight_k)), (0, 0, 0, num_zeros))
        v_HTE = F.pad(split_heads(F.linear(x_TD, weight_v)), (0, 0, 0, num_zeros))

        inverse_HMM = invert((landmark_q_HME @ landmark_k_HME.transpose(1, 2)).softmax(dim=2))
        summary_HME = inverse_HMM @ attend(landmark_q_HME, k_HTE, v_HTE)
        attended_HQE = attend(q_HQE, landmark_k_HME, summary_HME)
        tokens_QD = self.to_out(join_heads(attended_HQE + self._convolve(v_HTE[:, : len(x_TD)], first_only)))
        if draws is not None:
            tokens_QD = draws.dropout(purpose, tokens_QD, self.dropout)
        if not with_row:
            return NystromOutput(tokens_QD, x_TD.new_zeros(TRANSMIL_HEADS, 0))
        row_HT = _first_row(q_HQE, landmark_k_HME, inverse_HMM, landmark_q_HME, k_HTE)
        return NystromOutput(tokens_QD, row_HT[:, : len(x_TD)])

    def values(self, x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "H T E"]:
        """v of each head, of layer-normed tokens."""
        return split_heads(F.linear(x_TD, self.to_qkv.weight.chunk(3)[2]))

    def _convolve(self, v_HTE: Tensor, first_only: bool) -> Tensor:
        # zero rows in front and the convolution's own zero padding are the same to it
        if not first_only:
            convolved_HTE: Tensor = self.res_conv(v_HTE[None])[0]
            return convolved_HTE
        taps_HW = self.res_conv.weight[:, 0, RESIDUAL_KERNEL // 2 :, 0]
        reached_HWE = v_HTE[:, : taps_HW.shape[1]]
        return taps_HW[:, None, : reached_HWE.shape[1]] @ reached_HWE


def attend(
    q_HQE: Float[Tensor, "H Q E"], k_HKE: Float[Tensor, "H K E"], v_HKE: Float[Tensor, "H K E"]
) -> Float[Tensor, "H Q E"]:
    """softmax(q kᵀ) v without holding the Q×K matrix, in the backward pass neither."""
    return F.scaled_dot_product_attention(q_HQE[None], k_HKE[None], v_HKE[None], scale=1.0)[0]


def invert(a_HMM: Float[Tensor, "H M M"]) -> Float[Tensor, "H M M"]:
    """The approximate pseudo-inverse of row-stochastic matrices: Z ← ¼ Z(13I - AZ(15I - AZ(7I - AZ))), six times.

    Starts at Aᵀ/(largest row sum · largest column sum): two numbers over all heads of the bag, with gradient.
    """
    magnitude_HMM = a_HMM.abs()
    z_HMM = a_HMM.transpose(1, 2) / (magnitude_HMM.sum(dim=2).max() * magnitude_HMM.sum(dim=1).max())
    identity_MM = torch.eye(a_HMM.shape[1], dtype=a_HMM.dtype, device=a_HMM.device)
    for _ in range(PINV_ITERATIONS):
        az_HMM = a_HMM @ z_HMM
        inner_HMM = 15 * identity_MM - az_HMM @ (7 * identity_MM - az_HMM)
        z_HMM = 0.25 * z_HMM @ (13 * identity_MM - az_HMM @ inner_HMM)
    return z_HMM


def split_heads(x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "H T E"]:
    """Features are head-major."""
    return x_TD.view(len(x_TD), TRANSMIL_HEADS, -1).transpose(0, 1)


def join_heads(x_HTE: Float[Tensor, "H T E"]) -> Float[Tensor, "T D"]:
    """The inverse of `split_heads`."""
    return x_HTE.transpose(0, 1).flatten(1)


@torch.no_grad()
def _first_row(
    q_HQE: Tensor, landmark_k_HME: Tensor, inverse_HMM: Tensor, landmark_q_HME: Tensor, k_HTE: Tensor
) -> Tensor:
    """(A1[first] Z) A3, a head at a time: A3 of all heads would be the largest tensor of the model."""
    to_landmark_H1M = (q_HQE[:, :1] @ landmark_k_HME.transpose(1, 2)).softmax(dim=2) @ inverse_HMM
    heads = zip(to_landmark_H1M, landmark_q_HME, k_HTE, strict=True)
    return torch.cat([row_1M @ (q_ME @ k_TE.T).softmax(dim=1) for row_1M, q_ME, k_TE in heads])
