"""Folds: where two layers lie on each other, and not where tissue is only dense."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhim_core.errors import ConfigError
from mhim_core.features import FOLD_SHARE
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.reader import Thumbnail
from mhim_core.slides.spec import SlidePolicy, TileSpec, stored_spec, tiling_identity
from mhim_core.slides.tissue import SeenThumbnail, tissue_and_view

GLASS = 243
TISSUE = np.array([0.80, 0.52, 0.70])
"""Transmittance of a layer, in which light is left."""
FOLD = (slice(60, 140), slice(90, 102))


def thumbnail(layer: Any = TISSUE, power: float = 2.0) -> np.ndarray:
    """uint8 (200, 240, 3) at 8 µm/px: a piece of tissue with a band through which light goes `power` times as far."""
    rng = np.random.default_rng(0)
    light = np.ones((200, 240, 3))
    light[40:160, 40:200] = np.asarray(layer) * rng.uniform(0.95, 1.05, (120, 160, 1))
    light[FOLD] = light[FOLD] ** power
    return np.clip(light * GLASS, 0, 255).astype(np.uint8)


def seen(pixels: np.ndarray) -> SeenThumbnail:
    return tissue_and_view(Thumbnail(pixels, np.zeros(pixels.shape[:2], bool)), TileSpec(tissue_folds=True))


def test_two_layers_are_found_and_their_share_is_told() -> None:
    found = seen(thumbnail())
    assert found.is_fold is not None
    truth = np.zeros(found.is_fold.shape, bool)
    truth[FOLD] = True
    assert (found.is_fold & truth).sum() > 0.75 * (found.is_fold | truth).sum()
    assert found.view.fold_share == pytest.approx(truth.sum() / found.is_tissue.sum(), rel=0.3)
    assert "folded" in found.view.describe()


@pytest.mark.parametrize("power", [1.0, 1.4])
def test_tissue_that_is_only_denser_is_no_fold(power: float) -> None:
    assert seen(thumbnail(power=power)).view.fold_share == 0.0


def test_two_layers_of_pale_tissue_and_grey_dirt_are_no_folds() -> None:
    assert seen(thumbnail(layer=(0.95, 0.9, 0.93))).view.fold_share == 0.0
    dirty = thumbnail(power=1.0)
    dirty[FOLD] = 60
    assert seen(dirty).view.fold_share == 0.0


def test_where_nobody_asks_nothing_is_looked_for() -> None:
    pixels = thumbnail()
    found = tissue_and_view(Thumbnail(pixels, np.zeros(pixels.shape[:2], bool)), TileSpec())
    assert found.is_fold is None
    assert found.view.fold_share is None


@pytest.fixture
def slide(write_slide: Callable[..., Path]) -> Path:
    pixels = thumbnail().repeat(8, axis=0).repeat(8, axis=1)
    return write_slide(pixels, mpp=(1.0, 1.0))


def prepare(path: Path, **spec: Any) -> PreparedSlide:
    return prepare_slide(path, spec=TileSpec(tile_px=64, target_mpp=1.0, **spec), policy=SlidePolicy())


def test_tiles_state_their_share_and_those_beyond_the_limit_are_left_out_and_counted(slide: Path) -> None:
    with prepare(slide, tissue_folds=True) as described, prepare(slide) as plain:
        share = described.plan.columns[FOLD_SHARE]
        assert np.array_equal(described.plan.coords_l0_px, plain.plan.coords_l0_px)
        assert plain.plan.columns == {}
        assert plain.view.left_out_share is None
        x = described.plan.coords_l0_px[:, 0]
        assert share[(x == 704) | (x == 768)].max() > 0.6
        assert share[(x < 640) | (x > 832)].max() == 0
        with prepare(slide, max_fold=0.3) as cleaned:
            is_kept = share <= 0.3
            assert 0 < is_kept.sum() < len(share)
            assert np.array_equal(cleaned.plan.coords_l0_px, plain.plan.coords_l0_px[is_kept])
            assert cleaned.view.left_out_share == pytest.approx(1 - is_kept.mean(), abs=1e-6)


def test_folds_are_identity_where_they_are_looked_for() -> None:
    plain = tiling_identity(TileSpec())
    assert "fold_rule" not in plain
    for options in ({"tissue_folds": True}, {"max_fold": 0.5}):
        identity = tiling_identity(TileSpec(**options))
        assert identity["fold_rule"]["version"] == 1
        assert tiling_identity(stored_spec(identity, "these")) == identity
    with pytest.raises(ConfigError):
        TileSpec(max_fold=1.5)
