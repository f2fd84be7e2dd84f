"""Philox-4x64-10 (Salmon et al., 2011): numpy's bits, on whichever device they are wanted.

Four words of 64 bits are ten rounds over a counter of 256 bits. numpy moves its counter on before it makes a block, so
the first block is that of counter 1. Words are int64 tensors that hold the bits of unsigned numbers.
"""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""What each half of the key grows by from round to round."""
WORD = 1 << 64
HALF_WORD = (1 << 32) - 1
SIGN_OF_EACH_16 = 0x8000_8000_8000_8000 - WORD
"""As a signed word."""


class Source(NamedTuple):
    """A way to make the numbers. All give the same."""

    words: Callable[[int, int, torch.device], Tensor]
    """(key of 128 bits, number of words, device) → the first words of that key, on that device."""
    at_least: Callable[[Tensor, int, int], Tensor]
    """(words, 1 or 2 bytes, threshold) → which of the unsigned numbers of so many bytes reach the threshold."""


@functools.cache
def source_on(device: torch.device) -> Source:
    """The quickest there is: numpy on a CPU, Triton on CUDA where it works, else torch's integer operations.

    Beside the CPU nothing is copied from the host and nothing waits for it, but for one comparison of Triton's words
    with torch's when a process first asks.
    """
    if device.type == "cpu":
        return NUMPY
    kernel = checked_kernel(device) if device.type == "cuda" else None
    return TORCH if kernel is None else Source(kernel, torch_at_least)


def numpy_words(key: int, num_words: int, device: torch.device) -> Int64[Tensor, "{num_words}"]:
    """From numpy's generator, which keeps its raw output over versions; copied where the device is no CPU."""
    words = np.random.Philox(key=key).random_raw(num_words).astype("<u8", copy=False)
    return torch.from_numpy(words.view(np.int64)).to(device)


def torch_words(key: int, num_words: int, device: torch.device, counter: int = 0) -> Int64[Tensor, "{num_words}"]:
    """By operations on int64 that every device has, some 250 of them whatever the number of words.

    `counter`: where numpy's generator starts, of 256 bits.
    """
    num_blocks = -(-num_words // 4)
    # the rows of `even` are words 0 and 2 of every block, those of `odd` 1 and 3: both halves of a round at once
    even_2B, odd_2B = _counters(counter + 1, num_blocks, device)
    multiplier_21 = _column(*MULTIPLIERS, device)
    key_21, step_21 = _column(key % WORD, key // WORD, device), _column(*KEY_STEPS, device)
    for _ in range(ROUNDS):
        high_2B = _multiply_high(even_2B, multiplier_21)
        low_2B = even_2B * multiplier_21
        even_2B, odd_2B = high_2B.flip(0) ^ odd_2B ^ key_21, low_2B.flip(0)
        key_21 = key_21 + step_21
    return torch.stack([even_2B, odd_2B], dim=1).flatten(0, 1).T.flatten()[:num_words]


def numpy_at_least(words: Int64[Tensor, "W"], num_bytes: int, threshold: int) -> Bool[Tensor, "M"]:
    """Of words on the CPU, where numpy compares bytes twenty times faster than torch."""
    return torch.from_numpy(words.numpy().view(f"<u{num_bytes}") >= threshold)


def torch_at_least(words: Int64[Tensor, "W"], num_bytes: int, threshold: int) -> Bool[Tensor, "M"]:
    """Of words on any device."""
    if num_bytes == 1:
        return words.view(torch.uint8) >= threshold
    # torch compares no unsigned numbers of 16 bits; with their sign bits flipped, signed ones have their order
    return (words ^ SIGN_OF_EACH_16).view(torch.int16) >= threshold - 2**15


def _counters(first: int, num_blocks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The counters first … first + num_blocks - 1, as `even` and `odd` rows."""
    index_B = torch.arange(num_blocks, device=device)
    low, upper = first % WORD, first // WORD
    # where the lowest word runs over, the three above it are those of the next number
    runs_over_B = index_B >= min(WORD - low, 1 << 62)
    lowest_B = index_B + _signed(low)
    upper_B = [
        torch.where(runs_over_B, _signed((upper + 1) >> shift), _signed(upper >> shift)) for shift in (0, 64, 128)
    ]
    return torch.stack([lowest_B, upper_B[1]]), torch.stack([upper_B[0], upper_B[2]])


def _multiply_high(x: Tensor, multiplier: Tensor) -> Tensor:
    """The upper 64 of the 128 bits of a product of unsigned words, by halves of 32 bits."""
    x_low, x_high = x & HALF_WORD, _shift(x)
    low, high = multiplier & HALF_WORD, _shift(multiplier)
    # a product of halves and twice a half, each below 2³², stays below 2⁶⁴
    middle = x_high * low + _shift(x_low * low)
    lower_middle = x_low * high + (middle & HALF_WORD)
    return x_high * high + _shift(middle) + _shift(lower_middle)


def _shift(x: Tensor) -> Tensor:
    """The upper half of each word: torch's shift of a signed number copies the sign."""
    return (x >> 32) & HALF_WORD


def _signed(word: int) -> int:
    """The number below 2⁶³ with the same lowest 64 bits."""
    return (word + WORD // 2) % WORD - WORD // 2


def _column(upper: int, lower: int, device: torch.device) -> Tensor:
    """A 2×1 tensor made on the device: one from a list would be copied there, and the host would wait."""
    rows = [torch.full((1,), _signed(word), dtype=torch.int64, device=device) for word in (upper, lower)]
    return torch.stack(rows)


def checked_kernel(device: torch.device) -> Callable[[int, int, torch.device], Tensor] | None:
    """Triton's kernel, if it is installed and makes torch's words on this device."""
    key, num_words = WORD * MULTIPLIERS[0] + MULTIPLIERS[1], 4 * 1021 + 3
    try:
        from mhim_core.mil.philox_triton import triton_words

        is_right = torch.equal(triton_words(key, num_words, device), torch_words(key, num_words, device))
    except ModuleNotFoundError:
        return None
    except Exception as error:  # whatever a compiler on this machine may lack: the bits are to be had without it
        warnings.warn(f"masks are drawn without Triton, more slowly: {type(error).__name__}: {error}", stacklevel=2)
        return None
    if not is_right:
        warnings.warn("masks are drawn without Triton, more slowly: its words are wrong on this device", stacklevel=2)
        return None
    return triton_words


NUMPY, TORCH = Source(numpy_words, numpy_at_least), Source(torch_words, torch_at_least)
