"""Encoders of kaiko.ai: Midnight-12k (Karasikov et al., MICCAI 2025, arXiv 2504.05186) and the ViTs of "Towards
Large-Scale Training of Pathology Foundation Models" (arXiv 2404.15217).

Sources: the model card kaiko-ai/midnight (224 px, mean and standard deviation 0.5, class token and mean of the patch
tokens for classification, MIT), github.com/kaiko-ai/towards_large_pathology_fms (hubconf.py, transform), and the ports
of these weights to the hub by 1aurent, whose pages state the licence. Files of the publisher's own release load as
well.

Midnight is in the layout of `transformers` (Dinov2Model) and is renamed to timm's (`dinov2_layouts.py`). If its
position embeddings are for more patches than 16 × 16, they are fitted as that package does, and those of ViT-L/14 as
timm does.
"""

import dataclasses

from mhim_core.embed.preset import BICUBIC, BICUBIC_ANTIALIASED, HALF, TOKEN, TOKEN_AND_MEAN, Preset

_MIDNIGHT = Preset(
    name="midnight-12k",
    title="Midnight-12k",
    repo="kaiko-ai/midnight",
    revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
    timm_model="vit_giant_patch14_dinov2",
    args={"img_size": 224, "init_values": 1e-5},
    pooling=TOKEN_AND_MEAN,
    dim=3072,
    num_params=1_134_769_664,
    gflops=598.8,
    norm=HALF,
    interpolation="bilinear",
    position_grid=BICUBIC,
    tile_px=224,
    mpps=(0.5, 0.25, 1.0, 2.0),
    mpp_basis="stated",
    licence="MIT",
    gated=False,
    sources=("https://huggingface.co/kaiko-ai/midnight", "https://arxiv.org/abs/2504.05186"),
)
_VIT_S16 = Preset(
    name="kaiko-vits16",
    title="Kaiko ViT-S/16",
    repo="1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
    timm_model="vit_small_patch16_224",
    args={"img_size": 224},
    dim=384,
    num_params=21_665_664,
    gflops=9.2,
    norm=HALF,
    interpolation="bilinear",
    tile_px=256,
    mpps=(0.5,),
    mpp_basis="convention",
    licence="kaiko-non-commercial",
    gated=False,
    sources=("https://github.com/kaiko-ai/towards_large_pathology_fms", "https://arxiv.org/abs/2404.15217"),
)

PRESETS = (
    _MIDNIGHT,
    dataclasses.replace(_MIDNIGHT, name="midnight-12k-cls", pooling=TOKEN, dim=1536),
    _VIT_S16,
    dataclasses.replace(
        _VIT_S16,
        name="kaiko-vits8",
        title="Kaiko ViT-S/8",
        repo="1aurent/vit_small_patch8_224.kaiko_ai_towards_large_pathology_fms",
        revision="003775444da0119f90ca63e2b86e454fd06ba797",
        timm_model="vit_small_patch8_224",
        num_params=21_670_272,
        gflops=44.8,
    ),
    dataclasses.replace(
        _VIT_S16,
        name="kaiko-vitb16",
        title="Kaiko ViT-B/16",
        repo="1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms",
        timm_model="vit_base_patch16_224",
        dim=768,
        num_params=85_798_656,
        gflops=35.1,
    ),
    dataclasses.replace(
        _VIT_S16,
        name="kaiko-vitb8",
        title="Kaiko ViT-B/8",
        repo="1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms",
        revision="a4eb74de76274a5f3fe8260841a1b07a90930f43",
        timm_model="vit_base_patch8_224",
        dim=768,
        num_params=85_807_872,
        gflops=156.3,
    ),
    dataclasses.replace(
        _VIT_S16,
        name="kaiko-vitl14",
        title="Kaiko ViT-L/14",
        repo="1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        timm_model="vit_large_patch14_reg4_dinov2",
        args={"img_size": 224, "init_values": 1e-5},
        dim=1024,
        num_params=303_230_976,
        gflops=164.6,
        position_grid=BICUBIC_ANTIALIASED,
    ),
)
