"""A user's own encoder in one file: TorchScript, torch.export or ONNX. Standard library only.

Such a file holds a program, which is run when it is loaded. It therefore needs the trust of a command: `OwnFile` is
made of what a person typed, and no store, card or registry can name one; a card states the sha256 that the file must
have.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mhim_core.errors import EncoderError

NAME = "own"
TORCHSCRIPT, TORCH_EXPORT, ONNX = "torchscript", "torch.export", "onnx"
_MARKS = {TORCHSCRIPT: ("/code/",), TORCH_EXPORT: ("models/model.json", "serialized_exported_program")}
"""Parts of the names in a file's archive, by what it is."""


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """The file, and what is made of tiles before it takes them: float32 (b, 3, input_px, input_px) in, (b, d) out."""

    path: str
    input_px: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of values scaled to 0–1, as `std`."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def with_transform(self, transform: dict[str, Any]) -> "OwnFile":
        """The same file behind a stored card's transform."""
        facts = {name: transform[name] for name in ("input_px", "interpolation")}
        return replace(self, mean=tuple(transform["mean"]), std=tuple(transform["std"]), **facts)


def file_format(path: Path) -> str:
    """TORCHSCRIPT, TORCH_EXPORT or ONNX. Raises EncoderError if the file is not there, or none of them."""
    if not path.is_file():
        raise EncoderError(f"encoder {NAME}: no file at {path}")
    if path.suffix.lower() == ".onnx":
        return ONNX
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    for kind, marks in _MARKS.items():
        if any(mark in name for mark in marks for name in names):
            return kind
    raise EncoderError(
        f"encoder {NAME}: {path.name} is neither TorchScript, torch.export nor ONNX (*.onnx); a file of weights alone "
        "needs a network: encoder=timm/<model> or a published name (mhim encoders), with encoder_weights="
    )
