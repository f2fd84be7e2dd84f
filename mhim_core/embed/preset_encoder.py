"""Networks of the published encoders: built by timm from their stated arguments, pooled as their card says."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.dinov2_layouts import in_timm_layout
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.preset import TOKEN_AND_MEAN
from mhim_core.embed.timm_encoder import load_tensors, make_network, run_network
from mhim_core.embed.weights import check_sha256, read_tensors


class PooledTokens(nn.Module):
    """A timm vision transformer and what is taken of its tokens: float32 (b, 3, p, p) → (b, d) or (b, 2d)."""

    def __init__(self, transformer: Any, pooling: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.with_mean = pooling == TOKEN_AND_MEAN
        self.num_prefix_tokens: int = transformer.num_prefix_tokens

    def forward(self, pixels: Float32[Tensor, "b 3 p p"]) -> Float32[Tensor, "b d"]:
        tokens_bnd = self.transformer.forward_features(pixels)
        class_bd = tokens_bnd[:, 0]
        if not self.with_mean:
            return class_bd
        return torch.cat([class_bd, tokens_bnd[:, self.num_prefix_tokens :].mean(dim=1)], dim=-1)


def make_pooled(card_id: str, network: dict[str, Any], pooling: str, *, on_meta: bool = False) -> PooledTokens:
    """The network of a card, weights aside. Raises EncoderError if timm cannot build it."""
    return PooledTokens(make_network(card_id, network, on_meta=on_meta), pooling)


def load_preset(card: EncoderCard, weights: Path) -> TorchEncoder:
    """The encoder of a preset's card from its weights' file. Raises EncoderError if the file is another one."""
    check_sha256(weights, card.weights_sha256, card.id)
    return build_preset(card, read_tensors(weights))


def build_preset(card: EncoderCard, tensors: dict[str, Tensor]) -> TorchEncoder:
    """The card's network with these tensors, in any layout of DINOv2.

    Raises EncoderError, naming layers, if they do not fit.
    """
    # a billion random numbers, to be replaced at once, would take minutes and the memory of the weights once more
    pooled = make_pooled(card.id, card.network, card.pooling, on_meta=True)
    transformer, position_grid = pooled.transformer, card.network.get("position_grid", "")
    fitting = in_timm_layout(tensors, transformer, position_grid, card.id)
    load_tensors(card, transformer, {name: tensor.float() for name, tensor in fitting.items()}, assign=True)
    return run_network(card, pooled)
