"""Phikon-v2 of Owkin (Filiot et al., arXiv 2409.09173).

Sources: the model card owkin/phikon-v2 (ViT-L/16 by DINOv2, class token, licence) and its processor (shortest edge of
224 px, bicubic, ImageNet's mean and standard deviation). The weights are in the layout of `transformers` (Dinov2Model);
they are renamed to timm's (`dinov2_layouts.py`), so that package is not needed.
"""

from mhim_core.embed.preset import BICUBIC, Preset

PRESETS = (
    Preset(
        name="phikon-v2",
        title="Phikon-v2",
        repo="owkin/phikon-v2",
        revision="2ae989a9c40cffaa27f0a6cb29cc94d1d6f9a5fd",
        timm_model="vit_large_patch16_224",
        args={"img_size": 224, "init_values": 1e-5},
        dim=1024,
        num_params=303_350_784,
        gflops=123.1,
        position_grid=BICUBIC,
        tile_px=224,
        mpps=(0.5,),
        mpp_basis="stated",
        licence="Owkin non-commercial",
        terms="Research by non-profit organisations (LICENSE.pdf of the repository).",
        gated=False,
        sources=("https://huggingface.co/owkin/phikon-v2", "https://arxiv.org/abs/2409.09173"),
    ),
)
