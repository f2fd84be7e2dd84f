"""The global recycle network: what random masking set aside, condensed into k tokens (IJCV 2025, section 3.4).

Shape suffixes: see the package's docstring; E features of one head, J = H·k queries of all heads.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.draws import Draws
from mhim_core.mil.normed_attention import NormedPool, attend_normed
from mhim_core.mil.packed import Pack, PackedDraws

NUM_HEADS = 8
HEAD_DIM = 64
MOST_AT_ONCE = 1_000_000
"""Attention weights of a pack that are computed at once, those of other bags included."""


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
        """`draws`: the bag's randomness in training; None: inference, no dropout.

        Products are associated so that none has R rows and a head's features both: q·(W_k n) = (W_kᵀ q)·n, and
        Σ a W_v n = W_v Σ a n, for the layer-normed instances n, whose scale and shift move out of the sums likewise.
        """
        num_queries, num_rows = len(self.queries), len(h_RD)
        factors_JR = None
        if draws is not None and self.dropout:
            keep = draws.keep("recycle_attention", (NUM_HEADS, num_queries, num_rows), self.dropout, h_RD.device)
            factors_JR = keep.factors(slice(None), h_RD).view(-1, num_rows)
        tokens_kD = self._project(attend_normed(self._query(), h_RD, factors_JR, self.norm.eps))
        return tokens_kD if draws is None else draws.dropout("recycle_output", tokens_kD, self.dropout)

    def forward_packed(
        self, h_RD: Float[Tensor, "R D"], pack: Pack, draws: PackedDraws | None = None
    ) -> Float[Tensor, "B k D"]:
        """`forward` of every bag of a pack: of few instances all at once, of many one bag after the other, since
        here the block of zeros for the other bags costs B products of all heads and queries."""
        num_queries = NUM_HEADS * len(self.queries)
        if len(pack.lengths) * num_queries * len(h_RD) > MOST_AT_ONCE:
            of_bags = [None] * len(pack.lengths) if draws is None else draws.of_bags
            return torch.stack([self(*bag) for bag in zip(pack.split(h_RD), of_bags, strict=True)])
        normed_RD = F.layer_norm(h_RD, h_RD.shape[1:], eps=self.norm.eps)
        attention_BJR = pack.softmax(self._query() @ normed_RD.T)
        if draws is not None and self.dropout:
            attention_BJR = attention_BJR * self._kept(pack, draws, attention_BJR)
        tokens_BkD = self._project(NormedPool(pack.sums(attention_BJR, normed_RD), attention_BJR.sum(dim=2)))
        if draws is None:
            return tokens_BkD
        num_tokens = [len(self.queries)] * len(pack.lengths)
        dropped = draws.over(num_tokens).dropout("recycle_output", tokens_BkD.flatten(0, 1), self.dropout)
        return dropped.view_as(tokens_BkD)

    def _query(self) -> Tensor:
        """What the energies are products of, with instances normed to mean 0 and deviation 1 (J×D)."""
        query_HkE = self.to_q(self.norm(self.queries)).view(-1, NUM_HEADS, HEAD_DIM).transpose(0, 1)
        weight_k_HED = self.to_kv.weight.view(2, NUM_HEADS, HEAD_DIM, -1)[0]
        # the shift of the norm adds the same to the energies of all instances, which the softmax ignores
        query_HkD = (query_HkE * HEAD_DIM**-0.5 @ weight_k_HED) * self.norm.weight
        return query_HkD.flatten(0, 1)

    def _project(self, pool: NormedPool) -> Tensor:
        """T of what was pooled, of one bag (k×D) or of several (B×k×D)."""
        weight_v_HED = self.to_kv.weight.view(2, NUM_HEADS, HEAD_DIM, -1)[1]
        pooled_JD = pool.pooled_JD * self.norm.weight + pool.total_J[..., None] * self.norm.bias
        value_HkE = pooled_JD.unflatten(-2, (NUM_HEADS, -1)) @ weight_v_HED.transpose(1, 2)
        tokens_kD: Tensor = self.to_out(value_HkE.transpose(-3, -2).flatten(-2))
        return tokens_kD

    def _kept(self, pack: Pack, draws: PackedDraws, like: Tensor) -> Tensor:
        """Factors of the attention's dropout (J×R), each bag's own."""
        shapes = [(NUM_HEADS * len(self.queries), length) for length in pack.lengths]
        bags = zip(draws.of_bags, shapes, strict=True)
        keeps = [of_bag.keep("recycle_attention", shape, self.dropout, like.device) for of_bag, shape in bags]
        return torch.cat([keep.factors(slice(None), like) for keep in keeps], dim=1)

    @torch.no_grad()
    def move_queries(self, mean_token_kD: Float[Tensor, "k D"], momentum: float) -> None:
        """G ← μ·G + (1-μ)·mean over the global batch's bags of T, after the optimizer step."""
        self.queries.lerp_(mean_token_kD, 1 - momentum)


def queries_bound(dim: int) -> float:
    """G starts uniform in ±√(6 / (3·16·16 + D))."""
    return math.sqrt(6 / (3 * 16 * 16 + dim))
