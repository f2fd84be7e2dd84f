"""What embedding a cohort would cost: the sample, the encoder's speed on this machine, the lines."""

import time
from pathlib import PurePath

from flows.runs.cohort import CohortInput
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.estimate import CohortSlide
from mhim_core.embed.registry import Weights, load_encoder_for
from mhim_core.types import SlideId

_LEAST_S = 2.0
"""Seconds that the encoder is measured for, after it is warm."""


def cohort_slides(cohort_input: CohortInput) -> dict[SlideId, CohortSlide]:
    """Size and format of every slide of the cohort whose file is there."""
    return {
        row.slide_id: CohortSlide(cohort_input.hints[row.slide_id].num_bytes, PurePath(row.uri).suffix.lower())
        for row in cohort_input.cohort.rows
        if row.slide_id in cohort_input.hints
    }


def measured_tiles_per_s(card: EncoderCard, tile_px: int, weights: Weights | None) -> float:
    """Tiles a second by this machine's clock, the card's threads, tiles of noise. Raises EncoderError."""
    import numpy as np
    import torch

    encoder = load_encoder_for(card, weights=weights)
    tiles = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (card.batch_size, tile_px, tile_px, 3), dtype=np.uint8)
    )
    encoder(tiles)
    num_tiles, start_s = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start_s) < _LEAST_S:
        encoder(tiles)
        num_tiles += len(tiles)
    return num_tiles / seconds
