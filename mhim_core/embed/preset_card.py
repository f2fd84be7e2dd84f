"""Cards of published encoders: from the table, and from what the weights' file is. Imports neither torch nor timm."""

from pathlib import Path
from typing import Any

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.hub import HUB, WEIGHT_NAMES, fetch, find_cached
from mhim_core.embed.preset import Preset, require_preset
from mhim_core.embed.weights import LOCAL, SUFFIXES, weights_sha256
from mhim_core.errors import EncoderError


def preset_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    """The card of `name`, its weights from a local file or folder, or from the hub at the preset's or another commit.

    Raises EncoderError with what to do where they cannot be had.
    """
    preset = require_preset(name)
    source, commit = LOCAL, revision or ""
    if weights is None:
        files = fetch(preset.repo, revision or preset.revision or None)
        path, source, commit = files.weights, HUB + preset.repo, files.commit
    else:
        path = local_weights(name, weights)
    return EncoderCard(
        id=name,
        source=source,
        weights_sha256=weights_sha256(path),
        revision=commit,
        licence=preset.licence,
        pooling=preset.pooling,
        network=preset.network(),
        transform=preset.transform(),
        dim=preset.dim,
        **runtime,
    )


def find_preset_weights(card: EncoderCard, weights: str | None, *, download: bool = False) -> Path:
    """The file of the card's weights. `download`: from the hub, where it is not in this machine's cache."""
    if weights is not None:
        return local_weights(card.id, weights)
    if card.source.startswith(LOCAL):
        raise EncoderError(
            f"encoder {card.id} was made from a local weights file with sha256 {card.weights_sha256}; "
            "say where that lies on this machine with encoder_weights="
        )
    repo = card.source.removeprefix(HUB)
    return fetch(repo, card.revision).weights if download else find_cached(repo, card.revision)


def local_weights(name: str, weights: str) -> Path:
    """A weights file, or the one in a folder. Raises EncoderError where there is none."""
    path = Path(weights)
    if path.is_dir():
        file = next((path / item for item in WEIGHT_NAMES if (path / item).is_file()), None)
        if file is None:
            raise EncoderError(f"encoder {name}: the folder {path} has no {' or '.join(WEIGHT_NAMES)}")
        return file
    if not path.is_file():
        raise EncoderError(f"encoder {name}: no weights at {path}; give a file, a folder, or nothing to ask the hub")
    if path.suffix not in SUFFIXES:
        raise EncoderError(f"encoder {name}: weights {path.name}: not one of the formats {', '.join(SUFFIXES)}")
    return path


def is_here(preset: Preset) -> bool:
    """Whether the preset's weights are in this machine's cache of the hub."""
    try:
        find_cached(preset.repo, preset.revision or "main")
    except EncoderError:
        return False
    return True
