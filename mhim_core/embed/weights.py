"""Weight files: their sha256, the facts they state about themselves, their tensors. Nothing is unpickled freely."""

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from mhim_core.errors import EncoderError
from mhim_core.records import parse_json
from mhim_core.storage import open_file

if TYPE_CHECKING:
    from torch import Tensor

LOCAL = "local weights"
"""How the `source` of a card begins whose weights were given as a file or folder: never their path."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


def weights_sha256(path: Path) -> str:
    """The file's sha256, 64 hex digits. Raises EncoderError if it cannot be read."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"cannot read the encoder weights {path}: {error.strerror}") from error


def check_sha256(path: Path, expected: str, encoder_id: str) -> None:
    """Raises EncoderError if the file is not the one whose sha256 is expected."""
    digest = weights_sha256(path)
    if digest != expected:
        raise EncoderError(
            f"encoder {encoder_id}: the weights {path.name} have sha256 {digest}, expected {expected}; "
            "features of other weights must not be mixed: give the original file, or embed anew with this one"
        )


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself (its `__metadata__`); empty for the other formats.

    Reads the header alone, needs neither torch nor safetensors. Raises EncoderError if the header is broken.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with open_file(path) as file:
            (num_bytes,) = struct.unpack("<Q", file.read(8))
            if num_bytes > _MAX_HEADER_BYTES:
                raise ValueError("its header is over 100 MB")
            text = file.read(num_bytes)
        if len(text) != num_bytes:
            raise ValueError("it ends within its header")
        header = parse_json(text)
        return {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
    except OSError as error:
        raise EncoderError(f"cannot read the encoder weights {path}: {error.strerror}") from error
    except (ValueError, struct.error, AttributeError) as error:
        raise EncoderError(f"the encoder weights {path} are no safetensors file: {error}") from None


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The file's tensors by name, on the CPU: safetensors, or a torch file of tensors alone (`weights_only`).

    A dict nested under `state_dict` is unwrapped. Raises EncoderError if the file holds anything else, code included.
    """
    import torch
    from safetensors.torch import load_file

    if path.suffix not in SUFFIXES:
        raise EncoderError(f"encoder weights {path.name}: not one of the formats {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EncoderError(f"cannot read the encoder weights {path}: {error.strerror or error}") from error
    except (
        Exception
    ) as error:  # the restricted unpickler raises whatever broken bytes lead it to: IndexError, KeyError, …
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(f"the encoder weights {path} do not load as tensors alone: {reason}") from error
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise EncoderError(f"the encoder weights {path} hold something other than named tensors; save its state_dict")
    return dict(tensors)
