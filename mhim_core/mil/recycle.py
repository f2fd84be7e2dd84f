"""The global recycle network: what random masking set aside, condensed into k tokens (IJCV 2025, section 3.4).

Shape suffixes: see the package's docstring; E features of one head.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.draws import Draws

NUM_HEADS = 8
HEAD_DIM = 64


class RecycleNetwork(nn.Module):
    """T = MCA(LN(R), LN(G)): cross-attention from k global queries G to the recycled instances R, no residual."""

    queries: Tensor

    def __init__(self, dim: int, num_queries: int, dropout: float) -> None:
        super().__init__()
        inner = NUM_HEADS * HEAD_DIM
        self.dropout = dropout
        # a buffer: G moves by its own moving average, never by gradient
        self.register_buffer("queries", torch.zeros(num_queries, dim))
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, h_RD: Float[Tensor, "R D"], draws: Draws | None = None) -> Float[Tensor, "k D"]:
        """`draws`: the bag's randomness in training; None: inference, no dropout."""
        q_HkE = _split_heads(self.to_q(self.norm(self.queries)))
        key_RF, value_RF = self.to_kv(self.norm(h_RD)).chunk(2, dim=-1)
        energy_HkR = q_HkE @ _split_heads(key_RF).transpose(1, 2) * HEAD_DIM**-0.5
        attention_HkR = energy_HkR.softmax(dim=-1)
        if draws is not None:
            attention_HkR = draws.dropout("recycle_attention", attention_HkR, self.dropout)
        tokens_kF = (attention_HkR @ _split_heads(value_RF)).transpose(0, 1).flatten(1)
        tokens_kD = self.to_out(tokens_kF)
        return tokens_kD if draws is None else draws.dropout("recycle_output", tokens_kD, self.dropout)

    @torch.no_grad()
    def move_queries(self, mean_token_kD: Float[Tensor, "k D"], momentum: float) -> None:
        """G ← μ·G + (1-μ)·mean over the global batch's bags of T, after the optimizer step."""
        self.queries.lerp_(mean_token_kD, 1 - momentum)


def queries_bound(dim: int) -> float:
    """G starts uniform in ±√(6 / (3·16·16 + D))."""
    return math.sqrt(6 / (3 * 16 * 16 + dim))


def _split_heads(x_RF: Tensor) -> Tensor:
    return x_RF.view(len(x_RF), NUM_HEADS, HEAD_DIM).transpose(0, 1)
