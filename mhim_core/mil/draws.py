"""All randomness of one bag in one epoch, dropout included.

A draw is named by (seed, epoch, bag, purpose) and by nothing else: it is the same on whichever worker the bag lands,
on any device and after any resume, and switching one draw off does not shift another. The bits are Philox-4x64's
raw output, which numpy keeps stable over versions (its higher-level methods it does not). Generating a keep mask from
raw bytes also costs a tenth of `nn.Dropout` on a CPU. A draw is made on the device where it is used (`philox`), so that
a GPU waits for no mask and the host for no GPU.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mhim_core.mil.philox import Source, source_on
from mhim_core.types import BagId

CPU = torch.device("cpu")


class Keep(NamedTuple):
    """What dropout keeps."""

    is_kept: Bool[Tensor, "*shape"]
    scale: float
    """Of what is kept."""

    def factors(self, rows: slice, like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Factor of every value of these rows, 0 or `scale`, in the precision and on the device of `like`."""
        # torch turns bytes into floats in a quarter of the time that it takes for booleans, on a CPU
        return self.is_kept[rows].view(torch.uint8).to(like.device, like.dtype).mul_(self.scale)

    def of(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`x`, each value of it zeroed or multiplied by `scale`."""
        if x.device.type == "cpu":
            # of all ways the fastest there, forward and backward
            return x * self.factors(slice(None), x)
        # the same bits, and a byte a value to keep for the backward pass
        return x.mul(self.is_kept).mul_(self.scale)


class Draws:
    """The random numbers of one bag. Every method is a pure function of the key and its arguments.

    The numbers are the same on every device and from every source.
    """

    def __init__(
        self, seed: int, epoch: int, bag_id: BagId, purpose: str = "", *, source: Source | None = None
    ) -> None:
        """`source`: what makes the numbers; None: the quickest on each device."""
        self._seed, self._epoch, self._bag_id, self._purpose = seed, epoch, bag_id, purpose
        self._source = source

    def stream(self, name: str) -> "Draws":
        """Draws independent of these, for one part of the model (`student`, `teacher`, `recycle`, …)."""
        return type(self)(self._seed, self._epoch, self._bag_id, f"{self._purpose}/{name}", source=self._source)

    def permutation(self, purpose: str, num_items: int, device: torch.device = CPU) -> Int64[Tensor, "{num_items}"]:
        """A uniformly random order of 0 … num_items-1."""
        words = self._words(purpose, num_items, device)
        # flipping the sign bit puts signed numbers into the order of the unsigned
        return (words ^ torch.iinfo(torch.int64).min).argsort(stable=True)

    def sample(
        self, purpose: str, num_items: int, num_drawn: int, device: torch.device = CPU
    ) -> Int64[Tensor, "{num_drawn}"]:
        """`num_drawn` of 0 … num_items-1, uniform, without replacement, in random order."""
        return self.permutation(purpose, num_items, device)[:num_drawn]

    def integer(self, purpose: str) -> int:
        """Uniform in 0 … 2⁶³-1, to seed a foreign generator."""
        return int(self._words(purpose, 1, CPU)[0]) % 2**64 >> 1

    def dropout(self, purpose: str, x: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
        """Inverted dropout: each value is zeroed with probability `rate`, the others divided by what is kept.

        Rates of the form n/256 cost one byte a value and are exact; other rates are rounded to n/65536, and the
        scale is that of the rounded rate, so the expectation is exact all the same.
        """
        if rate == 0:
            return x
        return self.keep(purpose, x.shape, rate, x.device).of(x)

    def keep(self, purpose: str, shape: Sequence[int], rate: float, device: torch.device = CPU) -> Keep:
        """What `dropout` at this rate, above 0, keeps of values in this shape."""
        num_values = math.prod(shape)
        num_bytes = 1 if (rate * 256).is_integer() else 2
        levels = 256**num_bytes
        threshold = min(round(rate * levels), levels - 1)
        # rounded up to at least one: no words at all cannot be viewed as bytes
        words = self._words(purpose, num_values * num_bytes // 8 + 1, device)
        is_kept = self._source_on(device).at_least(words, num_bytes, threshold)
        return Keep(is_kept[:num_values].view(tuple(shape)), levels / (levels - threshold))

    def _source_on(self, device: torch.device) -> Source:
        return source_on(device) if self._source is None else self._source

    def _words(self, purpose: str, num_words: int, device: torch.device) -> Int64[Tensor, "{num_words}"]:
        key = f"{self._seed}\0{self._epoch}\0{self._bag_id}\0{self._purpose}\0{purpose}"
        digest = hashlib.sha256(key.encode()).digest()
        return self._source_on(device).words(int.from_bytes(digest[:16], "little"), num_words, device)
