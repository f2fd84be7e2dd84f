"""The model: embed → [mask and recycle, in training] → aggregator with its head.

Student and teacher are two of these. Shape suffixes: see the package's docstring.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.aggregator import Aggregator, BagOutput, PackedOutput, SelfStarting, make_activation
from mhim_core.mil.draws import Draws
from mhim_core.mil.embedding import RowPlan, SplitInstances, embed
from mhim_core.mil.layout import Layout
from mhim_core.mil.masking import RecycleSplit
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.packed import Pack
from mhim_core.mil.plugged import PluggedAggregator
from mhim_core.mil.recycle import RecycleNetwork, queries_bound
from mhim_core.mil.registry import aggregator_class


class MilModel(nn.Module):
    """At D_in = 1024, D = 512, C = 2, without the recycle network: 591,490 parameters with ABMIL, 2,672,146 with
    TransMIL, 873,734 with DSMIL (its unused head included)."""

    def __init__(self, d_in: int, num_classes: int, options: ModelOptions, mhim: MhimOptions | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(d_in, options.embed_dim)
        self.embed_activation = options.embed_activation
        self.activation = make_activation(options.embed_activation)
        self.dropout = options.dropout
        self.aggregator = make_aggregator(num_classes, options)
        self.needs_places = options.needs_places
        self.demands_layout = False
        """True, as of finished models: a bag without the layout that it needs is an error, not a path."""
        self.recycle: RecycleNetwork | None = None
        if mhim is not None and mhim.recycles:
            self.recycle = RecycleNetwork(options.embed_dim, mhim.recycle_queries, mhim.recycle_dropout)

    def embed_instances(self, x_NF: Float[Tensor, "N F"], draws: Draws | None = None) -> Float[Tensor, "N D"]:
        """Tile features to embedded instances; dropout only where `draws` are given.

        The features may be of another precision than the model.
        """
        if torch.is_grad_enabled() and x_NF.requires_grad:
            h_ND = self.activation(self.embed(x_NF.to(self.embed.weight.dtype)))
            return h_ND if draws is None else draws.dropout("embed", h_ND, self.dropout)
        return self._embed(x_NF, RowPlan(None, len(x_NF), 0, 0), draws).entering_KD

    def embed_rows(
        self, x_NF: Float[Tensor, "N F"], rows: Int64[Tensor, "K"], draws: Draws | None = None
    ) -> Float[Tensor, "K D"]:
        """`embed_instances` of these rows alone; no gradient flows into the features."""
        return self._embed(x_NF, RowPlan(rows, len(rows), 0, 0), draws).entering_KD

    def embed_split(
        self, x_NF: Float[Tensor, "N F"], split: RecycleSplit, draws: Draws | None = None
    ) -> SplitInstances:
        """`embed_instances` of the split's rows alone, with room for tokens; no gradient flows into the features."""
        return self._embed(x_NF, self.plan_rows(split), draws)

    def plan_rows(self, split: RecycleSplit) -> RowPlan:
        """Where the rows of a split go, and the tokens that this model recycles of them."""
        num_recycled = len(split.rows) - split.num_entering
        num_tokens = len(self.recycle.queries) if self.recycle is not None and num_recycled else 0
        return RowPlan(split.rows, split.num_entering, num_recycled, num_tokens)

    def _embed(self, x_NF: Tensor, plan: RowPlan, draws: Draws | None) -> SplitInstances:
        shape = (plan.num_entering + plan.num_recycled, self.embed.out_features)
        keep = draws.keep("embed", shape, self.dropout, x_NF.device) if draws is not None and self.dropout else None
        return embed(x_NF, plan, self.embed, self.embed_activation, keep)

    def layout_of(self, layout: Layout | None, x_NF: Float[Tensor, "N F"]) -> Layout | None:
        """The bag's layout where the aggregator uses one, in stored order where the bag has none; else None."""
        if not self.aggregator.uses_layout:
            return None
        if layout is None and self.demands_layout and self.needs_places:
            raise ValueError("this model walks from tile to tile: its bags need the layout of their tiles")
        return Layout.path(len(x_NF), x_NF.device) if layout is None else layout

    def aggregate(
        self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None, layout: Layout | None = None
    ) -> BagOutput:
        """The aggregator's output; `layout`: of these rows, as `layout_of` gives it."""
        output: BagOutput = self.aggregator(h_ND, draws) if layout is None else self.aggregator(h_ND, draws, layout)
        return output

    def forward(
        self, x_NF: Float[Tensor, "N F"], append_recycled: bool = False, layout: Layout | None = None
    ) -> BagOutput:
        """Plain inference on all instances; `append_recycled` adds the tokens recycled from all of them behind."""
        h_ND = self.embed_instances(x_NF)
        layout = self.layout_of(layout, x_NF)
        if append_recycled and self.recycle is not None:
            tokens_kD = self.recycle(h_ND)
            h_ND = torch.cat([h_ND, tokens_kD])
            layout = None if layout is None else layout.with_tokens(len(tokens_kD))
        return self.aggregate(h_ND, None, layout)

    def forward_packed(
        self,
        x_NF: Float[Tensor, "N F"],
        pack: Pack,
        append_recycled: bool = False,
        layouts: Sequence[Layout | None] | None = None,
    ) -> PackedOutput:
        """`forward` of every bag of a pack."""
        if self.aggregator.uses_layout:  # its bags are computed one by one, and each with its layout
            of_bags = [None] * len(pack.lengths) if layouts is None else layouts
            bags = zip(pack.split(x_NF), of_bags, strict=True)
            return PackedOutput.of([self(part_NF, append_recycled, layout) for part_NF, layout in bags])
        h_ND = self.embed_instances(x_NF)
        if append_recycled and self.recycle is not None:
            tokens = self.recycle.forward_packed(h_ND, pack)
            h_ND = torch.cat([part for bag in zip(pack.split(h_ND), tokens, strict=True) for part in bag])
            pack = Pack([length + tokens.shape[1] for length in pack.lengths], pack.device)
        return self.aggregator.forward_packed(h_ND, pack)


