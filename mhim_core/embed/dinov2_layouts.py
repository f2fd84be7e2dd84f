"""Weights of DINOv2's vision transformers under the names that timm gives their layers.

Three layouts hold the same numbers: timm's, the original of facebookresearch/dinov2 (`register_tokens`, `mlp.w12`), and
that of the package `transformers` (Dinov2Model: query, key and value apart, `mlp.weights_in`). Where a network's
position embeddings leave out the class token (timm's `no_embed_class`), the class token's own is added to the token
itself: the same sum.

Shapes: n tokens with positions, d features.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mhim_core.embed.preset import BICUBIC_ANTIALIASED
from mhim_core.errors import EncoderError

_TRANSFORMERS_MARK, _ORIGINAL_MARKS = "embeddings.patch_embeddings.projection.weight", ("mask_token", "register_tokens")
_UNUSED = "mask_token"
"""Used in training alone."""

_TRANSFORMERS_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": _UNUSED,
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_TRANSFORMERS_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
_ATTENTION = ("query", "key", "value")
_BLOCK = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")
_ORIGINAL_MLP = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def in_timm_layout(tensors: dict[str, Tensor], model: Any, position_grid: str, encoder_id: str) -> dict[str, Tensor]:
    """The tensors under timm's names, whichever layout they are in, fitted to `model`, a timm vision transformer.

    `position_grid`: how position embeddings of another grid are fitted; empty: they are left for the loader to refuse.
    Names that are known nowhere are kept, so that the loader refuses them by name. Raises EncoderError where position
    embeddings are not of a square grid.
    """
    renamed = dict(tensors)
    if _TRANSFORMERS_MARK in tensors:
        renamed = _from_transformers(tensors)
    elif any(mark in tensors for mark in _ORIGINAL_MARKS):
        renamed = _from_original(tensors)
    else:
        return _fitted(renamed, model, position_grid, encoder_id)
    renamed.pop(_UNUSED, None)
    if model.no_embed_class and "pos_embed" in renamed and "cls_token" in renamed:
        positions_1nd = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + positions_1nd[:, :1]
        renamed["pos_embed"] = positions_1nd[:, 1:]
    return _fitted(renamed, model, position_grid, encoder_id)


def _from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block = _BLOCK.match(name)
        if block is None:
            renamed[_renamed(name, _TRANSFORMERS_TOP)] = tensor
        elif (attention := re.match(r"^attention\.attention\.(\w+)\.(weight|bias)$", block[2])) is None:
            renamed[f"blocks.{block[1]}.{_renamed(block[2], _TRANSFORMERS_BLOCK)}"] = tensor
        elif attention[1] == _ATTENTION[0]:
            parts = [tensors.get(name.replace(f".{_ATTENTION[0]}.", f".{part}.")) for part in _ATTENTION]
            renamed[f"blocks.{block[1]}.attn.qkv.{attention[2]}"] = torch.cat(
                [part for part in parts if part is not None]
            )
        elif attention[1] not in _ATTENTION:
            renamed[name] = tensor
    return renamed


def _renamed(name: str, names: dict[str, str]) -> str:
    """By its longest beginning that is in the table; itself where there is none."""
    if name in names:
        return names[name]
    stem, _, kind = name.rpartition(".")
    return f"{names[stem]}.{kind}" if stem in names else name


def _from_original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for theirs, ours in _ORIGINAL_MLP.items():
            name = name.replace(theirs, ours)
        renamed["reg_token" if name == "register_tokens" else name] = tensor
    return renamed


def _fitted(tensors: dict[str, Tensor], model: Any, position_grid: str, encoder_id: str) -> dict[str, Tensor]:
    """With position embeddings of the model's grid: what the publishers' code computes for every tile anew."""
    positions_1nd = tensors.get("pos_embed")
    if positions_1nd is None or not position_grid or positions_1nd.shape == model.pos_embed.shape:
        return tensors
    num_own = 0 if model.no_embed_class else model.num_prefix_tokens
    own_1nd, patches_1nd = positions_1nd[:, :num_own], positions_1nd[:, num_own:]
    side, wanted = math.isqrt(patches_1nd.shape[1]), model.patch_embed.grid_size
    if side**2 != patches_1nd.shape[1]:
        raise EncoderError(f"encoder {encoder_id}: {patches_1nd.shape[1]} position embeddings are no square grid")
    map_1dhw = patches_1nd.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    map_1dhw = F.interpolate(
        map_1dhw,
        size=wanted,
        mode="bicubic",
        antialias=position_grid == BICUBIC_ANTIALIASED,
        align_corners=False,
    )
    fitted_1nd = map_1dhw.permute(0, 2, 3, 1).flatten(1, 2).to(positions_1nd.dtype)
    return tensors | {"pos_embed": torch.cat([own_1nd, fitted_1nd], dim=1)}
