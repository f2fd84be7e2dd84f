"""CLAM-SB: gated attention with instance clustering (Lu et al., 2021), the single-branch form.

Shape suffixes: see the package's docstring; S sampled instances, the first half the most attended.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.options import ModelOptions

ATTENTION_DIM = 256


@register_aggregator("clam-sb")
class ClamSb(Aggregator):
    """e = w(tanh(W1 z + b1) ⊙ σ(Wg z + bg)) + b; a = softmax over instances; F = Σ a_n z_n.

    Beside the bag's loss, a two-way classifier of the bag's class learns to tell its most attended instances (1) from
    its least attended ones (0). Other classes' classifiers are not trained by the bag: one class's evidence is not
    taken as evidence against the others, as in CLAM without its subtyping option.
    """

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.dropout = options.dropout
        self.instance_weight = options.clam_instance_weight
        self.num_sampled = options.clam_num_sampled
        self.hidden = nn.Linear(dim, ATTENTION_DIM)
        self.gate = nn.Linear(dim, ATTENTION_DIM)
        self.energy = nn.Linear(ATTENTION_DIM, 1)
        self.head = nn.Linear(dim, num_classes)
        self.instance_heads = nn.ModuleList(nn.Linear(dim, 2) for _ in range(num_classes))

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        hidden, gate = self.hidden(h_ND).tanh(), self.gate(h_ND).sigmoid()
        if draws is not None:
            hidden = draws.dropout("clam_hidden", hidden, self.dropout)
            gate = draws.dropout("clam_gate", gate, self.dropout)
        attention_HN = self.energy(hidden * gate).T.softmax(dim=1)
        feature_D = (attention_HN @ h_ND)[0]
        clusters_CS2 = None if draws is None else self._cluster(h_ND, attention_HN[0].detach())
        return BagOutput(self.head(feature_D), feature_D, attention_HN, clusters_CS2, values_ND=h_ND)

    def task_loss(
        self, bag_loss: Float[Tensor, ""], output: BagOutput, label_index: Int64[Tensor, ""] | None
    ) -> Float[Tensor, ""]:
        """(1 - w)·bag loss + w·mean cross-entropy of the sampled instances; a bag of one instance has no samples.

        Without a class (survival, regression) there is nothing the clusters could be of: the bag's loss alone.
        """
        clusters_CS2 = output.auxiliary
        if label_index is None or self.instance_weight == 0 or clusters_CS2 is None or clusters_CS2.shape[1] == 0:
            return bag_loss
        logits_S2 = clusters_CS2.index_select(0, label_index[None])[0]
        most_attended_S = torch.arange(len(logits_S2), device=logits_S2.device) < len(logits_S2) // 2
        instance_loss = F.cross_entropy(logits_S2, most_attended_S.long())
        return (1 - self.instance_weight) * bag_loss + self.instance_weight * instance_loss

    def _cluster(self, h_ND: Tensor, attention_N: Tensor) -> Tensor:
        # a bag of fewer than 2·num_sampled instances gives as many as keep the two ends apart
        num = min(self.num_sampled, len(h_ND) // 2)
        order_N = attention_N.argsort(descending=True, stable=True)
        sampled_SD = h_ND.index_select(0, torch.cat([order_N[:num], order_N[len(order_N) - num :]]))
        return torch.stack([head(sampled_SD) for head in self.instance_heads])
