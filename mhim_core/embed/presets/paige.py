"""Virchow (Vorontsov et al., Nature Medicine 2024) and Virchow2 (Zimmermann et al., arXiv 2408.00738) of Paige.

Sources: the model cards paige-ai/Virchow and paige-ai/Virchow2. Both take the class token and the mean of the patch
tokens as a tile's embedding (2,560); Virchow2's patch tokens begin after 4 register tokens, Virchow has none. Some
tools take the class token alone (1,280) under the same name; here that is `-cls`.
"""

import dataclasses
from typing import Any

from mhim_core.embed.preset import SILU, SWIGLU_PACKED, TOKEN, TOKEN_AND_MEAN, Preset

_VIT_H: dict[str, Any] = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "mlp_layer": SWIGLU_PACKED,
    "act_layer": SILU,
}

_VIRCHOW = Preset(
    name="virchow",
    title="Virchow",
    repo="paige-ai/Virchow",
    revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
    timm_model="vit_huge_patch14_224",
    args=_VIT_H,
    pooling=TOKEN_AND_MEAN,
    dim=2560,
    num_params=631_229_184,
    gflops=334.8,
    tile_px=224,
    mpps=(0.5,),
    mpp_basis="stated",
    licence="Apache-2.0",
    terms="Access needs an institutional e-mail address.",
    gated=True,
    sources=("https://huggingface.co/paige-ai/Virchow", "https://doi.org/10.1038/s41591-024-03141-0"),
)
_VIRCHOW2 = dataclasses.replace(
    _VIRCHOW,
    name="virchow2",
    title="Virchow2",
    repo="paige-ai/Virchow2",
    revision="3158645804b69e3f3bc4439d4116edddf0840a72",
    args=_VIT_H | {"reg_tokens": 4},
    num_params=631_239_424,
    gflops=340.1,
    mpps=(0.5, 0.25, 1.0, 2.0),
    licence="CC-BY-NC-ND-4.0",
    terms=(
        "Non-commercial academic research, with an institutional e-mail address; models trained on its features count "
        "as derivatives. No redistribution."
    ),
    sources=("https://huggingface.co/paige-ai/Virchow2", "https://arxiv.org/abs/2408.00738"),
)

PRESETS = (
    _VIRCHOW,
    dataclasses.replace(_VIRCHOW, name="virchow-cls", pooling=TOKEN, dim=1280),
    _VIRCHOW2,
    dataclasses.replace(_VIRCHOW2, name="virchow2-cls", pooling=TOKEN, dim=1280),
)
