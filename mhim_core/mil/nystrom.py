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
from mhim_core.mil.landmark_attention import summarise, weigh_tokens
from mhim_core.mil.model_options import TRANSMIL_HEADS
from mhim_core.mil.projections import project
from mhim_core.mil.pseudo_inverse import PseudoInverse
from mhim_core.mil.token_convolution import convolve_tokens

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
    ) -> NystromOutput:
        """`x_TD` is layer-normed. `draws` and `purpose`: of the dropout; None: inference.

        `first_only`: the output of the first token alone, the same numbers for a third of the work.
        """
        num_zeros = -len(x_TD) % self.num_landmarks
        projected = project(x_TD, self.to_qkv.weight, self.num_landmarks, first_only=first_only)
        # linear maps and means commute, so landmarks are averaged before they are projected
        weight_q, weight_k, _ = self.to_qkv.weight.chunk(3)
        landmark_q_HME = split_heads(F.linear(projected.mean_MD, weight_q)) * self.scale
        landmark_k_HME = split_heads(F.linear(projected.mean_MD, weight_k))
        inverse = PseudoInverse((landmark_q_HME @ landmark_k_HME.transpose(1, 2)).softmax(dim=2))
        landmark_k_HME = landmark_k_HME * self.scale  # instead of the queries, which are many
        q_HQE = split_heads(projected.query_QD)
        if projected.value_TD is None:
            row_HM = _first_row(q_HQE, landmark_k_HME, inverse)
            row_HT = weigh_tokens(landmark_q_HME, projected.key_TD, num_zeros, row_HM)
            joined_QD = self._first_values(row_HT, x_TD)
        else:
            with torch.no_grad():
                row_HM = _first_row(q_HQE, landmark_k_HME, inverse)
            summary_HME, row_HT = summarise(landmark_q_HME, projected.key_TD, projected.value_TD, num_zeros, row_HM)
            attended_QD = join_heads(attend(q_HQE, landmark_k_HME, inverse.before(summary_HME)))
            joined_QD = attended_QD + convolve_tokens(projected.value_TD, self.res_conv.weight[:, 0, :, 0])
        tokens_QD = self.to_out(joined_QD)
        if draws is not None:
            tokens_QD = draws.dropout(purpose, tokens_QD, self.dropout)
        return NystromOutput(tokens_QD, row_HT.detach())

    def _first_values(self, row_HT: Tensor, x_TD: Tensor) -> Tensor:
        """The first token's (A1 Z) A3 v + conv(v), whose weights over the tokens are few: v is made of their sums."""
        taps_HW = self.res_conv.weight[:, 0, RESIDUAL_KERNEL // 2 :, 0]
        num_reached = min(taps_HW.shape[1], len(x_TD))
        weight_HT = row_HT + F.pad(taps_HW[:, :num_reached], (0, len(x_TD) - num_reached))
        return (self.value_weight_HED @ (weight_HT @ x_TD)[:, :, None]).flatten()[None]

    @property
    def value_weight_HED(self) -> Tensor:  # noqa: N802
        """Each head's projection of the tokens to values."""
        return self.to_qkv.weight.chunk(3)[2].unflatten(0, (TRANSMIL_HEADS, -1))


def attend(
    q_HQE: Float[Tensor, "H Q E"], k_HKE: Float[Tensor, "H K E"], v_HKE: Float[Tensor, "H K E"]
) -> Float[Tensor, "H Q E"]:
    """softmax(q kᵀ) v without holding the Q×K matrix, in the backward pass neither."""
    return F.scaled_dot_product_attention(q_HQE[None], k_HKE[None], v_HKE[None], scale=1.0)[0]


def split_heads(x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "H T E"]:
    """Features are head-major."""
    return x_TD.view(len(x_TD), TRANSMIL_HEADS, -1).transpose(0, 1)


def join_heads(x_HTE: Float[Tensor, "H T E"]) -> Float[Tensor, "T D"]:
    """The inverse of `split_heads`."""
    return x_HTE.transpose(0, 1).flatten(1)


def _first_row(q_HQE: Tensor, landmark_k_HME: Tensor, inverse: PseudoInverse) -> Tensor:
    """A1 Z of the first token."""
    return inverse.after((q_HQE[:, :1] @ landmark_k_HME.transpose(1, 2)).softmax(dim=2)).squeeze(1)
