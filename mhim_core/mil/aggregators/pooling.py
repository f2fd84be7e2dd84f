"""The two simplest aggregators, as baselines. Shape suffixes: see the package's docstring."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws, own_weights


@register_aggregator("mean")
class MeanPool(Aggregator):
    """F = the mean of the instances; each has the same attention 1/N."""

    packs = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        self.head = nn.Linear(options.embed_dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        feature_D = h_ND.mean(dim=0)
        attention_HN = h_ND.new_full((1, len(h_ND)), 1 / len(h_ND))
        return BagOutput(self.head(feature_D), feature_D, attention_HN)

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        attention_BHN = pack.softmax(h_ND.new_zeros(1, len(h_ND)))
        feature_BD = pack.sums(attention_BHN, h_ND)[:, 0]
        return PackedOutput(self.head(feature_BD), feature_BD, own_weights(attention_BHN))


@register_aggregator("max")
class MaxPool(Aggregator):
    """F = the largest value of each feature; an instance's attention is the share of features that it gave."""

    packs = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        self.head = nn.Linear(options.embed_dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        largest = h_ND.max(dim=0)
        ones_D = torch.ones_like(largest.indices, dtype=h_ND.dtype)
        count_N = h_ND.new_zeros(len(h_ND)).index_add_(0, largest.indices, ones_D)
        return BagOutput(self.head(largest.values), largest.values, count_N[None] / len(ones_D))
