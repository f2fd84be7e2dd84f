"""CLAM's own checkpoints (CLAM-SB and CLAM-MB of the authors' code): their weights under our names.

The authors' layout: `attention_net` is embedding, ReLU, dropout and gated attention (256 wide in their size `small`),
`classifiers` one layer (SB) or one a class (MB), `instance_classifiers` two outputs a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mhim_core.errors import InputError
from mhim_core.mil.checkpoint_format import CheckpointFormat, Weights, register_format
from mhim_core.mil.model_options import Activation

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTION = re.compile(r"attention_net\.(?:module\.)?")
"""`module.`: attention_net alone was spread over several GPUs."""
_GATE = re.compile(r"attention_net\.[23]\.")
"""2 without, 3 with dropout before it."""
_NAMES = {
    "attention_net.0": "embed",
    "attention_net.gate.attention_a.0": "aggregator.hidden",
    "attention_net.gate.attention_b.0": "aggregator.gate",
    "attention_net.gate.attention_c": "aggregator.energy",
}
_LOSS = "instance_loss_fn."
"""Constants of the instance loss, no weights."""


@register_format("clam", suffixes=(".pt", ".pth"), reads=True)
class Clam(CheckpointFormat):
    """Checkpoints of CLAM-SB and CLAM-MB."""

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        return any(name.startswith("attention_net.") for name in tensors)

    def read(self, tensors: Mapping[str, Tensor]) -> Weights:
        return from_clam(tensors)


def from_clam(tensors: Mapping[str, Tensor]) -> Weights:
    """Raises InputError naming each tensor that CLAM-SB and CLAM-MB do not have, or lack."""
    named = {_plain(name): tensor for name, tensor in tensors.items() if not name.startswith(_LOSS)}
    num_classes = len({name.split(".")[1] for name in named if name.startswith("instance_classifiers.")})
    is_multi = "classifiers.0.weight" in named
    names = dict(_NAMES)
    names |= {f"instance_classifiers.{index}": f"aggregator.instance_heads.{index}" for index in range(num_classes)}
    heads = [f"classifiers.{index}" for index in range(num_classes)] if is_multi else ["classifiers"]
    expected = {f"{name}.{kind}" for name in (*names, *heads) for kind in ("weight", "bias")}
    unknown, missing = sorted(set(named) - expected), sorted(expected - set(named))
    if unknown or missing or not num_classes:
        raise InputError(
            f"not the weights of CLAM-SB or CLAM-MB with gated attention: unknown tensors {unknown}, missing tensors "
            f"{missing or ['instance_classifiers'] * (not num_classes)}"
        )
    import torch

    state: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        state |= {f"{ours}.{kind}": named[f"{theirs}.{kind}"] for theirs, ours in names.items()}
        state[f"aggregator.head.{kind}"] = torch.cat([named[f"{head}.{kind}"] for head in heads])
    # the activation is that of CLAM's code, which has no other
    return Weights("clam-mb" if is_multi else "clam-sb", state, embed_activation=Activation.relu)


def _plain(name: str) -> str:
    return _GATE.sub("attention_net.gate.", _ATTENTION.sub("attention_net.", name))
