"""Philox-4x64-10 as one Triton kernel; `philox` says what it computes. Imported only where Triton is installed."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int64
from torch import Tensor

from mhim_core.mil.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

BLOCKS_PER_PROGRAM = 512

_MULTIPLIER_0, _MULTIPLIER_1 = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
_STEP_0, _STEP_1 = tl.constexpr(KEY_STEPS[0]), tl.constexpr(KEY_STEPS[1])
_ROUNDS = tl.constexpr(ROUNDS)


def triton_words(key: int, num_words: int, device: torch.device) -> Int64[Tensor, "{num_words}"]:
    """The first words of this key, by one kernel on the device's current stream."""
    num_blocks = -(-num_words // 4)
    words = torch.empty(4 * num_blocks, dtype=torch.int64, device=device)
    if num_words == 0:
        return words
    with torch.cuda.device_of(words):
        _write_blocks[(triton.cdiv(num_blocks, BLOCKS_PER_PROGRAM),)](
            words, num_blocks, *_quarters(key), NUM=BLOCKS_PER_PROGRAM
        )
    return words[:num_words]


def _quarters(key: int) -> list[int]:
    """32 bits each, lowest first, as signed numbers: of a whole word, the type would depend on its value."""
    return [((key >> shift & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000 for shift in (0, 32, 64, 96)]


@triton.jit(do_not_specialize=["num_blocks", "key_a", "key_b", "key_c", "key_d"])
@no_type_check
def _write_blocks(words, num_blocks, key_a, key_b, key_c, key_d, NUM: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * NUM + tl.arange(0, NUM)
    x0 = (block + 1).to(tl.uint64)
    x1 = tl.zeros([NUM], tl.uint64)
    x2 = tl.zeros([NUM], tl.uint64)
    x3 = tl.zeros([NUM], tl.uint64)
    key_0 = (key_b.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | key_a.to(tl.uint32, bitcast=True).to(tl.uint64)
    key_1 = (key_d.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | key_c.to(tl.uint32, bitcast=True).to(tl.uint64)
    for _ in tl.static_range(_ROUNDS):
        high_0, low_0 = tl.umulhi(x0, _MULTIPLIER_0), x0 * _MULTIPLIER_0
        high_1, low_1 = tl.umulhi(x2, _MULTIPLIER_1), x2 * _MULTIPLIER_1
        x0, x1, x2, x3 = high_1 ^ x1 ^ key_0, low_1, high_0 ^ x3 ^ key_1, low_0
        key_0 += _STEP_0
        key_1 += _STEP_1
    at = words + 4 * block
    is_wanted = block < num_blocks
    tl.store(at, x0.to(tl.int64, bitcast=True), mask=is_wanted)
    tl.store(at + 1, x1.to(tl.int64, bitcast=True), mask=is_wanted)
    tl.store(at + 2, x2.to(tl.int64, bitcast=True), mask=is_wanted)
    tl.store(at + 3, x3.to(tl.int64, bitcast=True), mask=is_wanted)
