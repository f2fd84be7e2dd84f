"""ABMIL: attention-based pooling (Ilse et al., 2018), plain and gated. Shape suffixes: see the package's docstring."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, make_activation, register_aggregator
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.packed import Pack, PackedDraws, own_weights

ATTENTION_DIM = 128


@register_aggregator("abmil", mining=True)
class Abmil(Aggregator):
    """e = w2·act(W1 z), gated e = w2(tanh(W1 z) ⊙ σ(Wg z)); a = softmax over instances; F = Σ a_n z_n.

    Without biases, so that attention depends on directions alone; an instance's value is z_n itself.
    """

    packs = True
    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        dim = options.embed_dim
        self.hidden = nn.Linear(dim, ATTENTION_DIM, bias=False)
        self.gate = nn.Linear(dim, ATTENTION_DIM, bias=False) if options.gated else None
        self.activation = nn.Tanh() if options.gated else make_activation(options.attention_activation)
        self.energy = nn.Linear(ATTENTION_DIM, 1, bias=False)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        attention_HN = self._energies(h_ND).softmax(dim=1)
        feature_D = (attention_HN @ h_ND)[0]
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=h_ND)

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        attention_BHN = pack.softmax(self._energies(h_ND))
        feature_BD = pack.sums(attention_BHN, h_ND)[:, 0]
        return PackedOutput(self.head(feature_BD), feature_BD, own_weights(attention_BHN), values_ND=h_ND)

    def _energies(self, h_ND: Tensor) -> Tensor:
        hidden = self.activation(self.hidden(h_ND))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(h_ND))
        energy_HN: Tensor = self.energy(hidden).T
        return energy_HN
