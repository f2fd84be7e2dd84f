"""A query per class, that looks at a bag's tiles and then at the other queries: the layers of MDMIL.

Shape suffixes: see `packed`; E features of one head, J = H·C queries of all heads.
"""

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.packed import Pack

NUM_HEADS = 4
HEAD_DIM = 64
INTERNAL_SHARE = 0.3
"""Of the attention of the queries that are made of the bag's tiles; the rest is that of the learned ones."""
EXPANSION = 4
"""Width of the feed-forward layers, in D."""


class Attended(NamedTuple):
    """What the queries saw."""

    queries_BCD: Float[Tensor, "B C D"]
    attention_BCN: Float[Tensor, "B C N"]
    """The mean over the heads, within each bag; a distribution over its tiles."""


class TileAttention(nn.Module):
    """A = .3·softmax(qkᵀ/√E) + .7·softmax(q'kᵀ/√E); q of the bag's own queries IQ, q' of the learned ones, k and v of
    the layer-normed tiles; out = W_o(Av) + IQ.

    Products are associated so that none has N rows and a head's features both: q·(W_k n) = (W_kᵀq)·n, and
    Σ a W_v n = W_v Σ a n (ADR 24).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = NUM_HEADS * HEAD_DIM
        self.norm_internal, self.norm_learned, self.norm_tiles = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_q_learned = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(
        self,
        internal_BCD: Float[Tensor, "B C D"],
        learned_CD: Float[Tensor, "C D"],
        tiles_ND: Float[Tensor, "N D"],
        pack: Pack,
    ) -> Attended:
        """Of every bag of a pack."""
        normed_ND = F.layer_norm(tiles_ND, tiles_ND.shape[1:], eps=self.norm_tiles.eps)
        internal_BJD = self._keyed(self.to_q(self.norm_internal(internal_BCD)))
        learned_JD = self._keyed(self.to_q_learned(self.norm_learned(learned_CD)))
        internal_BJN = (internal_BJD.flatten(0, 1) @ normed_ND.T).unflatten(0, internal_BJD.shape[:2])
        attention_BJN = INTERNAL_SHARE * pack.softmax(internal_BJN)
        attention_BJN = attention_BJN + (1 - INTERNAL_SHARE) * pack.softmax(learned_JD @ normed_ND.T)
        # the weights of a bag sum to 1, so that the shift of the norm is added once
        pooled_BJD = pack.sums(attention_BJN, normed_ND) * self.norm_tiles.weight + self.norm_tiles.bias
        value_BHCE = pooled_BJD.unflatten(1, (NUM_HEADS, -1)) @ _by_head(self.to_v.weight).transpose(1, 2)
        out_BCD = self.to_out(value_BHCE.transpose(1, 2).flatten(2)) + internal_BCD
        return Attended(out_BCD, attention_BJN.unflatten(1, (NUM_HEADS, -1)).mean(dim=1))

    def _keyed(self, query_CI: Tensor) -> Tensor:
        """What the energies are products of, with tiles normed to mean 0 and deviation 1 (… J×D, heads first).

        The shift of the norm adds the same to the energies of all tiles, which the softmax ignores.
        """
        query_HCE = query_CI.unflatten(-1, (NUM_HEADS, HEAD_DIM)).transpose(-3, -2) * HEAD_DIM**-0.5
        return ((query_HCE @ _by_head(self.to_k.weight)) * self.norm_tiles.weight).flatten(-3, -2)


class QueryAttention(nn.Module):
    """x + W_o·attention of the queries LN(x) to each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = NUM_HEADS * HEAD_DIM
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x_BCD: Float[Tensor, "B C D"]) -> Float[Tensor, "B C D"]:
        """Of every bag of a pack."""
        heads = self.to_qkv(self.norm(x_BCD)).unflatten(-1, (3, NUM_HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        query_BHCE, key_BHCE, value_BHCE = heads.unbind()
        attention_BHCC = (query_BHCE @ key_BHCE.transpose(2, 3) * HEAD_DIM**-0.5).softmax(dim=3)
        out_BCD: Tensor = self.to_out((attention_BHCC @ value_BHCE).transpose(1, 2).flatten(2))
        return x_BCD + out_BCD


class FeedForward(nn.Module):
    """x + W₂(u ⊙ GELU(g)), [u, g] = W₁·LN(x) (GEGLU)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * EXPANSION * dim)
        self.narrow = nn.Linear(EXPANSION * dim, dim)

    def forward(self, x_BCD: Float[Tensor, "B C D"]) -> Float[Tensor, "B C D"]:
        """Of every bag of a pack."""
        value, gate = self.widen(self.norm(x_BCD)).chunk(2, dim=-1)
        out_BCD: Tensor = self.narrow(value * F.gelu(gate))
        return x_BCD + out_BCD


def _by_head(weight: Tensor) -> Tensor:
    """H×E×D."""
    return weight.unflatten(0, (NUM_HEADS, HEAD_DIM))


def unit_rows(x_CD: Float[Tensor, "*C D"]) -> Float[Tensor, "*C D"]:
    """Rows divided by their length; a row of zeros stays."""
    return F.normalize(x_CD, dim=-1)
