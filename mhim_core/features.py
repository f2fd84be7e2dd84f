"""What embedding hands to the store: one slide's features with everything needed to trust them later."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mhim_core.types import SlideId


class SourceIdentity(NamedTuple):
    """Which bytes a slide was read from: its size and a digest of head, tail and middle blocks; never mtime or path."""

    num_bytes: int
    digest: str


class SourceHint(NamedTuple):
    """A cheap sign that a source is unchanged: place, size, mtime or etag. Equal hints: it is not read again."""

    uri: str
    num_bytes: int
    version: str
    """mtime in nanoseconds of a file, etag of an object."""


class MppUsed(NamedTuple):
    """The level-0 resolution that was used, µm/px along x and y, and who stated it."""

    x: float
    y: float
    source: str
    """override (the cohort table) | slide (the file's own) | default (`default_mpp`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideFeatures:
    """The tile features of one slide by one encoder. N tiles, D features, row-major order, N = 0: no tissue."""

    slide_id: SlideId
    features: np.ndarray
    """float16 (N, D)."""
    coords_l0_px: np.ndarray
    """int32 (N, 2): x, y of each tile's top-left corner in level-0 pixels."""
    tissue_share: np.ndarray
    """float32 (N,): share of the tile's area that is tissue, 0 to 1."""
    background_share: np.ndarray
    """float32 (N,): share of the tile where the scanner stored nothing: transparent, or over the slide's edge."""
    source: SourceIdentity
    hint: SourceHint
    mpp: MppUsed
    effective_mpp: tuple[float, float]
    """µm/px of the encoded tiles along x and y: what `target_mpp` became after rounding the read size."""
    tile_size_l0_px: tuple[int, int]
    """Width and height of a tile at level 0."""
    upsample: float
    """How far the finest level had to be enlarged: 1.0 means not at all."""
    tiling: dict[str, Any]
    """The tiling's identity: tile spec and tissue algorithm."""
    encoder: dict[str, Any]
    """The encoder's card, whole."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of what computed it: mhim, openslide, torch, …"""
    source_sha256: str = ""
    """sha256 of the whole source, where the cohort table named one and it was checked; empty: it was not read whole."""
    num_bad_tiles: int = 0
    """Planned tiles that could not be read and are therefore missing here."""
    width_l0_px: int = 0
    height_l0_px: int = 0
