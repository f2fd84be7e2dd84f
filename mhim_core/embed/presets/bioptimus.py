"""H-optimus-0, H-optimus-1 and H0-mini (Filiot et al., arXiv 2501.16239) of Bioptimus.

Sources: the model cards bioptimus/H-optimus-0 and H0-mini, github.com/bioptimus/releases (arguments, mean and standard
deviation, 224 px at 0.5 µm/px), github.com/bioptimus/h1-jumpstart (H-optimus-1: 224 px, 0.5 µm/px, 1,536 features),
github.com/owkin/plism-benchmark (H0-mini: ViT-B/14 with 4 registers, SwiGLU; class token). The cards take tiles of 224
px as they are; bicubic, for tiles of another size, is what the authors' benchmark and later tools take.

H0-mini's MLP ratio is not printed; 5.33334 is the one that its 85.7 million parameters and its strict loading leave.
"""

import dataclasses

from mhim_core.embed.preset import SILU, SWIGLU_PACKED, TOKEN_AND_MEAN, Preset

_NORM = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_TERMS = (
    "Non-commercial academic research, with an institutional e-mail address; models trained on its features count as "
    "derivatives. No redistribution."
)

_H_OPTIMUS_0 = Preset(
    name="h-optimus-0",
    title="H-optimus-0",
    repo="bioptimus/H-optimus-0",
    revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
    timm_model="vit_giant_patch14_reg4_dinov2",
    args={"img_size": 224, "init_values": 1e-5},
    dim=1536,
    num_params=1_134_774_272,
    gflops=608.3,
    norm=_NORM,
    tile_px=224,
    mpps=(0.5,),
    mpp_basis="stated",
    licence="Apache-2.0",
    terms="Access is given at once.",
    gated=True,
    sources=(
        "https://huggingface.co/bioptimus/H-optimus-0",
        "https://github.com/bioptimus/releases/tree/main/models/h-optimus/v0",
    ),
)
_H0_MINI = Preset(
    name="h0-mini",
    title="H0-mini",
    repo="bioptimus/H0-mini",
    revision="5b5cc0505d19ae558270045eb0df8c34df4d9609",
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
    norm=_NORM,
    tile_px=224,
    mpps=(0.5,),
    mpp_basis="magnification",
    licence="CC-BY-NC-ND-4.0",
    terms=_TERMS,
    gated=True,
    sources=("https://huggingface.co/bioptimus/H0-mini", "https://arxiv.org/abs/2501.16239"),
)

PRESETS = (
    _H_OPTIMUS_0,
    dataclasses.replace(
        _H_OPTIMUS_0,
        name="h-optimus-1",
        title="H-optimus-1",
        repo="bioptimus/H-optimus-1",
        revision="3592cb220dec7a150c5d7813fb56e68bd57473b9",
        licence="CC-BY-NC-ND-4.0",
        terms="Access is granted on request.",
        sources=("https://huggingface.co/bioptimus/H-optimus-1", "https://github.com/bioptimus/h1-jumpstart"),
    ),
    _H0_MINI,
    dataclasses.replace(_H0_MINI, name="h0-mini-cls-mean", pooling=TOKEN_AND_MEAN, dim=1536),
)
