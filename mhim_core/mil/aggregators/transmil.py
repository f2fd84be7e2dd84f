"""TransMIL: a small transformer over a bag (Shao et al., 2021). Shape suffixes: see `nystrom`."""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import TRANSMIL_HEADS, ModelOptions
from mhim_core.mil.nystrom import NystromAttention
from mhim_core.mil.token_grid import encode_positions


@register_aggregator("transmil", mining=True)
class Transmil(Aggregator):
    """x ← x + Nys(LN x); PPEG on the instances; x ← x + Nys(LN x); F = LN(x)[CLS]. Instances have an order.

    The attention is the CLS token's in the first layer, whose tokens are still the instances themselves. Packs do not
    pay: at D = 512 a bag of six tiles costs as much as one of 255, nearly all of it in the inverse of its landmarks,
    and every bag of a pack keeps that until the backward pass.
    """

    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, dim))
        self.layer1 = TransLayer(dim, options.transmil_dropout)
        self.positions = PositionEncoding(dim)
        self.layer2 = TransLayer(dim, options.transmil_dropout)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        x_TD = torch.cat([self.cls_token, h_ND])
        first = self.layer1.attention(self.layer1.norm(x_TD), draws, "transmil_layer1")
        x_TD = x_TD + first.tokens_QD
        x_TD = self.positions(x_TD)
        # nothing reads the second layer's instances
        second = self.layer2.attention(self.layer2.norm(x_TD), draws, "transmil_layer2", first_only=True)
        feature_D = self.norm(x_TD[0] + second.tokens_QD[0])
        return BagOutput(self.head(feature_D), feature_D, first.first_row_HT[:, 1:])

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """l_n = W_p·to_out(concat_h a_hn v_hn) by the first layer, without the head's bias."""
        attention = self.layer1.attention
        # the projections of a head's a v, of the values, the output and the head, are one map of its tokens
        weight_HCD = self.head.weight @ attention.to_out.weight.T.unflatten(0, (TRANSMIL_HEADS, -1)).transpose(1, 2)
        weight_HCD = weight_HCD @ attention.value_weight_HED
        logits_NHC = (self.layer1.norm(h_ND) @ weight_HCD.flatten(0, 1).T).unflatten(1, weight_HCD.shape[:2])
        logits_NC: Tensor = (output.attention_HN.T[:, :, None] * logits_NHC).sum(dim=1)
        return logits_NC + self.head.weight @ attention.to_out.bias


class TransLayer(nn.Module):
    """A pre-norm attention layer; the skip connection is the caller's."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = NystromAttention(dim, dropout)


class PositionEncoding(nn.Module):
    """PPEG: depth-wise 7×7 + 5×5 + 3×3 + identity over the instances, as `encode_positions` lays them out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv7 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.conv5 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """The CLS token, which comes first, stays as it is."""
        # the three convolutions as one of 7×7: a sum of kernels is the kernel of the sum
        kernel = self.conv7.weight + F.pad(self.conv5.weight, (1, 1, 1, 1)) + F.pad(self.conv3.weight, (2, 2, 2, 2))
        biases: list[Tensor] = [conv.get_parameter("bias") for conv in (self.conv7, self.conv5, self.conv3)]
        return encode_positions(x_TD, kernel, torch.stack(biases).sum(dim=0))
