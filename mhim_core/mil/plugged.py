"""A plug-in's module as an aggregator like any other. Shape suffixes: see the package's docstring."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mhim_core.errors import ConfigError
from mhim_core.mil.aggregator import Aggregator, BagOutput, weigh_values
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.registry import aggregator_class


class PluggedAggregator(Aggregator):
    """Adapts a user's class to `Aggregator`.

    The class is constructed with `(num_classes, options)` and keeps the weights that its constructor gives it, drawn
    from `seed`. Its forward is called with the instances, and with `draws` where it takes them; nn.Dropout and whatever
    else draws from torch's global generators is active in training only, and keyed by (seed, epoch, bag) as ours is.
    `probe` checks once, before any work, what it returns.
    """

    def __init__(self, num_classes: int, options: ModelOptions, seed: int = 0) -> None:
        super().__init__()
        made = aggregator_class(options.aggregator, options.plugin_sha256)
        # a constructor's own tensors need a real device, wherever the rest of the model is laid out
        with torch.device("cpu"), _seeded(seed, torch.device("cpu")):
            self.module = made(num_classes, options)
        self._takes_draws = "draws" in inspect.signature(self.module.forward).parameters
        self.classifies_instances = bool(getattr(self.module, "classifies_instances", False))

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        if draws is None:
            return self._forward(h_ND, None)
        with _seeded(draws.integer("plugin"), h_ND.device):
            return self._forward(h_ND, draws)

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Tensor:
        """The module's own where it has that method, else what `weigh_values` makes of its `head`."""
        own = getattr(self.module, "instance_logits", None)
        logits_NC: Tensor = weigh_values(output, self.module.head) if own is None else own(h_ND, output)
        return logits_NC

    def attention_score(self, output: BagOutput) -> Tensor:
        """The module's own where it has that method, else the attention."""
        own = getattr(self.module, "attention_score", super().attention_score)
        score_HN: Tensor = own(output)
        return score_HN

    def task_loss(
        self, bag_loss: Float[Tensor, ""], output: BagOutput, label_index: Int64[Tensor, ""] | None
    ) -> Float[Tensor, ""]:
        """The module's own where it has that method, else the bag's."""
        own = getattr(self.module, "task_loss", super().task_loss)
        loss: Tensor = own(bag_loss, output, label_index)
        return loss

    def _forward(self, h_ND: Tensor, draws: Draws | None) -> BagOutput:
        self.module.train(draws is not None)
        output = self.module(h_ND, draws=draws) if self._takes_draws else self.module(h_ND)
        if not isinstance(output, BagOutput):
            raise ConfigError(f"its forward returns {type(output).__name__}, not a BagOutput")
        return output


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators of the CPU and of `device`, seeded in the block and restored after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