def make_aggregator(num_classes: int, options: ModelOptions, seed: int = 0) -> Aggregator:
    """A built-in aggregator without its start values, or a plug-in's with what its constructor draws from `seed`.

    Raises InputError where the plug-in's file is not loaded.
    """
    if options.plugin_sha256 is not None:
        return PluggedAggregator(num_classes, options, seed)
    made: Aggregator = aggregator_class(options.aggregator, None)(num_classes, options)
    return made


def build_model(
    d_in: int,
    num_classes: int,
    options: ModelOptions,
    mhim: MhimOptions | None = None,
    *,
    seed: str,
    dtype: torch.dtype = torch.float32,
) -> MilModel:
    """A freshly initialised model on the CPU; the global random state is neither read nor changed.

    Xavier-normal for every Linear weight, zero bias, LayerNorm 1/0, convolutions as PyTorch, CLS token standard
    normal, queries uniform. Each tensor is drawn from its own generator keyed by (`seed`, its name), so that adding a
    part to the model leaves the others' start unchanged. A plug-in's aggregator starts as its constructor says.
    """
    with torch.device("meta"):
        model = MilModel(d_in, num_classes, options, mhim)
    model = model.to_empty(device="cpu").to(torch.float64)
    if options.plugin_sha256 is not None:
        seed_of_plugin = _generator(seed, "aggregator").initial_seed()
        model.aggregator = make_aggregator(num_classes, options, seed_of_plugin).to(torch.float64)
    for name, module in model.named_modules():
        if options.plugin_sha256 is not None and name.startswith("aggregator."):
            continue
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight, generator=_generator(seed, f"{name}.weight"))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            for kind, parameter in module.named_parameters():
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(parameter, -bound, bound, generator=_generator(seed, f"{name}.{kind}"))
        elif isinstance(module, SelfStarting):
            for kind, parameter in module.named_parameters(recurse=False):
                module.start_parameter(kind, parameter, _generator(seed, f"{name}.{kind}"))
            for buffer in module.buffers(recurse=False):
                nn.init.zeros_(buffer)
        elif isinstance(module, RecycleNetwork):
            bound = queries_bound(options.embed_dim)
            nn.init.uniform_(module.queries, -bound, bound, generator=_generator(seed, f"{name}.queries"))
    return model.to(dtype)


def _generator(seed: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
