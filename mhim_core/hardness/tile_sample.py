"""Which tiles of a slide are in a cohort's sample: drawn by the slide's id, so that a sample is the same on any
machine and that of one slide does not depend on the others."""

import hashlib

import numpy as np

from mhim_core.metrics.arrays import Ints


def sample_tiles(slide_id: str, num_tiles: int, num_wanted: int) -> Ints:
    """Rising row numbers, (min(num_tiles, num_wanted),), without replacement."""
    seed = int.from_bytes(hashlib.sha256(f"tiles\0{slide_id}".encode()).digest()[:8], "little")
    chosen = np.random.default_rng(seed).permutation(num_tiles)[:num_wanted]
    return np.sort(chosen)
