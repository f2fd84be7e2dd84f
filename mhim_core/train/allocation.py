"""What the C library does with memory that a training worker frees."""

import ctypes

_MAPPED_FROM, _TRIM_ABOVE = -3, -1
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's mallopt(3)."""
_LARGEST_BYTES = 64 * 2**20
"""Of an array whose memory is kept: scattered, what is kept of larger ones would add half to the most memory that a
step on a large bag takes."""


def keep_freed_memory() -> bool:
    """Let the main thread reuse the memory of tensors up to 64 MiB that it has freed; whether the C library can.

    By default glibc asks the kernel for every array above 32 MiB and gives it back, and the kernel fills each page of
    the next one with zeros: that takes several times as long as turning a bag into float32, and a tenth of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MAPPED_FROM, _LARGEST_BYTES)) and bool(mallopt(_TRIM_ABOVE, 2 * _LARGEST_BYTES))
