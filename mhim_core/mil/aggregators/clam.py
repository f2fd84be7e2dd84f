"""CLAM: gated attention with instance clustering (Lu et al., 2021), single-branch and multi-branch.

Shape suffixes: see the package's docstring; A attention branches, S sampled instances, first the most attended.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws, own_weights

ATTENTION_DIM = 256


@register_aggregator("clam-sb", mining=True)
class ClamSb(Aggregator):
    """e = w(tanh(W1 z + b1) ⊙ σ(Wg z + bg)) + b; a = softmax over instances; F = Σ a_n z_n.

    Beside the bag's loss, a two-way classifier of the bag's class learns to tell its most attended instances (1) from
    its least attended ones (0). With `clam_subtyping`, meant for classes that exclude each other, the classifiers of
    the other classes learn that the most attended instances are not theirs (0); without it the bag does not train them.
    """

    packs = True
    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions, num_branches: int = 1) -> None:
        super().__init__()
        dim = options.embed_dim
        self.dropout = options.dropout
        self.instance_weight = options.clam_instance_weight
        self.num_sampled = options.clam_num_sampled
        self.subtyping = options.clam_subtyping
        self.hidden = nn.Linear(dim, ATTENTION_DIM)
        self.gate = nn.Linear(dim, ATTENTION_DIM)
        self.energy = nn.Linear(ATTENTION_DIM, num_branches)
        self.head = nn.Linear(dim, num_classes)
        self.instance_heads = nn.ModuleList(nn.Linear(dim, 2) for _ in range(num_classes))

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        attention_AN = self._energies(h_ND, draws).softmax(dim=1)
        feature_D = (attention_AN @ h_ND)[0]
        return BagOutput(
            self.head(feature_D), feature_D, attention_AN, self._cluster(h_ND, attention_AN, draws), values_ND=h_ND
        )

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        attention_BAN = pack.softmax(self._energies(h_ND, draws))
        feature_BD = pack.sums(attention_BAN, h_ND)[:, 0]
        attention_AN = own_weights(attention_BAN)
        clusters = self._cluster_packed(h_ND, attention_AN, pack, draws)
        return PackedOutput(self.head(feature_BD), feature_BD, attention_AN, clusters, values_ND=h_ND)

    def task_loss(
        self, bag_loss: Float[Tensor, ""], output: BagOutput, label_index: Int64[Tensor, ""] | None
    ) -> Float[Tensor, ""]:
        """(1 - w)·bag loss + w·instance loss, the mean cross-entropy of the sampled instances.

        With subtyping it is the mean over all classes' classifiers. A bag of one instance has no samples; without
        classes (survival, regression) there are no clusters: the bag's loss alone.
        """
        clusters_CS2 = output.auxiliary
        if label_index is None or self.instance_weight == 0 or clusters_CS2 is None or clusters_CS2.shape[1] == 0:
            return bag_loss
        num_most = clusters_CS2.shape[1] // 2
        logits_S2 = clusters_CS2.index_select(0, label_index[None])[0]
        most_attended_S = torch.arange(len(logits_S2), device=logits_S2.device) < num_most
        instance_loss = F.cross_entropy(logits_S2, most_attended_S.long())
        if self.subtyping:
            other_C = torch.arange(len(clusters_CS2), device=logits_S2.device) != label_index
            foreign_C = -clusters_CS2[:, :num_most].log_softmax(dim=2)[:, :, 0].mean(dim=1)
            instance_loss = (instance_loss + (foreign_C * other_C).sum()) / len(clusters_CS2)
        return (1 - self.instance_weight) * bag_loss + self.instance_weight * instance_loss

    def _energies(self, h_ND: Tensor, draws: Draws | None) -> Tensor:
        hidden, gate = self.hidden(h_ND).tanh(), self.gate(h_ND).sigmoid()
        if draws is not None:
            hidden = draws.dropout("clam_hidden", hidden, self.dropout)
            gate = draws.dropout("clam_gate", gate, self.dropout)
        energy_AN: Tensor = self.energy(hidden * gate).T
        return energy_AN

    def _cluster(self, h_ND: Tensor, attention_AN: Tensor, draws: Draws | None) -> Tensor | None:
        """Each class's two logits of the instances that its branch (or the one there is) samples, in training."""
        if draws is None:
            return None
        order_AN = attention_AN.detach().argsort(dim=1, descending=True, stable=True)
        num = self._num_at_an_end(len(h_ND))
        return self._classify(h_ND, torch.cat([order_AN[:, :num], order_AN[:, order_AN.shape[1] - num :]], dim=1))

    def _cluster_packed(
        self, h_ND: Tensor, attention_AN: Tensor, pack: Pack, draws: PackedDraws | None
    ) -> tuple[Tensor, ...] | None:
        """`_cluster` of every bag."""
        if draws is None:
            return None
        rank_of_ends = []
        for length in pack.lengths:
            num = self._num_at_an_end(length)
            rank_of_ends.append(torch.cat([torch.arange(num), torch.arange(length - num, length)]))
        ends_AS = pack.ranked(attention_AN.detach()).index_select(1, pack.rows(rank_of_ends))
        return self._classify(h_ND, ends_AS).split([len(ranks) for ranks in rank_of_ends], dim=1)

    def _num_at_an_end(self, num_instances: int) -> int:
        """A bag of fewer than 2·num_sampled instances gives as many as keep the two ends apart."""
        return min(self.num_sampled, num_instances // 2)

    def _classify(self, h_ND: Tensor, ends_AS: Tensor) -> Tensor:
        branch_of = range(len(ends_AS)) if len(ends_AS) > 1 else [0] * len(self.instance_heads)
        clusters = [
            head(h_ND.index_select(0, ends_AS[branch]))
            for head, branch in zip(self.instance_heads, branch_of, strict=True)
        ]
        return torch.stack(clusters)


@register_aggregator("clam-mb", mining=True)
class ClamMb(ClamSb):
    """An attention branch a_c and an embedding F_c for each class, of which its own row of the head makes the logit."""

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__(num_classes, options, num_branches=num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        attention_CN = self._energies(h_ND, draws).softmax(dim=1)
        feature_CD = attention_CN @ h_ND
        logits_C = (feature_CD * self.head.weight).sum(dim=1) + self.head.bias
        return BagOutput(logits_C, feature_CD, attention_CN, self._cluster(h_ND, attention_CN, draws))

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        attention_BCN = pack.softmax(self._energies(h_ND, draws))
        feature_BCD = pack.sums(attention_BCN, h_ND)
        logits_BC = (feature_BCD * self.head.weight).sum(dim=2) + self.head.bias
        attention_CN = own_weights(attention_BCN)
        return PackedOutput(logits_BC, feature_BCD, attention_CN, self._cluster_packed(h_ND, attention_CN, pack, draws))

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """l_nc = a_cn W_p[c]·z_n, without the head's bias."""
        return output.attention_HN.T * (h_ND @ self.head.weight.T)

    def attention_score(self, output: BagOutput) -> Float[Tensor, "1 N"]:
        """max_c a_cn: the classes do not vote."""
        return torch.amax(output.attention_HN, dim=0, keepdim=True)
