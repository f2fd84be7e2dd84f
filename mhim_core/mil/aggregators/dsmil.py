"""DSMIL: dual-stream MIL (Li et al., 2021), a critical instance per class and attention by likeness to it.

Shape suffixes: see the package's docstring; Q features of a query.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws, own_weights

QUERY_DIM = 128


@register_aggregator("dsmil", mining=True)
class Dsmil(Aggregator):
    """I = W_i z + b; m_c = argmax_n I[n,c]; A = softmax_n(q(z)·q(z_mc)/√128); B = AᵀV, F = B (C×D).

    Logits are half the bag's (a convolution over B) and half the critical instances'. Gradient flows through both the
    maximum and z_mc. `head` is the published checkpoints' unused one: it gets no gradient, and Adam leaves it alone.
    """

    classifies_instances = True
    packs = True
    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.instance_head = nn.Linear(dim, num_classes)
        self.query = nn.Sequential(nn.Linear(dim, QUERY_DIM), nn.ReLU(), nn.Linear(QUERY_DIM, QUERY_DIM), nn.Tanh())
        self.value = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.bag_head = nn.Conv1d(num_classes, num_classes, kernel_size=dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        critical = self.instance_head(h_ND).max(dim=0)
        query_NQ = self.query(h_ND)
        energy_CN = query_NQ.index_select(0, critical.indices) @ query_NQ.T
        attention_CN = (energy_CN / QUERY_DIM**0.5).softmax(dim=1)
        feature_CD = attention_CN @ self.value(h_ND)
        logits_C = 0.5 * self.bag_logits(feature_CD) + 0.5 * critical.values
        return BagOutput(logits_C, feature_CD, attention_CN)

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        logits_CN = self.instance_head(h_ND).T
        critical = torch.where(pack.is_own[:, None], logits_CN, -torch.inf).max(dim=2)
        query_NQ = self.query(h_ND)
        energy_AN = query_NQ.index_select(0, critical.indices.flatten()) @ query_NQ.T  # A: B·C critical instances
        attention_BCN = pack.softmax(energy_AN.view(*critical.indices.shape, -1) / QUERY_DIM**0.5)
        feature_BCD = pack.sums(attention_BCN, self.value(h_ND))
        logits_BC = 0.5 * self.bag_head(feature_BCD)[:, :, 0] + 0.5 * critical.values
        return PackedOutput(logits_BC, feature_BCD, own_weights(attention_BCN))

    def bag_logits(self, feature_CD: Float[Tensor, "C D"]) -> Float[Tensor, "C"]:
        """The bag stream's own logits."""
        logits_C: Tensor = self.bag_head(feature_CD[None])[0, :, 0]
        return logits_C

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """I, the instance stream's predictions with their bias."""
        logits_NC: Tensor = self.instance_head(h_ND)
        return logits_NC

    def attention_score(self, output: BagOutput) -> Float[Tensor, "1 N"]:
        """max_c A[n,c]: the classes do not vote."""
        return torch.amax(output.attention_HN, dim=0, keepdim=True)
