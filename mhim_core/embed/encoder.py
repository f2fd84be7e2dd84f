"""The interface of tile encoders, and its torch implementation: fixed batches, fixed threads, float32.

Shapes: b tiles, h and w their pixels, d features.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mhim_core.embed.agreement import check_agreement, trial_tiles
from mhim_core.embed.card import BFLOAT16, FLOAT16, RUNTIME_CUDA, RUNTIME_OPENVINO, EncoderCard
from mhim_core.errors import EncoderError

_NO_VERSIONS: Mapping[str, str] = MappingProxyType({})
_AUTOCAST = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
Features = Callable[[], Tensor]
"""Waits for float32 (b, d) on the CPU."""


@runtime_checkable
class TileEncoder(Protocol):
    """Weights once, tiles → features: a pure function of each tile, whatever its batch mates."""

    @property
    def card(self) -> EncoderCard: ...

    def __call__(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b d"]: ...


@runtime_checkable
class OverlappingEncoder(TileEncoder, Protocol):
    """An encoder that computes while its caller prepares the next tiles."""

    def start(self, tiles: UInt8[Tensor, "b h w 3"]) -> Features: ...


class TorchEncoder:
    """A torch network behind a card. Any number of tiles in, features on the CPU out.

    `network` maps uint8 (batch_size, h, w, 3) to float32 (batch_size, d). Tiles go through it in batches of exactly
    `card.batch_size`, the last one padded, because a CPU kernel's choice of blocking, and with it the last bits of a
    feature, follows the batch's shape and the number of threads.

    In bfloat16 and float16 the network runs under torch's autocast, its weights in float32, and is held against
    float32 on trial tiles first. On a GPU tiles and features travel in pinned memory while it computes.

    `versions`: of what computes it, where that is more than the installed packages.

    Raises EncoderError if the card asks for CUDA and there is none, if the features are not `card.dim` long, or if
    those of the card's precision are too far from float32's.
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

        # what OpenVINO compiled has been compared already
        self._autocast = None if card.runtime == RUNTIME_OPENVINO else _AUTOCAST.get(card.precision)
        if self._autocast is not None:
            self._check_precision()

    def __call__(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b d"]:
        return self.start(tiles)()

    def start(self, tiles: UInt8[Tensor, "b h w 3"]) -> Features:
        """Begin with these tiles; the call that is returned waits for their features. On a CPU they are ready."""
        if not len(tiles):
            return lambda: torch.zeros(0, self.card.dim)
        with torch.inference_mode(), fixed_arithmetic(self.card):
            features = torch.cat([self._encode(batch) for batch in tiles.split(self.card.batch_size)])
            return self._sent_home(features)

    def _encode(self, tiles: Tensor) -> Tensor:
        """float32 (b, d) on the device."""
        num_tiles = len(tiles)
        if num_tiles < self.card.batch_size:
            tiles = torch.cat([tiles, tiles[-1:].expand(self.card.batch_size - num_tiles, -1, -1, -1)])
        if self._device.type == "cuda":
            tiles = tiles.pin_memory().to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None):
            features = self._network(tiles)
        if features.shape != (self.card.batch_size, self.card.dim):
            raise EncoderError(
                f"encoder {self.card.id} gave features of shape {tuple(features.shape)}, "
                f"its card says {(self.card.batch_size, self.card.dim)}"
            )
        return features[:num_tiles].float()

    def _sent_home(self, features: Tensor) -> Features:
        if self._device.type == "cpu":
            return lambda: features
        at_home = torch.empty(features.shape, pin_memory=True)
        at_home.copy_(features, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def wait() -> Tensor:
            arrived.synchronize()
            return at_home

        return wait

    def _check_precision(self) -> None:
        tiles = trial_tiles()
        found, precision = self(tiles), self._autocast
        self._autocast = None
        expected = self(tiles)
        self._autocast = precision
        check_agreement(self.card, f"computed by {self.card.runtime}", [found], [expected])


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
