"""DSMIL: dual-stream MIL, a critical instance per class and attention by likeness to it.

Li & Eliceiri, 2020 (`dsmil_query=linear`), and Li et al., 2021, the default.

Shape suffixes: see the package's docstring; Q features of a query.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, register_aggregator
from mhim_core.mil.aggregators.dsmil_options import DsmilOptions, DsmilQuery
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws, own_weights

QUERY_DIM = 128


@register_aggregator("dsmil", mining=True, options=DsmilOptions)
class Dsmil(Aggregator):
    """I = W_i z + b; m_c = argmax_n I[n,c]; A = softmax_n(q(z)·q(z_mc)/√128); B = AᵀV, F = B (C×D).

    Logits are half the bag's (a convolution over B) and half the critical instances'. Gradient flows through both the
    maximum and z_mc. `head` is the published checkpoints' unused one: it gets no gradient, and Adam leaves it alone.

    With `dsmil_query=linear` (2020): q(z) = W_q z, A = softmax_n(q(z)·q(z_mc)), V = z, and the bag's logit of class c
    is the head's, W_p[c]·B_c + b_c.
    """

    classifies_instances = True
    packs = True
    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.instance_head = nn.Linear(dim, num_classes)
        self.query: nn.Module
        self.value: nn.Module
        self.bag_head: nn.Conv1d | None
        if options.own(DsmilOptions).dsmil_query == DsmilQuery.linear:
            self.query = nn.Linear(dim, QUERY_DIM, bias=False)
            self.value = nn.Identity()
            self.bag_head = None
            self.energy_scale = 1.0
        else:
            self.query = nn.Sequential(nn.Linear(dim, QUERY_DIM), nn.ReLU(), nn.Linear(QUERY_DIM, QUERY_DIM), nn.Tanh())
            self.value = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
            self.bag_head = nn.Conv1d(num_classes, num_classes, kernel_size=dim)
            self.energy_scale = QUERY_DIM**0.5
        self.head = nn.Linear(dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        critical = self.instance_head(h_ND).max(dim=0)
        query_NQ = self.query(h_ND)
        energy_CN = query_NQ.index_select(0, critical.indices) @ query_NQ.T
        attention_CN = (energy_CN / self.energy_scale).softmax(dim=1)
        feature_CD = attention_CN @ self.value(h_ND)
        logits_C = 0.5 * self.bag_logits(feature_CD) + 0.5 * critical.values
        return BagOutput(logits_C, feature_CD, attention_CN)

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        logits_CN = self.instance_head(h_ND).T
        critical = torch.where(pack.is_own[:, None], logits_CN, -torch.inf).max(dim=2)
        query_NQ = self.query(h_ND)
        energy_AN = query_NQ.index_select(0, critical.indices.flatten()) @ query_NQ.T  # A: B·C critical instances
        attention_BCN = pack.softmax(energy_AN.view(*critical.indices.shape, -1) / self.energy_scale)
        feature_BCD = pack.sums(attention_BCN, self.value(h_ND))
        logits_BC = 0.5 * self._bag_logits(feature_BCD) + 0.5 * critical.values
        return PackedOutput(logits_BC, feature_BCD, own_weights(attention_BCN))

    def bag_logits(self, feature_CD: Float[Tensor, "C D"]) -> Float[Tensor, "C"]:
        """The bag stream's own logits."""
        return self._bag_logits(feature_CD[None])[0]

    def _bag_logits(self, feature_BCD: Tensor) -> Tensor:
        if self.bag_head is None:
            return (feature_BCD * self.head.weight).sum(dim=2) + self.head.bias
        logits_BC: Tensor = self.bag_head(feature_BCD)[:, :, 0]
        return logits_BC

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """I, the instance stream's predictions with their bias."""
        logits_NC: Tensor = self.instance_head(h_ND)
        return logits_NC

    def attention_score(self, output: BagOutput) -> Float[Tensor, "1 N"]:
        """max_c A[n,c]: the classes do not vote."""
        return torch.amax(output.attention_HN, dim=0, keepdim=True)
