"""MamMIL: state spaces along the paths of a tissue's tree. Shape suffixes: see the package's docstring."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, register_aggregator
from mhim_core.mil.aggregators.mammil_options import MammilOptions
from mhim_core.mil.draws import Draws
from mhim_core.mil.layout import Layout
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.selective_scan import SelectiveScan
from mhim_core.mil.tissue_tree import NUM_ORDERS
from mhim_core.mil.tree_messages import TreeMessages

ATTENTION_DIM = 128


@register_aggregator("mammil", mining=True, options=MammilOptions)
class Mammil(Aggregator):
    """h ← h + SSM(LN h) over four orders of the tissue's tree, both ways; messages along its edges; attention pooling.

    Without a layout (bags that are given by hand) the instances are one path in their order. Bags of a pack are
    computed one by one: a scan is a chain of its own bag, and side by side all would be as long as the longest.
    """

    uses_layout = True
    scores_rows = True

    def __init__(self, num_classes: int, options: ModelOptions) -> None:
        super().__init__()
        own, dim = options.own(MammilOptions), options.embed_dim
        self.scans = nn.ModuleList(
            SelectiveScan(dim, own.mammil_states, 2 * NUM_ORDERS) for _ in range(own.mammil_layers)
        )
        self.messages = nn.ModuleList(
            TreeMessages(dim, own.mammil_dropout) for _ in range(max(1, own.mammil_layers - 1))
        )
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, ATTENTION_DIM)
        self.energy = nn.Linear(ATTENTION_DIM, 1)
        self.head = nn.Linear(dim, num_classes)

    def forward(
        self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None, layout: Layout | None = None
    ) -> BagOutput:
        if layout is None:
            layout = Layout.path(len(h_ND), h_ND.device)
        orders_PN = layout.orders()
        rows_AN = torch.cat([orders_PN, orders_PN.flip(1)])
        for number, scan in enumerate(self.scans):
            h_ND = h_ND + scan(h_ND, rows_AN)
            if number < len(self.messages):
                h_ND = self.messages[number](h_ND, layout.parent_N, draws, f"mammil_messages{number}")
        values_ND = self.norm(h_ND)
        attention_HN = self.energy(self.hidden(values_ND).tanh()).T.softmax(dim=1)
        feature_D = (attention_HN @ values_ND).squeeze(0)
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=values_ND)
