"""The DINO ViT-S/16 and ViT-S/8 of Lunit (Kang et al., CVPR 2023).

Sources: github.com/lunit-io/benchmark-ssl-pathology (architecture, licence; trained at 20× and 40×), and the mean and
standard deviation of their training as github.com/kaiko-ai/eva and owkin/plism-benchmark state them. The weights are
the ports to the hub by 1aurent; tools that take mean and standard deviation from another port's config get other
features.
"""

import dataclasses

from mhim_core.embed.preset import Preset

_VIT_S16 = Preset(
    name="lunit-vits16",
    title="Lunit DINO ViT-S/16",
    repo="1aurent/vit_small_patch16_224.lunit_dino",
    timm_model="vit_small_patch16_224",
    args={"img_size": 224},
    dim=384,
    num_params=21_665_664,
    gflops=9.2,
    norm=((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
    tile_px=224,
    mpps=(0.5, 0.25),
    mpp_basis="stated",
    licence="Lunit non-commercial",
    terms="Research only (the Lunit Public License of the repository).",
    gated=False,
    sources=("https://github.com/lunit-io/benchmark-ssl-pathology", "https://arxiv.org/abs/2212.04690"),
)

PRESETS = (
    _VIT_S16,
    dataclasses.replace(
        _VIT_S16,
        name="lunit-vits8",
        title="Lunit DINO ViT-S/8",
        repo="1aurent/vit_small_patch8_224.lunit_dino",
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
        timm_model="vit_small_patch8_224",
        num_params=21_670_272,
        gflops=44.8,
    ),
)
