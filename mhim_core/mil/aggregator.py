"""What every aggregator is, and the registry of them."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from mhim_core.mil.draws import Draws
from mhim_core.mil.options import Activation


class BagOutput(NamedTuple):
    """What an aggregator says about one bag."""

    logits_C: Float[Tensor, "C"]
    feature_D: Float[Tensor, "*D"]
    """The bag embedding F."""
    attention_HN: Float[Tensor, "H N"]
    """Softmax attention over the instances of this very forward pass, per head."""


class Aggregator(nn.Module):
    """Instances to a bag's logits. Subclasses own the classification head, since some have more than one."""

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        """`draws`: the bag's randomness in training; None: inference, no dropout."""
        raise NotImplementedError

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """Each instance's own evidence for each class, from the `output` that `h_ND` gave (IJCV 2025, eq. 6-8)."""
        raise NotImplementedError


def make_activation(activation: Activation) -> nn.Module:
    """The module of that name."""
    return {Activation.gelu: nn.GELU, Activation.relu: nn.ReLU, Activation.tanh: nn.Tanh}[activation]()
