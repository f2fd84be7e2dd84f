"""TransMIL: a small transformer over a bag (Shao et al., 2021). Shape suffixes: see `nystrom`."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.nystrom import NystromAttention, join_heads

LARGEST_KERNEL = 7


@register_aggregator("transmil", mining=True)
class Transmil(Aggregator):
    """x ← x + Nys(LN x); PPEG on the instances; x ← x + Nys(LN x); F = LN(x)[CLS]. Instances have an order.

    The attention is the CLS token's in the first layer, whose tokens are still the instances themselves. Packs do not
    pay: at D = 512 a bag of six tiles costs as much as one of 255, nearly all of it in the inverse of its landmarks,
    and every bag of a pack would keep 0.2 GiB until the backward pass.
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
        x_TD = torch.cat([x_TD[:1], self.positions(x_TD[1:])])
        # nothing reads the second layer's instances
        second = self.layer2.attention(
            self.layer2.norm(x_TD), draws, "transmil_layer2", first_only=True, with_row=False
        )
        feature_D = self.norm(x_TD[0] + second.tokens_QD[0])
        return BagOutput(self.head(feature_D), feature_D, first.first_row_HT[:, 1:])

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """l_n = W_p·to_out(concat_h a_hn v_hn) by the first layer, without the head's bias."""
        attention = self.layer1.attention
        value_HNE = attention.values(self.layer1.norm(h_ND))
        evidence_ND = attention.to_out(join_heads(output.attention_HN[:, :, None] * value_HNE))
        logits_NC: Tensor = evidence_ND @ self.head.weight.T
        return logits_NC


class TransLayer(nn.Module):
    """A pre-norm attention layer; the skip connection is the caller's."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = NystromAttention(dim, dropout)


class PositionEncoding(nn.Module):
    """PPEG: depth-wise 7×7 + 5×5 + 3×3 + identity over the instances, laid row-major on the smallest square grid.

    A grid that is not full is filled with the first instances; one of less than 7×7 cells is then extended by zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv7 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.conv5 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        num, dim = x_ND.shape
        side = math.isqrt(num - 1) + 1
        cells = torch.cat([x_ND, x_ND[: side * side - num]])
        if side < LARGEST_KERNEL:
            cells = F.pad(cells, (0, 0, 0, LARGEST_KERNEL**2 - side * side))
            side = LARGEST_KERNEL
        # the three convolutions as one of 7×7: a sum of kernels is the kernel of the sum
        kernel = self.conv7.weight + F.pad(self.conv5.weight, (1, 1, 1, 1)) + F.pad(self.conv3.weight, (2, 2, 2, 2))
        biases: list[Tensor] = [conv.get_parameter("bias") for conv in (self.conv7, self.conv5, self.conv3)]
        bias = torch.stack(biases).sum(dim=0)
        # a view whose channels lie last in memory, which is also the layout the convolution is fastest in
        grid = cells.view(1, side, side, dim).permute(0, 3, 1, 2)
        encoded = F.conv2d(grid, kernel, bias, padding=LARGEST_KERNEL // 2, groups=dim)
        return x_ND + encoded.permute(0, 2, 3, 1).reshape(side * side, dim)[:num]
