"""The interface of tile encoders, and its torch implementation: fixed batches, fixed threads, float32.

Shapes: b tiles, h and w their pixels, d features.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mhim_core.embed.card import RUNTIME_CUDA, EncoderCard
from mhim_core.errors import EncoderError

_NO_VERSIONS: Mapping[str, str] = MappingProxyType({})


@runtime_checkable
class TileEncoder(Protocol):
    """Weights once, tiles → features: a pure function of each tile, whatever its batch mates."""

    @property
    def card(self) -> EncoderCard: ...

    def __call__(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b d"]: ...


class TorchEncoder:
    """A torch network behind a card. Any number of tiles in, features on the CPU out.

    `network` maps uint8 (batch_size, h, w, 3) to float32 (batch_size, d). Tiles go through it in batches of exactly
    `card.batch_size`, the last one padded, because a CPU kernel's choice of blocking, and with it the last bits of a
    feature, follows the batch's shape and the number of threads.

    `versions`: of what computes it, where that is more than the installed packages.

    Raises EncoderError if the card asks for CUDA and there is none, or if the features are not `card.dim` long.
    """

    def __init__(self, card: EncoderCard, network: nn.Module, versions: Mapping[str, str] = _NO_VERSIONS) -> None:
        if card.runtime == RUNTIME_CUDA and not torch.cuda.is_available():
            raise EncoderError(
                f"encoder {card.id} was set up for CUDA (runtime {card.runtime}) and this machine has no CUDA device; "
                "run it where there is one, or set device=cpu (other features in the last bits: they are embedded anew)"
            )
        self.card = card
        self.versions = dict(versions)
        self._device = torch.device("cuda" if card.runtime == RUNTIME_CUDA else "cpu")
        self._network = network.eval().requires_grad_(False).to(self._device)

    def __call__(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b d"]:
        with torch.inference_mode(), fixed_arithmetic(self.card):
            batches = [self._encode(batch) for batch in tiles.split(self.card.batch_size)] if len(tiles) else []
        return torch.cat(batches) if batches else torch.zeros(0, self.card.dim)

    def _encode(self, tiles: Tensor) -> Tensor:
        num_tiles = len(tiles)
        if num_tiles < self.card.batch_size:
            tiles = torch.cat([tiles, tiles[-1:].expand(self.card.batch_size - num_tiles, -1, -1, -1)])
        features = self._network(tiles.to(self._device))
        if features.shape != (self.card.batch_size, self.card.dim):
            raise EncoderError(
                f"encoder {self.card.id} gave features of shape {tuple(features.shape)}, "
                f"its card says {(self.card.batch_size, self.card.dim)}"
            )
        return features[:num_tiles].float().cpu()


@contextmanager
def fixed_arithmetic(card: EncoderCard) -> Iterator[None]:
    """The card's threads and, on CUDA, deterministic kernels without TF32; what was set before is restored."""
    threads_before = torch.get_num_threads()
    if card.num_threads:
        torch.set_num_threads(card.num_threads)
    try:
        if card.runtime == RUNTIME_CUDA:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(threads_before)
