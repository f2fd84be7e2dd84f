"""MDMIL: multiplex-detection MIL, a query per class made of the class's most probable tiles.

Shape suffixes: see `mhim_core.mil.packed`.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, register_aggregator
from mhim_core.mil.aggregators.mdmil_options import MdmilInstanceLoss, MdmilOptions
from mhim_core.mil.class_queries import FeedForward, QueryAttention, TileAttention, unit_rows
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws
from mhim_core.mil.tile_selection import query_weights

MEMORY_TEMPERATURE = 0.05
MOST_MEMORY_MOMENTUM = 0.8
"""Which the published 200 epochs end near; the formula would pass 1 in epoch 267."""


@register_aggregator("mdmil", mining=True, options=MdmilOptions)
class Mdmil(Aggregator):
    """p = softmax(W_i z + b); IQ_c = the mean of f(z) over class c's top tiles; R = the queries after attention to the
    tiles, to each other and two feed-forward layers; F = R (C×D); logits = W_p·mean_c R_c, without a bias.

    Beside the bag's loss: the loss of the largest instance probabilities, which alone trains W_i, and the memory's,
    -log softmax_c(M_c·r/.05)[y] of r = R_y/|R_y|. M (C×D) starts at 0 and moves after the step, by
    M_y ← norm(a·M_y + (1-a)·r̄): r̄ is the mean over the global batch's bags of class y, so that neither their order nor
    the number of workers matters; with one bag a step it is the published rule.
    """

    packs = True
    scores_rows = True
    scores_by_label = True
    attends_by_class = True
    memory: Tensor

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.options = options.own(MdmilOptions)
        self.instance_head = nn.Linear(dim, num_classes)
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.learned_queries = nn.Parameter(torch.zeros(num_classes, dim))
        self.attend_tiles = TileAttention(dim)
        self.feed1 = FeedForward(dim)
        self.attend_queries = QueryAttention(dim)
        self.feed2 = FeedForward(dim)
        self.head = nn.Linear(dim, num_classes, bias=False)
        self.register_buffer("memory", torch.zeros(num_classes, dim))

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        pack = Pack([len(h_ND)], h_ND.device)
        (output,) = self._forward(h_ND, pack, is_training=draws is not None).bags(pack)
        return output

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        return self._forward(h_ND, pack, is_training=draws is not None)

    def _forward(self, h_ND: Tensor, pack: Pack, *, is_training: bool) -> PackedOutput:
        logits_NC = self.instance_head(h_ND)
        tiles_ND = self.project(h_ND)
        weights_BCN = query_weights(logits_NC, pack, self.options)
        attended = self.attend_tiles(pack.sums(weights_BCN, tiles_ND), self.learned_queries, tiles_ND, pack)
        feature_BCD = self.feed2(self.attend_queries(self.feed1(attended.queries_BCD)))
        logits_BC = self.head(feature_BCD.mean(dim=1))
        largest = self._largest(logits_NC, pack) if is_training else None
        return PackedOutput(logits_BC, feature_BCD, attended.attention_BCN.sum(dim=0), largest)

    def _largest(self, logits_NC: Tensor, pack: Pack) -> tuple[Tensor, ...]:
        """Of each bag max_n log p of every class."""
        log_CN = logits_NC.log_softmax(dim=1).T
        return torch.where(pack.is_own[:, None], log_CN, -torch.inf).amax(dim=2).unbind()

    def task_loss(
        self, bag_loss: Float[Tensor, ""], output: BagOutput, label_index: Int64[Tensor, ""] | None
    ) -> Float[Tensor, ""]:
        """Bag loss + instance loss + weight · memory loss."""
        largest_C = output.auxiliary
        if label_index is None or largest_C is None:
            return bag_loss
        if self.options.mdmil_instance_loss == MdmilInstanceLoss.released:
            largest_C = largest_C.exp().log_softmax(dim=0)
        loss = bag_loss - largest_C.index_select(0, label_index[None])[0]
        if self.options.mdmil_memory_weight == 0:
            return loss
        energy_C = self.memory @ self._unit_row(output, label_index) / MEMORY_TEMPERATURE
        return loss + self.options.mdmil_memory_weight * F.cross_entropy(energy_C[None], label_index[None])

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """l_nc = A_cn·(z_nc - mean_c z_nc), z the instance head's logits: what it says of the tiles looked at."""
        logits_NC = self.instance_head(h_ND)
        return output.attention_HN.T * (logits_NC - logits_NC.mean(dim=1, keepdim=True))

    def attention_score(self, output: BagOutput) -> Float[Tensor, "1 N"]:
        """max_c A_cn, where the bag's class is not known."""
        return torch.amax(output.attention_HN, dim=0, keepdim=True)

    def labelled_score(self, output: BagOutput, label_index: Int64[Tensor, ""]) -> Float[Tensor, "1 N"]:
        """A_yn, of the bag's own class."""
        return output.attention_HN.index_select(0, label_index[None])

    def no_notes(self) -> Float[Tensor, "C D1"]:
        """A class's row: the sum of r over its bags, and behind it how many they are."""
        return self.memory.new_zeros(len(self.memory), self.memory.shape[1] + 1)

    def take_notes(self, output: BagOutput, label_index: Int64[Tensor, ""] | None) -> Float[Tensor, "C D1"]:
        """Of one bag: r and 1 in its class's row."""
        notes_C = self.no_notes()
        if label_index is None:
            return notes_C
        row_D = self._unit_row(output, label_index).detach()
        return notes_C.index_copy(0, label_index[None], torch.cat([row_D, row_D.new_ones(1)])[None])

    @torch.no_grad()
    def learn_notes(self, notes: Float[Tensor, "C D1"], epoch: int) -> None:
        """M_y ← norm(a·M_y + (1-a)·r̄), a = .2 + .3·epoch/100 up to .8, of the classes that the batch has."""
        momentum = min(0.2 + 0.3 * epoch / 100, MOST_MEMORY_MOMENTUM)
        count_C1 = notes[:, -1:]
        mean_CD = notes[:, :-1] / count_C1.clamp(min=1)
        moved_CD = unit_rows(momentum * self.memory + (1 - momentum) * mean_CD)
        self.memory.copy_(torch.where(count_C1 > 0, moved_CD, self.memory))

    def _unit_row(self, output: BagOutput, label_index: Tensor) -> Tensor:
        """r = R_y/|R_y|."""
        return unit_rows(output.feature_D.index_select(0, label_index[None]))[0]
