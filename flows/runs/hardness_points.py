"""A run's bags as points: embedded by every fold's model, as mean tile features, and a sample of their tiles.

Every bag is read once, and goes through the models of all folds and seeds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flows.runs.fits import FoldFits, load_fold, model_names
from flows.runs.folder import Run
from mhim_core.cohort.tasks import bags_in
from mhim_core.hardness.spaces import HeldOutSpace
from mhim_core.hardness.tile_sample import sample_tiles
from mhim_core.metrics.arrays import Floats
from mhim_core.task import ClassTarget

if TYPE_CHECKING:
    from mhim_core.store.schema import FeatureTable

MAX_TILES = 20_000


class TileSample(NamedTuple):
    """T tiles of all slides, or none."""

    x_TD: Floats
    bag_rows_T: list[int]
    """The bag of each, by its place among the run's."""
    slide_ids: list[str]
    tiles_T: list[int]
    """Rows of the slide's features."""
    coords_l0_px: list[tuple[int, int]]


class FitSpace(NamedTuple):
    """One fold's model of one seed."""

    seed: int
    space: HeldOutSpace


class RunPoints(NamedTuple):
    """The N bags of a run, in its order."""

    label_N: np.ndarray
    patients: list[str]
    mean_ND: Floats
    """Of the tile features, as float32 holds them."""
    spaces: list[FitSpace]
    tiles: TileSample


def read_points(run: Run, fits: Sequence[FoldFits], tiles_per_slide: int) -> RunPoints:
    """Of a classification that holds bags out. `tiles_per_slide`: fewer where the sample would exceed 20,000."""
    import torch

    from mhim_core.train.bag_embeddings import embed_bag
    from mhim_core.train.inference import bag_layout

    reported, source = model_names(run)[0], run.bag_source()
    voters = [load_fold(run, fold_fits).voters[reported] for fold_fits in fits]
    num_slides = sum(len(bag.slide_ids) for bag in run.bags)
    wanted = min(tiles_per_slide, max(1, MAX_TILES // num_slides)) if tiles_per_slide else 0
    means, embedded = [], [[] for _ in fits]  # type: list[Floats], list[list[tuple[np.ndarray, Floats]]]
    parts: list[_TilesOfSlide] = []
    for row, bag in enumerate(run.bags):
        tables = source.read_tables(bag.bag_id)
        x_NF = np.concatenate([table.features for table in tables])
        means.append(x_NF.mean(axis=0, dtype=np.float64).astype(np.float32).astype(np.float64))
        parts += [_sampled(row, table, wanted) for table in tables if wanted]
        features, layout = torch.from_numpy(x_NF), bag_layout(tables, voters)
        for own, voter in zip(embedded, voters, strict=True):
            own.append(embed_bag(features, voter, layout))
    labels = [bag.target.class_index for bag in run.bags if isinstance(bag.target, ClassTarget)]
    return RunPoints(
        np.array(labels),
        [str(bag.patient_id) for bag in run.bags],
        np.stack(means),
        [_space(run, fold_fits, own) for fold_fits, own in zip(fits, embedded, strict=True)],
        _joined(parts),
    )


class _TilesOfSlide(NamedTuple):
    row: int
    slide_id: str
    x_TD: np.ndarray
    tiles_T: np.ndarray
    coords_T2: np.ndarray


def _sampled(row: int, table: "FeatureTable", wanted: int) -> _TilesOfSlide:
    chosen = sample_tiles(table.slide_id, len(table.features), wanted)
    return _TilesOfSlide(row, table.slide_id, table.features[chosen], chosen, table.coords_l0_px[chosen])


def _joined(parts: Sequence[_TilesOfSlide]) -> TileSample:
    if not parts:
        return TileSample(np.empty((0, 0)), [], [], [], [])
    return TileSample(
        np.concatenate([part.x_TD for part in parts]).astype(np.float64),
        [part.row for part in parts for _ in part.tiles_T],
        [part.slide_id for part in parts for _ in part.tiles_T],
        [int(tile) for part in parts for tile in part.tiles_T],
        [(int(x), int(y)) for part in parts for x, y in part.coords_T2],
    )


def _space(run: Run, fits: FoldFits, embedded: Sequence[tuple[np.ndarray, Floats]]) -> FitSpace:
    """The bags of the fold; those that split files leave out of it are no part of its space."""
    split = next(split for split in run.splits if split.fold == fits.fold)
    held_out = {bag.bag_id for bag in bags_in(run.bags, split.test)}
    known = {bag.bag_id for bag in bags_in(run.bags, (*split.train, *split.validation, *split.test))}
    rows = [row for row, bag in enumerate(run.bags) if bag.bag_id in known]
    return FitSpace(
        fits.seed,
        HeldOutSpace(
            fits.fold,
            np.array(rows),
            np.stack([embedded[row][0] for row in rows]),
            np.array([run.bags[row].bag_id in held_out for row in rows]),
            np.stack([embedded[row][1] for row in rows]),
        ),
    )
