"""Tiles at places that files name, and a choice among a grid's: exactly these, or a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.registry import load_encoder
from mhim_core.errors import ConfigError, SlideError
from mhim_core.features import FOLD_SHARE, PEN_SHARE, SlideFeatures
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.places import ChosenTiles, TilePlaces
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.regions import RegionFiles, slide_regions
from mhim_core.slides.source_identity import source_identity
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec, stored_spec, tiling_identity
from mhim_core.types import FailureReason, SlideId, SlideTask

PLACED = TileSpec(tile_px=64, placed=True, min_tissue=0.0)
COORDS = np.array([[901, 333], [300, 207], [0, 0], [1450, 1090], [310, 207]], np.int64)
"""On no grid, overlapping, over the edge, off the tissue, in no order."""


def named(coords: Any = COORDS, size: int = 66, slide: tuple[int, int] = (0, 0)) -> RegionFiles:
    return RegionFiles(places=TilePlaces(np.asarray(coords, np.int64).reshape(-1, 2), size, slide, "digest"))


def prepare(path: Path, files: RegionFiles, spec: TileSpec = PLACED) -> PreparedSlide:
    return prepare_slide(path, spec=spec, policy=SlidePolicy(), regions=slide_regions(files, spec))


@pytest.fixture
def path(write_slide: Callable[..., Path], simple: np.ndarray) -> Path:
    return write_slide(simple)


def test_the_tiles_are_exactly_those_that_are_named(path: Path, simple: np.ndarray) -> None:
    spec = TileSpec(tile_px=66, placed=True, min_tissue=0.0, quality=True, tissue_folds=True)
    with prepare(path, named(), spec) as slide:
        ordered = sorted(COORDS.tolist(), key=lambda place: place[::-1])
        assert slide.plan.coords_l0_px.tolist() == ordered
        assert slide.plan.tile_size_l0_px == (66, 66)
        assert slide.plan.effective_mpp == (0.5, 0.5)
        assert slide.plan.tissue_share.tolist() == pytest.approx([0, 1, 1, 1, 0], abs=0.05)
        assert {PEN_SHARE, FOLD_SHARE} == slide.plan.columns.keys()
        (batch,) = slide.tiles()
    with open_slide(path) as reader:
        for (x, y), tile in zip(ordered, batch.tiles, strict=True):
            inside = tile[: min(66, 1100 - y), : min(66, 1500 - x)]
            assert np.abs(inside.astype(int) - simple[y : y + 66, x : x + 66]).mean() < 8
        assert reader.info().width_l0_px == 1500


def test_tiles_of_another_size_than_tile_px_are_resized_and_say_so(path: Path) -> None:
    with prepare(path, named()) as slide:
        assert slide.plan.read_px == (66, 66)
        assert slide.plan.effective_mpp == pytest.approx((33 / 64, 33 / 64))
        assert slide.plan.upsample == 1.0


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (named([[0, 1100]]), "outside"),
        (named([[-1, 0]]), "outside"),
        (named([[5, 5], [5, 5]]), "twice"),
        (named(slide=(1500, 1101)), "1500 × 1101"),
        (named(size=128), "target_mpp=1"),
        (named(size=33), "target_mpp=0.26"),
    ],
)
def test_places_that_are_not_this_slide_s_are_refused(path: Path, files: RegionFiles, said: str) -> None:
    with pytest.raises(SlideError) as refused:
        prepare(path, files)
    assert refused.value.reason is FailureReason.BAD_ANNOTATION
    assert said in refused.value.message


def test_a_slide_without_places_is_refused_and_one_without_tiles_is_empty(path: Path) -> None:
    with pytest.raises(SlideError) as refused:
        prepare(path, RegionFiles())
    assert refused.value.reason is FailureReason.NO_ANNOTATION
    with prepare(path, named([])) as slide:
        assert len(slide.plan) == 0


def test_what_the_files_say_nothing_else_says() -> None:
    identity = tiling_identity(PLACED)
    assert identity != tiling_identity(TileSpec(tile_px=64, min_tissue=0.0))
    assert stored_spec(identity, "these").placed
    assert slide_regions(named(), PLACED).digest
    assert not slide_regions(named(), TileSpec()).digest
    for key, value in {"overlap_px": 8, "roi": ("Tumor",), "max_fold": 0.5, "select_share": 0.5}.items():
        with pytest.raises(ConfigError, match=key):
            TileSpec(**{"placed": True, "min_tissue": 0.0, key: value})


def test_shares_anywhere_are_those_of_a_grid() -> None:
    mask = TissueMask(is_tissue=np.random.default_rng(1).random((9, 7)) < 0.5, mask_mpp=1.0)
    left, top = np.array([-1.5, 0.25, 3.0, 5.5]), np.array([0.0, 2.75, 8.5])
    grid = mask.share_in_grid(left, left + 2.25, top, top + 1.5)
    x, y = (values.ravel() for values in np.meshgrid(left, top))
    assert mask.share_at(x, x + 2.25, y, y + 1.5) == pytest.approx(grid.ravel(), abs=1e-12)


SELECTED = TileSpec(tile_px=128, select_share=0.25, select_rule="spread", select_features="f" * 64)


def embedded(path: Path, spec: TileSpec, files: RegionFiles) -> SlideFeatures:
    task = SlideTask(SlideId("s"), str(path))
    (features,) = embed_slide(task, [load_encoder("hed-texture")], spec=spec, policy=SlidePolicy(), files=files)
    return features


@pytest.mark.parametrize("colour", ["none", "reinhard"])
def test_chosen_tiles_have_the_features_that_they_have_among_all(path: Path, colour: str) -> None:
    method = ColourMethod(colour)
    whole = embedded(path, TileSpec(tile_px=128, colour=method), RegionFiles())
    rows = np.array([1, 5, 6, 17])
    chosen = ChosenTiles(whole.coords_l0_px[rows], source_identity(path), (0.5, 0.5))
    spec = TileSpec(**{**SELECTED.__dict__, "colour": method})
    features = embedded(path, spec, RegionFiles(chosen=chosen, chosen_by="digest"))
    assert np.array_equal(features.coords_l0_px, whole.coords_l0_px[rows])
    assert np.array_equal(features.features, whole.features[rows])
    assert features.num_bad_tiles == 0
    assert features.reading.view is not None
    assert features.reading.view.chosen_from == len(whole.features)
    assert features.reading.regions
    assert features.cut.tiling["select_share"] == 0.25
    assert tiling_identity(stored_spec(features.cut.tiling, "these")) == features.cut.tiling


def test_a_choice_of_another_slide_or_none_is_refused_and_never_a_whole_slide(path: Path) -> None:
    source = source_identity(path)
    here = np.array([[256, 256]], np.int32)
    for chosen, reason in (
        (None, FailureReason.NO_ANNOTATION),
        (ChosenTiles(here, source._replace(digest="0"), (0.5, 0.5)), FailureReason.BAD_ANNOTATION),
        (ChosenTiles(here, source, (0.25, 0.25)), FailureReason.BAD_ANNOTATION),
        (ChosenTiles(here + 1, source, (0.5, 0.5)), FailureReason.BAD_ANNOTATION),
    ):
        with pytest.raises(SlideError) as refused:
            embedded(path, SELECTED, RegionFiles(chosen=chosen, chosen_by="digest"))
        assert refused.value.reason is reason
