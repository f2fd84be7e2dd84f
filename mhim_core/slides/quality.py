"""What each tile is worth: how sharp it is, and how much of it lies under pen."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from mhim_core.features import SHARPNESS
from mhim_core.slides.channels import channel_mean
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.spec import TileSpec


def judged(batch: TileBatch, spec: TileSpec) -> TileBatch:
    """The batch without the tiles that are not sharp enough, and with the column of sharpness where it is asked for."""
    values = sharpness(batch.tiles)
    is_kept = values >= np.float32(spec.min_sharpness)
    return replace(
        batch,
        index=batch.index[is_kept],
        tiles=batch.tiles if is_kept.all() else batch.tiles[is_kept],
        background_share=batch.background_share[is_kept],
        columns={SHARPNESS: values[is_kept]} if spec.quality else {},
        left_out=tuple(batch.index[~is_kept].tolist()),
    )


def sharpness(tiles: np.ndarray) -> np.ndarray:
    """float32 (b,) of uint8 (b, h, w, 3): the variance of the Laplacian of the channels' mean, at the tiles' µm/px.

    0 for what is flat; tissue in focus has tens to thousands, more at finer µm/px and in stronger stain, so a limit is
    one for one resolution and kind of slide (Pech-Pacheco et al., ICPR 2000).
    """
    values = np.empty(len(tiles), np.float32)
    for i, tile in enumerate(tiles):
        grey = channel_mean(tile).astype(np.float32)
        values[i] = ndimage.laplace(grey, mode="nearest").var(dtype=np.float64)
    return values
