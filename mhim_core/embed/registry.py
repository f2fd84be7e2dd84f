"""Encoders by name. A name is looked up here and nowhere else: configuration can never make anything be imported.

    hed-texture         weight-free stain and texture statistics; needs nothing, runs anywhere
    efficientnet-lite0  ImageNet weights from a package of the extra `encoders`; no hub, no network
    timm/<model>        timm's models, from the hub at a pinned commit, or from a file or folder with weights=
    own                 a user's TorchScript, torch.export or ONNX file, which is run (`own_file.py`)
    uni2-h, virchow2, … published pathology encoders, from the hub or a file (`presets/`)

Where a local weights file lies is execution information: it is given beside the name or card (`weights`) and is part of
neither the card nor any fingerprint; the file's sha256 is.
"""

import difflib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mhim_core.embed.card import (
    BFLOAT16,
    CPU_BATCH_SIZE,
    CPU_NUM_THREADS,
    CUDA_BATCH_SIZE,
    FLOAT16,
    FLOAT32,
    OPENVINO_BATCH_SIZE,
    RUNTIME_CPU,
    RUNTIME_CUDA,
    RUNTIME_OPENVINO,
    EncoderCard,
)
from mhim_core.embed.efficientnet_lite0 import NAME as EFFICIENTNET_LITE0
from mhim_core.embed.efficientnet_lite0 import efficientnet_card, find_weights, load_efficientnet
from mhim_core.embed.hed_scales import NAME as HED_TEXTURE
from mhim_core.embed.hed_scales import hed_texture_card
from mhim_core.embed.own_file import NAME as OWN
from mhim_core.embed.own_file import OwnFile
from mhim_core.embed.preset import all_presets, preset_of
from mhim_core.errors import EncoderError

if TYPE_CHECKING:
    from mhim_core.embed.encoder import TileEncoder

Weights = str | OwnFile
"""A local weights file or folder; for the encoder `own`, and for it alone, the file that a person named."""

_TIMM_NAME = re.compile(r"^timm/(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,94}(/[A-Za-z0-9][\w.-]{0,94})?(?<![.-])$", re.ASCII)
"""A model, or an organisation and a repository; never a path."""


def _runtime(runtime: str, precision: str, batch_size: int, num_threads: int) -> dict[str, Any]:
    return {"runtime": runtime, "precision": precision, "batch_size": batch_size, "num_threads": num_threads}


_RUNTIMES = {
    ("torch", "cpu"): _runtime(RUNTIME_CPU, FLOAT32, CPU_BATCH_SIZE, CPU_NUM_THREADS),
    ("torch", "cuda"): _runtime(RUNTIME_CUDA, FLOAT32, CUDA_BATCH_SIZE, 0),
    ("torch_bf16", "cpu"): _runtime(RUNTIME_CPU, BFLOAT16, CPU_BATCH_SIZE, CPU_NUM_THREADS),
    ("torch_bf16", "cuda"): _runtime(RUNTIME_CUDA, BFLOAT16, CUDA_BATCH_SIZE, 0),
    ("torch_fp16", "cuda"): _runtime(RUNTIME_CUDA, FLOAT16, CUDA_BATCH_SIZE, 0),
    ("openvino", "cpu"): _runtime(RUNTIME_OPENVINO, FLOAT32, OPENVINO_BATCH_SIZE, CPU_NUM_THREADS),
    ("openvino_bf16", "cpu"): _runtime(RUNTIME_OPENVINO, BFLOAT16, OPENVINO_BATCH_SIZE, CPU_NUM_THREADS),
}
"""A card's fields by what computes and on which device."""
_DEVICES = ("cpu", "cuda")


def encoder_card(
    name: str,
    *,
    weights: Weights | None = None,
    revision: str | None = None,
    device: str = "cpu",
    runtime: str = "torch",
) -> EncoderCard:
    """The card of the encoder `name`, without loading it.

    `weights`: a local file or folder in place of the package or the hub. `revision`: the hub's commit, tag or branch
    (None: what is cached, else the newest; the card keeps the commit). `device` (`cpu`, `cuda`) and `runtime` (`torch`,
    `torch_bf16`; on the CPU `openvino` or `openvino_bf16`, on CUDA `torch_fp16`) change the last bits of the features,
    or more, and so the card. Costs milliseconds, except `timm/…` (imports timm, may download).
    Raises EncoderError if the name is unknown or the weights are not there, not the right ones, gated or out of reach.
    """
    if device not in _DEVICES:
        raise EncoderError(f"encoder device {device!r} is unknown; set cpu or cuda")
    facts = _RUNTIMES.get((runtime, device))
    if facts is None:
        known = ", ".join(known for known, place in _RUNTIMES if place == device)
        raise EncoderError(f"encoder {name}: encoder_runtime={runtime} is not known on {device}; known there: {known}")
    return _entry(name).make_card(name, _fitting(name, weights), revision, facts)


