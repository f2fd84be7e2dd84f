"""Networks of timm: the one place that imports it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mhim_core.embed.card import RUNTIME_OPENVINO, EncoderCard
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.folding import fold_batch_norms
from mhim_core.embed.preset import SILU, SWIGLU_PACKED
from mhim_core.embed.torchvision_shim import prepare_torchvision
from mhim_core.embed.transform import TileTransform
from mhim_core.embed.weights import check_sha256, read_tensors
from mhim_core.errors import EncoderError

FOLDED = "folded"
"""What a card's network says under `batch_norm` where batch norms are folded into their convolutions."""


def import_timm() -> Any:
    """timm, after torchvision was made importable. Raises EncoderError if the extra `encoders` is not installed."""
    try:
        prepare_torchvision()
        import timm
    except ModuleNotFoundError as error:
        raise EncoderError(f"timm encoders need the package {error.name}: pip install 'mhim[encoders]'") from None
    return timm


def load_timm(card: EncoderCard, weights: Path) -> TorchEncoder:
    """The encoder of a `timm/…` card from its weights' file. Raises EncoderError if the file is another one."""
    check_sha256(weights, card.weights_sha256, card.id)
    return build_timm(card, read_tensors(weights))


def build_timm(card: EncoderCard, tensors: dict[str, Tensor]) -> TorchEncoder:
    """The card's network with these tensors: every layer of it must be among them, and only a classifier may be left.

    Raises EncoderError, naming layers, if they do not fit.
    """
    model = make_network(card.id, card.network)
    load_tensors(card, model, tensors)
    if card.network.get("batch_norm") == FOLDED:
        fold_batch_norms(model, card.transform["input_px"])
    return run_network(card, model)


def load_tensors(card: EncoderCard, model: Any, tensors: dict[str, Tensor], *, assign: bool = False) -> None:
    """Into a model of timm, in place; a classifier may be left over. `assign`: the tensors become the model's own, so
    that it can be one on the meta device. Raises EncoderError, naming layers, if they do not fit.
    """
    classifier = model.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{name}." for name in names))}
    kept |= {key: tensors[key] for key in model.state_dict() if key in tensors}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False, assign=assign)
    except RuntimeError as error:
        raise EncoderError(f"encoder {card.id}: the weights do not fit the network: {_second_line(error)}") from None
    if missing or unexpected:
        raise EncoderError(
            f"encoder {card.id}: the weights do not fit timm's {card.network['timm_model']}: "
            f"{len(missing)} layers missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unknown ({', '.join(unexpected[:3])})"
        )


def run_network(card: EncoderCard, network: Any) -> TorchEncoder:
    """The encoder of a network whose weights are loaded: behind the card's transform, by the card's runtime."""
    transform, network = TileTransform(card.transform), network.to(memory_format=torch.channels_last)
    if card.runtime != RUNTIME_OPENVINO:
        return TorchEncoder(card, nn.Sequential(transform, network))
    from mhim_core.embed.openvino_runtime import compiled_network

    compiled = compiled_network(card, transform, network)
    return TorchEncoder(card, nn.Sequential(transform, compiled), versions={"openvino-isa": compiled.instruction_set})


def make_network(encoder_id: str, network: dict[str, Any], *, on_meta: bool = False) -> Any:
    """timm's model without its classifier: tiles → pooled features. `on_meta`: shapes alone, no memory.

    The name must be one that timm itself lists: never a path, an address or something to import.
    Raises EncoderError if timm does not know it or refuses its arguments.
    """
    timm = import_timm()
    name = network["timm_model"]
    if not timm.is_model(name):
        raise EncoderError(f"encoder {encoder_id}: timm {timm.__version__} has no model {name!r}")
    try:
        # the random initial weights are all replaced; drawing them must not move the process's generator
        with torch.random.fork_rng(devices=[]), torch.device("meta" if on_meta else "cpu"):
            return timm.create_model(name, pretrained=False, num_classes=0, **_with_layers(network["args"]))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise EncoderError(f"encoder {encoder_id}: timm cannot build {name} with {network['args']}: {error}") from error


def _with_layers(args: dict[str, Any]) -> dict[str, Any]:
    """A card's arguments with the layers that it names; a name that is no layer of ours stays a name."""
    packed = import_timm().layers.SwiGLUPacked
    layers: dict[str, dict[str, Any]] = {"mlp_layer": {SWIGLU_PACKED: packed}, "act_layer": {SILU: nn.SiLU}}
    return {
        key: layers.get(key, {}).get(value, value) if isinstance(value, str) else value for key, value in args.items()
    }


def feature_dim(encoder_id: str, model: Any, input_px: int) -> int:
    """How long the feature of a model on the meta device is, found without computing anything.

    Raises EncoderError if it takes no such input or gives a map instead of one vector.
    """
    try:
        with torch.inference_mode():
            shape = model.eval()(torch.empty(1, 3, input_px, input_px, device="meta")).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise EncoderError(f"encoder {encoder_id}: takes no tiles of {input_px} px: {error}") from error
    if len(shape) != 2:
        raise EncoderError(f"encoder {encoder_id}: gives features of shape {tuple(shape)}; set its global_pool")
    return int(shape[1])


def _second_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)] if lines else type(error).__name__
