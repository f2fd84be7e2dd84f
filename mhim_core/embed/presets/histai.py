"""Hibou-B and Hibou-L of HistAI (Nechaev et al., arXiv 2406.05074).

Sources: the model cards histai/hibou-b and histai/hibou-L, config.json of hibou-b (ViT-B/14, 4 registers, SwiGLU, 224
px), github.com/HistAI/hibou (the class token after the last norm; position embeddings fitted with antialiasing), and
the mean and standard deviation of its processor. The publisher's loader runs code from the hub; here the same weights
are renamed to timm's layout (`dinov2_layouts.py`), and no code is loaded.
"""

import dataclasses

from mhim_core.embed.preset import BICUBIC_ANTIALIASED, SILU, SWIGLU_PACKED, Preset

_HIBOU_B = Preset(
    name="hibou-b",
    title="Hibou-B",
    repo="histai/hibou-b",
    revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c",
    timm_model="vit_base_patch14_reg4_dinov2",
    args={
        "img_size": 224,
        "init_values": 1e-5,
        "mlp_ratio": 5.33334,
        "mlp_layer": SWIGLU_PACKED,
        "act_layer": SILU,
    },
    dim=768,
    num_params=85_739_520,
    gflops=47.1,
    norm=((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
    position_grid=BICUBIC_ANTIALIASED,
    tile_px=224,
    mpps=(0.5,),
    mpp_basis="convention",
    licence="Apache-2.0",
    terms="The repository may ask for contact details.",
    gated=True,
    sources=(
        "https://huggingface.co/histai/hibou-b",
        "https://github.com/HistAI/hibou",
        "https://arxiv.org/abs/2406.05074",
    ),
)

PRESETS = (
    _HIBOU_B,
    dataclasses.replace(
        _HIBOU_B,
        name="hibou-l",
        title="Hibou-L",
        repo="histai/hibou-L",
        revision="",
        timm_model="vit_large_patch14_reg4_dinov2",
        args=_HIBOU_B.args | {"mlp_ratio": 5.34375},
        dim=1024,
        num_params=303_657_216,
        gflops=164.8,
        sources=("https://huggingface.co/histai/hibou-L", *_HIBOU_B.sources[1:]),
    ),
)