def card_found_here(stored: EncoderCard, *, weights: Weights | None = None) -> EncoderCard:
    """The card that this version makes of the stored one's name and revision, for the same runtime.

    Arguments and errors as `encoder_card`; whoever asks compares the two.
    """
    entry, weights = _entry(stored.id), _fitting(stored.id, weights)
    if isinstance(weights, OwnFile):
        weights = weights.with_transform(stored.transform)
    return entry.make_card(stored.id, weights, stored.revision or None, _RUNTIMES[_place_of(stored)])


def runtime_of(card: EncoderCard) -> str:
    """What `encoder_card` takes as `runtime` for such a card."""
    return _place_of(card)[0]


def _place_of(card: EncoderCard) -> tuple[str, str]:
    made_by = (card.runtime, card.precision)
    return next(place for place, facts in _RUNTIMES.items() if (facts["runtime"], facts["precision"]) == made_by)


def is_encoder_name(name: str) -> bool:
    """Whether an encoder may be called that; whether there is such a model is not asked."""
    return bool(_TIMM_NAME.match(name)) or (name in ENCODER_NAMES and name != _TIMM)


def prefers_openvino(name: str) -> bool:
    """Whether new features of the encoder are better made by OpenVINO than by torch where there is no GPU: it is one
    of those that this project ships, and OpenVINO is known to compute it."""
    return name == EFFICIENTNET_LITE0


def openvino_is_installed() -> bool:
    return find_spec("openvino") is not None


def load_encoder(
    name: str,
    *,
    weights: Weights | None = None,
    revision: str | None = None,
    device: str = "cpu",
    runtime: str = "torch",
) -> "TileEncoder":
    """The encoder `name`, ready to run; arguments and errors as `encoder_card`."""
    card = encoder_card(name, weights=weights, revision=revision, device=device, runtime=runtime)
    return load_encoder_for(card, weights=weights)


def load_encoder_for(card: EncoderCard, *, weights: Weights | None = None) -> "TileEncoder":
    """The encoder a stored card describes, with the card's own transform, batch size and threads.

    A card made from a local file does not know where that file lies: give it with `weights`; the hub and packages are
    found without. Raises EncoderError if the weights here have another sha256, or this version computes otherwise.
    """
    return _entry(card.id).load(card, _fitting(card.id, weights))


def num_weight_bytes(card: EncoderCard, *, weights: Weights | None = None) -> int | None:
    """Of the file that `load_encoder_for` would read: 0 without one; None where it is not on this machine (yet)."""
    try:
        path = _entry(card.id).find_weights(card, _fitting(card.id, weights))
        return 0 if path is None else path.stat().st_size
    except (EncoderError, OSError):  # to load it tells why
        return None


class _Encoder(NamedTuple):
    """How an encoder is described, without loading it, and how it is loaded."""

    make_card: Callable[[str, Any, str | None, dict[str, Any]], EncoderCard]
    """Of name, weights (an OwnFile for `own`, else a path or None), revision and runtime."""
    load: "Callable[[EncoderCard, Any], TileEncoder]"
    """Of card and weights."""
    find_weights: Callable[[EncoderCard, Any], Path | None] = lambda card, weights: None
    """Of card and weights: the file on this machine, nothing downloaded; None: an encoder without weights."""


def _hed_texture_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    if weights is not None:
        raise EncoderError(f"encoder {name} has no weights; leave encoder_weights unset")
    if runtime["runtime"] == RUNTIME_OPENVINO or runtime["precision"] != FLOAT32:
        raise EncoderError(
            f"encoder {name} is no network, so there is no other way to compute it; set encoder_runtime=torch"
        )
    return hed_texture_card(runtime)


