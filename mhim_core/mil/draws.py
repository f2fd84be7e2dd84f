"""All randomness of one bag in one epoch, dropout included.

A draw is named by (seed, epoch, bag, purpose) and by nothing else: it is the same on whichever worker the bag lands,
on any device and after any resume, and switching one draw off does not shift another. The bits are Philox-4x64's
raw output, which numpy keeps stable over versions (its higher-level methods it does not). Generating a keep mask from
raw bytes also costs a tenth of `nn.Dropout` on a CPU.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from mhim_core.types import BagId


class Keep(NamedTuple):
    """What dropout keeps."""

    is_kept: Bool[Tensor, "*shape"]
    """On the CPU."""
    scale: float
    """Of what is kept."""

    def factors(self, rows: slice, like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Factor of every value of these rows, 0 or `scale`, in the precision and on the device of `like`."""
        # multiplying by floats is three times faster than by booleans on a CPU, forward and backward
        factors = self.is_kept[rows].to(like.dtype).mul_(self.scale)
        return factors.to(like.device, non_blocking=True)


class Draws:
    """The random numbers of one bag. Every method is a pure function of the key and its arguments."""

    def __init__(self, seed: int, epoch: int, bag_id: BagId, purpose: str = "") -> None:
        self._seed, self._epoch, self._bag_id, self._purpose = seed, epoch, bag_id, purpose

    def stream(self, name: str) -> "Draws":
        """Draws independent of these, for one part of the model (`student`, `teacher`, `recycle`, …)."""
        return type(self)(self._seed, self._epoch, self._bag_id, f"{self._purpose}/{name}")

    def permutation(self, purpose: str, num_items: int) -> Int64[Tensor, "{num_items}"]:
        """A uniformly random order of 0 … num_items-1, on the CPU."""
        return torch.from_numpy(np.argsort(self._words(purpose, num_items), kind="stable"))

    def sample(self, purpose: str, num_items: int, num_drawn: int) -> Int64[Tensor, "{num_drawn}"]:
        """`num_drawn` of 0 … num_items-1, uniform, without replacement, in random order, on the CPU."""
        return self.permutation(purpose, num_items)[:num_drawn]

    def integer(self, purpose: str) -> int:
        """Uniform in 0 … 2⁶³-1, to seed a foreign generator."""
        return int(self._words(purpose, 1)[0]) >> 1

    def dropout(self, purpose: str, x: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
        """Inverted dropout: each value is zeroed with probability `rate`, the others divided by what is kept.

        Rates of the form n/256 cost one byte a value and are exact; other rates are rounded to n/65536, and the
        scale is that of the rounded rate, so the expectation is exact all the same.
        """
        if rate == 0:
            return x
        return x * self.keep(purpose, x.shape, rate).factors(slice(None), x)

    def keep(self, purpose: str, shape: Sequence[int], rate: float) -> Keep:
        """What `dropout` at this rate, above 0, keeps of values in this shape."""
        num_values = math.prod(shape)
        unit: np.dtype[Any] = np.dtype("u1" if (rate * 256).is_integer() else "<u2")
        levels = 256**unit.itemsize
        threshold = min(round(rate * levels), levels - 1)
        num_words = -(-num_values * unit.itemsize // 8)
        words = self._words(purpose, num_words)
        noise = words.view(unit)[:num_values].reshape(tuple(shape))
        return Keep(torch.from_numpy(noise >= threshold), levels / (levels - threshold))

    def _words(self, purpose: str, num_words: int) -> NDArray[np.uint64]:
        key = f"{self._seed}\0{self._epoch}\0{self._bag_id}\0{self._purpose}\0{purpose}"
        digest = hashlib.sha256(key.encode()).digest()
        bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
        words: NDArray[np.uint64] = bits.random_raw(num_words).astype("<u8", copy=False)
        return words
