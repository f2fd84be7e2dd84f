"""Small features and tasks to commit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.types import SlideId

TILING = {"spec": {"target_mpp": 0.5, "tile_px": 256}, "tissue": {"name": "rule", "version": 1}}
ENCODER = {"id": "toy", "dim": 8, "licence": "none", "precision": "float32"}


@pytest.fixture
def feature_set() -> FeatureSet:
    identity = {key: value for key, value in ENCODER.items() if key != "licence"}
    return FeatureSet(tiling=TILING, encoder=ENCODER, encoder_identity=identity)


@pytest.fixture
def make_features() -> Callable[..., SlideFeatures]:
    """make(slide_id, num_tiles, seed, **changes) → features; a change may be a field of theirs, `reading` or `cut`."""

    def make(slide_id: str = "s1", num_tiles: int = 5, seed: int = 0, **changes: Any) -> SlideFeatures:
        rng = np.random.default_rng(seed)
        grid = np.arange(num_tiles, dtype=np.int32)
        reading = SlideReading(
            source=SourceIdentity(1000, f"digest-of-{slide_id}"),
            hint=SourceHint(f"/slides/{slide_id}.svs", 1000, "1"),
            source_sha256="",
            mpp=MppUsed(0.25, 0.25, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        )
        cut = TileCut(tiling=TILING, tile_size_l0_px=(512, 512), width_l0_px=0, height_l0_px=0)
        values: dict[str, Any] = {
            "reading": _changed(reading, changes),
            "cut": _changed(cut, changes),
            "slide_id": SlideId(slide_id),
            "features": rng.standard_normal((num_tiles, 8)).astype(np.float16),
            "coords_l0_px": np.stack([grid % 3 * 512, grid // 3 * 512], axis=1).astype(np.int32),
            "tissue_share": np.full(num_tiles, 0.5, np.float32),
            "background_share": (grid % 5 / 8).astype(np.float32),
            "encoder": ENCODER,
            "versions": {"mhim": "0.1.0"},
        }
        return SlideFeatures(**{**values, **changes})

    return make


def _changed(part: Any, changes: dict[str, Any]) -> Any:
    """The part with its own fields' changes, which are taken out of `changes`."""
    own = {field.name for field in dataclasses.fields(part)} & changes.keys()
    return dataclasses.replace(part, **{name: changes.pop(name) for name in own})
