"""The network in a user's own file, run as it is, and tried out before its features are believed.

Loading the file runs what is in it (see `own_file.py`).
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mhim_core.embed.agreement import trial_tiles
from mhim_core.embed.card import FLOAT32, RUNTIME_OPENVINO, EncoderCard
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.openvino_runtime import CompiledNetwork
from mhim_core.embed.own_file import NAME, ONNX, TORCHSCRIPT, OwnFile, file_format
from mhim_core.embed.transform import TileTransform, transform_facts
from mhim_core.embed.weights import LOCAL, check_sha256, weights_sha256
from mhim_core.errors import EncoderError
from mhim_core.storage import read_file

_MAX_ONNX_BYTES = 2**31
"""The format's own limit; larger models keep their weights in other files, which no sha256 of this one would cover."""
_TOLERANCE = 1e-4
"""Largest change of a feature with its batch mates, relative to its length. A network that does not look at them moves
by the last bits, about 1e-6."""


def own_card(file: OwnFile, runtime: dict[str, Any]) -> EncoderCard:
    """The card; the file is loaded and run once, to learn how long its features are.

    Raises EncoderError where the file gives no features.
    """
    path = Path(file.path)
    kind = file_format(path)
    _check_runtime(kind, runtime)
    facts = transform_facts(file.input_px, file.mean, file.std, file.interpolation)
    card = EncoderCard(
        id=NAME,
        source=LOCAL,
        weights_sha256=weights_sha256(path),
        revision="",
        licence="unknown",
        pooling=NAME,
        network={"format": kind},
        transform=facts,
        dim=1,  # not known yet
        **runtime,
    )
    pixels = TileTransform(facts)(trial_tiles(1).expand(min(card.batch_size, 8), -1, -1, -1))
    features = _run(_load(card, path), pixels)
    return EncoderCard.from_dict(card.to_dict() | {"dim": int(features.shape[1])})


def load_own(card: EncoderCard, file: OwnFile) -> TorchEncoder:
    """The encoder of the card. Raises EncoderError if the file is another one, or features depend on batch mates."""
    path = Path(file.path)
    check_sha256(path, card.weights_sha256, card.id)
    network = _load(card, path)
    versions = {"openvino-isa": network.instruction_set} if isinstance(network, CompiledNetwork) else {}
    tiles = trial_tiles()
    try:
        encoder = TorchEncoder(card, nn.Sequential(TileTransform(card.transform), network), versions)
        in_company, alone = encoder(tiles)[0].double(), encoder(tiles[:1])[0].double()
    except EncoderError:
        raise
    except Exception as error:  # whatever the program raises
        raise _failed(error) from error
    if not (torch.isfinite(in_company).all() and torch.isfinite(alone).all()):
        raise EncoderError(
            f"encoder {NAME}: its features are not finite on tiles like H&E; check mean, std and precision"
        )
    change = float((in_company - alone).norm() / alone.norm().clamp(min=1e-12))
    if not change <= _TOLERANCE:
        raise EncoderError(
            f"encoder {NAME}: a tile's feature changes by {change:.1e} of its length with the tiles beside it, or from "
            "call to call: the network was saved in training mode, or draws at random; save it after .eval()"
        )
    return encoder


class _Program(nn.Module):
    """A loaded program as a module: contiguous pixels in, float32 out."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.program(pixels.contiguous())
        if not isinstance(features, Tensor):
            raise EncoderError(f"encoder {NAME} gives a {type(features).__name__}, and one tensor (b, d) is needed")
        return features

    def train(self, mode: bool = True) -> "_Program":
        return self  # an exported program has one mode; that of TorchScript is set when it is loaded


def _load(card: EncoderCard, path: Path) -> nn.Module:
    kind = card.network["format"]
    if kind != file_format(path):
        raise EncoderError(f"encoder {NAME}: {path.name} is {file_format(path)}, its card says {kind}")
    if kind == ONNX:
        return CompiledNetwork(card, read_file(path, _MAX_ONNX_BYTES))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own older formats
            if kind == TORCHSCRIPT:
                return _Program(torch.jit.load(str(path), map_location="cpu").eval())
            return _Program(torch.export.load(str(path)).module())
    except Exception as error:  # a loader of programs raises whatever a damaged one leads it to
        raise _failed(error) from error


def _run(network: nn.Module, pixels: Tensor) -> Tensor:
    try:
        with torch.inference_mode():
            features: Tensor = network(pixels)
    except EncoderError:
        raise
    except Exception as error:  # whatever the program raises
        raise _failed(error) from error
    if features.ndim != 2 or len(features) != len(pixels):
        raise EncoderError(
            f"encoder {NAME} gives {tuple(features.shape)} for {len(pixels)} tiles, and a row of features for each is "
            "needed: (b, d)"
        )
    return features


def _failed(error: Exception) -> EncoderError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return EncoderError(
        f"encoder {NAME}: the file does not run ({type(error).__name__}: {reason}); it must take float32 (b, 3, p, p), "
        "any b, with p as own_input_px says"
    )


def _check_runtime(kind: str, runtime: dict[str, Any]) -> None:
    is_openvino = runtime["runtime"] == RUNTIME_OPENVINO
    if kind == ONNX and not (is_openvino and runtime["precision"] == FLOAT32):
        raise EncoderError(
            f"encoder {NAME}: an ONNX file is computed by OpenVINO on a CPU; set encoder_runtime=openvino"
        )
    if kind != ONNX and is_openvino:
        raise EncoderError(f"encoder {NAME}: a {kind} file is computed by torch; set encoder_runtime=torch")
