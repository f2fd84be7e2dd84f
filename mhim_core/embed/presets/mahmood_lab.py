"""UNI and UNI2-h of the Mahmood Lab (Chen et al., Nature Medicine 2024).

Sources: the model cards MahmoodLab/UNI and MahmoodLab/UNI2-h (arguments, transform, licence),
github.com/mahmoodlab/UNI. Both cards resize with torchvision's default, bilinear. 20×: the paper; µm/px by convention.

CONCH is not here: its image tower ends in an attentional pooler and a projection of its own code. A TorchScript or ONNX
file of it can be used with `encoder=own`.
"""

from mhim_core.embed.preset import SILU, SWIGLU_PACKED, Preset

_TERMS = (
    "Non-commercial academic research, with an institutional e-mail address; models trained on its features count as "
    "derivatives. No redistribution."
)

PRESETS = (
    Preset(
        name="uni",
        title="UNI",
        repo="MahmoodLab/UNI",
        revision="b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
        timm_model="vit_large_patch16_224",
        args={"img_size": 224, "patch_size": 16, "init_values": 1e-5},
        dim=1024,
        num_params=303_350_784,
        gflops=123.1,
        interpolation="bilinear",
        tile_px=256,
        mpps=(0.5,),
        mpp_basis="magnification",
        licence="CC-BY-NC-ND-4.0",
        terms=_TERMS,
        gated=True,
        sources=("https://huggingface.co/MahmoodLab/UNI", "https://doi.org/10.1038/s41591-024-02857-3"),
    ),
    Preset(
        name="uni2-h",
        title="UNI2-h",
        repo="MahmoodLab/UNI2-h",
        revision="d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
        timm_model="vit_giant_patch14_224",
        args={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "no_embed_class": True,
            "mlp_layer": SWIGLU_PACKED,
            "act_layer": SILU,
            "reg_tokens": 8,
        },
        dim=1536,
        num_params=681_394_176,
        gflops=370.9,
        interpolation="bilinear",
        tile_px=256,
        mpps=(0.5,),
        mpp_basis="convention",
        licence="CC-BY-NC-ND-4.0",
        terms=_TERMS,
        gated=True,
        sources=("https://huggingface.co/MahmoodLab/UNI2-h", "https://github.com/mahmoodlab/UNI"),
    ),
)
