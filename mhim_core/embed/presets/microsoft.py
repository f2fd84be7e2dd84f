"""The tile encoder of Prov-GigaPath (Xu et al., Nature 2024), of Microsoft Research, Providence and the University of
Washington.

Sources: github.com/prov-gigapath/prov-gigapath (transform: 256 px, bicubic, centre of 224 px; terms of use) and the
model card. Its pipeline cuts tiles of 256 px at 0.5 µm/px; the crop leaves out 16 px on every side.
"""

from mhim_core.embed.preset import Preset

PRESETS = (
    Preset(
        name="prov-gigapath",
        title="Prov-GigaPath (tile encoder)",
        repo="prov-gigapath/prov-gigapath",
        revision="64f9e26c15019f2d4f6d9113c6822f88bb16b01b",
        timm_model="vit_giant_patch14_dinov2",
        args={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        dim=1536,
        num_params=1_134_953_984,
        gflops=456.2,
        resize_px=256,
        tile_px=256,
        mpps=(0.5,),
        mpp_basis="stated",
        licence="Apache-2.0, research only",
        terms="The card allows research and reproduction only, and no deployed use, commercial or otherwise.",
        gated=True,
        sources=(
            "https://huggingface.co/prov-gigapath/prov-gigapath",
            "https://github.com/prov-gigapath/prov-gigapath",
            "https://doi.org/10.1038/s41586-024-07441-w",
        ),
    ),
)
