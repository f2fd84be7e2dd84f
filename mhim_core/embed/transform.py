"""Pixels to a network's input, on the whole batch at once.

The **whole** tile is resized (no centre crop: a tile's border is tissue like its middle), in float32 and with
antialiasing, so that no grey level is lost to rounding and a tile smaller than asked is treated alike. A 256 px tile at
0.5 µm/px therefore reaches a 224 px network at 0.571 µm/px; a tile that already has the size is passed on unchanged.
Where a publisher cuts out the centre (`crop: center`), the tile is resized to `resize_px` first and loses its border.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mhim_core.errors import EncoderError

INTERPOLATIONS = ("bilinear", "bicubic")


def transform_facts(
    input_px: int, mean: Sequence[float], std: Sequence[float], interpolation: str = "bilinear"
) -> dict[str, Any]:
    """A card's `transform`. Raises EncoderError on values no network can mean."""
    facts = {
        "input_px": int(input_px),
        "interpolation": interpolation,
        "antialias": True,
        "crop": "none",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }
    _check(facts)
    return facts


class _Resized(NamedTuple):
    """A batch of tiles, and what became of it."""

    tiles: Tensor
    pixels: Tensor
    """Never written to."""


_last_resized: ContextVar[dict[tuple[int, int, str], _Resized] | None] = ContextVar("last_resized", default=None)
"""By sizes and interpolation; None: nothing is kept."""


@contextmanager
def shared_resizes() -> Iterator[None]:
    """While the block runs, networks on a CPU that take a batch of tiles one after another have it resized once for
    those of the same size and interpolation, to the bits that each would get."""
    token = _last_resized.set({})
    try:
        yield
    finally:
        _last_resized.reset(token)


class TileTransform(nn.Module):
    """uint8 (b, h, w, 3) → float32 (b, 3, input_px, input_px), channels-last in memory. Facts: a card's `transform`."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        _check(facts)
        self.input_px: int = facts["input_px"]
        self.resize_px: int = facts.get("resize_px", self.input_px)
        self.interpolation: str = facts["interpolation"]
        self.register_buffer("mean_311", torch.tensor(facts["mean"]).view(3, 1, 1))
        self.register_buffer("std_311", torch.tensor(facts["std"]).view(3, 1, 1))

    def forward(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b 3 p p"]:
        kept = _last_resized.get()
        if tiles.shape[1:3] == (self.resize_px, self.resize_px) or kept is None or tiles.device.type != "cpu":
            pixels = self._resized(tiles).sub_(self.mean_311)
        else:
            key = (self.resize_px, self.input_px, self.interpolation)
            if key not in kept or not torch.equal(kept[key].tiles, tiles):
                kept[key] = _Resized(tiles, self._resized(tiles))
            pixels = kept[key].pixels.sub(self.mean_311)
        return pixels.div_(self.std_311).contiguous(memory_format=torch.channels_last)

    def _resized(self, tiles: Tensor) -> Tensor:
        pixels = tiles.permute(0, 3, 1, 2)
        is_resized = pixels.shape[-2:] != (self.resize_px, self.resize_px)
        if is_resized and pixels.device.type == "cpu":
            pixels = pixels.contiguous()  # channel after channel a CPU resizes in 2/3 of the time, to the same bits
        pixels = pixels.float().div_(255.0)
        if is_resized:
            pixels = F.interpolate(
                pixels,
                size=(self.resize_px, self.resize_px),
                mode=self.interpolation,
                antialias=True,
                align_corners=False,
            )
        margin = (self.resize_px - self.input_px) // 2
        return pixels[..., margin : margin + self.input_px, margin : margin + self.input_px]


def _check(facts: dict[str, Any]) -> None:
    if not 1 <= facts.get("input_px", 0) <= 4096:
        raise EncoderError(f"encoder transform: input_px is {facts.get('input_px')!r}, not 1 to 4096 pixels")
    if facts.get("interpolation") not in INTERPOLATIONS:
        raise EncoderError(
            f"encoder transform: interpolation {facts.get('interpolation')!r} is none of {', '.join(INTERPOLATIONS)}"
        )
    if len(facts.get("mean", ())) != 3 or len(facts.get("std", ())) != 3 or min(facts["std"]) <= 0:
        raise EncoderError("encoder transform: mean and std must be three numbers each, std above 0")
    crop, resize_px = facts.get("crop", "none"), facts.get("resize_px", facts["input_px"])
    if crop not in ("none", "center") or not facts.get("antialias", True):
        raise EncoderError("encoder transform: only whole tiles or their centre, with antialiasing, are known")
    if (resize_px > facts["input_px"]) != (crop == "center") or not facts["input_px"] <= resize_px <= 4096:
        raise EncoderError(f"encoder transform: resize_px is {resize_px!r}, and crop is {crop}")