def _load_hed_texture(card: EncoderCard, weights: str | None) -> "TileEncoder":
    from mhim_core.embed.hed_texture import load_hed_texture

    return load_hed_texture(card)


def _efficientnet_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    return efficientnet_card(weights, runtime)


def _timm_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    from mhim_core.embed.timm_card import timm_card

    return timm_card(name, weights, revision, runtime)


def _load_timm(card: EncoderCard, weights: str | None) -> "TileEncoder":
    from mhim_core.embed.timm_card import find_source
    from mhim_core.embed.timm_encoder import load_timm
    from mhim_core.embed.weights import LOCAL

    if weights is None and card.source.startswith(LOCAL):
        raise EncoderError(
            f"encoder {card.id} was made from a local weights file with sha256 {card.weights_sha256}; "
            "say where that lies on this machine with encoder_weights="
        )
    return load_timm(card, find_source(card.id, weights, card.revision or None).path)


def _find_efficientnet(card: EncoderCard, weights: str | None) -> Path:
    return find_weights(weights)


def _find_timm(card: EncoderCard, weights: str | None) -> Path:
    from mhim_core.embed.hub import HUB, find_cached
    from mhim_core.embed.timm_card import find_source

    if weights is not None:
        return find_source(card.id, weights, card.revision or None).path
    return find_cached(card.source.removeprefix(HUB), card.revision)


def _preset_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    from mhim_core.embed.preset_card import preset_card

    return preset_card(name, weights, revision, runtime)


def _load_preset(card: EncoderCard, weights: str | None) -> "TileEncoder":
    from mhim_core.embed.preset_card import find_preset_weights
    from mhim_core.embed.preset_encoder import load_preset

    return load_preset(card, find_preset_weights(card, weights, download=True))


def _find_preset(card: EncoderCard, weights: str | None) -> Path:
    from mhim_core.embed.preset_card import find_preset_weights

    return find_preset_weights(card, weights)


def _own_card(name: str, weights: OwnFile, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    from mhim_core.embed.own_encoder import own_card

    return own_card(weights, runtime)


def _load_own(card: EncoderCard, weights: OwnFile) -> "TileEncoder":
    from mhim_core.embed.own_encoder import load_own

    return load_own(card, weights)


def _find_own(card: EncoderCard, weights: OwnFile) -> Path:
    return Path(weights.path)


_TIMM = "timm/<model>"
_ENCODERS = {
    HED_TEXTURE: _Encoder(_hed_texture_card, _load_hed_texture),
    EFFICIENTNET_LITE0: _Encoder(_efficientnet_card, load_efficientnet, _find_efficientnet),
    _TIMM: _Encoder(_timm_card, _load_timm, _find_timm),
    OWN: _Encoder(_own_card, _load_own, _find_own),
}
_PRESET = _Encoder(_preset_card, _load_preset, _find_preset)
ENCODER_NAMES = (*_ENCODERS, *all_presets())
"""Of everything that `encoder=` takes; `timm/<model>` stands for many."""


def _entry(name: str) -> _Encoder:
    if preset_of(name) is not None:
        return _PRESET
    entry = _ENCODERS.get(_TIMM if _TIMM_NAME.match(name) else name)
    if entry is None or name == _TIMM:
        raise EncoderError(unknown_encoder(name))
    return entry


def _fitting(name: str, weights: Weights | None) -> Weights | None:
    """The weights. Raises EncoderError unless a file that is run is given to `own`, and to it alone."""
    if name == OWN and not isinstance(weights, OwnFile):
        raise EncoderError(
            f"encoder {OWN} needs the file that it is: set encoder_file= (TorchScript, torch.export or ONNX; it is run)"
        )
    if name != OWN and isinstance(weights, OwnFile):
        raise EncoderError(f"encoder {name} runs no file of yours: leave encoder_file unset, or set encoder={OWN}")
    return weights


def unknown_encoder(name: str) -> str:
    """A sentence that names the nearest."""
    close = difflib.get_close_matches(name.lower(), [known for known in ENCODER_NAMES if known != _TIMM], n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; a model of timm is timm/{name}." if "/" not in name else "."
    known = f"Known are {', '.join(_ENCODERS)} and {len(all_presets())} published ones, which mhim encoders lists"
    return f"encoder {name!r} is unknown{hint} {known}"
