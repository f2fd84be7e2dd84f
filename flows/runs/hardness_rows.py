"""The rows of the tables of `mhim hardness`, and the folds on which sampling by type is looked at."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flows.runs.folder import Run
from flows.runs.hardness_points import FitSpace, RunPoints
from mhim_core.cohort.tasks import bags_in
from mhim_core.hardness.cheap_head import HeadFold
from mhim_core.hardness.hardness_type import TypeWeights, type_of
from mhim_core.hardness.neighbours import Points, find_neighbours, types_among
from mhim_core.hardness.resampling import TypedFold, count_draws
from mhim_core.hardness.spaces import JudgedInSpaces
from mhim_core.hardness.suspects import Judgement, judge
from mhim_core.hardness.table import bags_schema
from mhim_core.metrics.arrays import Floats

HEADS = ("mean tile features", "bag embeddings")
"""What the cheap head is fitted on; bag embeddings are those of the fold's own model, which never saw its test part."""
Plane = Callable[[Floats, int], Floats]


def bag_rows(
    trained_run: Run, points: RunPoints, judged: JudgedInSpaces, k: int, plane_N2: Floats
) -> list[dict[str, Any]]:
    """The table of bags, in its order."""
    rows_J = judged.judged_rows
    judgement = judge(judged.probability_NC[rows_J], points.label_N[rows_J], judged.num_same_N[rows_J], k)
    feature_types = types_among(Points(points.mean_ND, points.label_N, points.patients), k)
    place_of = {int(rows_J[index]): position for position, index in enumerate(judgement.order, start=1)}
    index_of = {int(row): index for index, row in enumerate(rows_J)}
    lines = []
    for row, bag in enumerate(trained_run.bags):
        line: dict[str, Any] = {
            "rank": place_of.get(row),
            "bag_id": bag.bag_id,
            "slide_ids": " ".join(bag.slide_ids),
            "patient_id": bag.patient_id,
            "site": bag.site,
            "label": trained_run.classes[points.label_N[row]],
            "num_models": int(judged.num_models_N[row]),
            "is_suspect": False,
            "feature_type": feature_types[row].value,
            "feature_x": float(plane_N2[row, 0]),
            "feature_y": float(plane_N2[row, 1]),
        }
        if row in index_of:
            line |= _judged_columns(trained_run, points, judged, judgement, row, index_of[row])
        lines.append({name: line.get(name) for name in bags_schema().names})
    return sorted(lines, key=lambda line: (line["rank"] is None, line["rank"] or 0, line["bag_id"]))


def _judged_columns(
    trained_run: Run, points: RunPoints, judged: JudgedInSpaces, judgement: Judgement, row: int, index: int
) -> dict[str, Any]:
    probability_C = judged.probability_NC[row]
    return {
        "predicted": trained_run.classes[int(probability_C.argmax())],
        "probability": float(probability_C[points.label_N[row]]),
        "type": judgement.types[index].value,
        "num_same": float(judged.num_same_N[row]),
        "suspicion": float(judgement.suspicion_N[index]),
        "is_suspect": bool(judgement.is_suspect_N[index]),
        "nearest": " ".join(trained_run.bags[other].bag_id for other in judged.nearest[row]),
        "fold": int(judged.fold_N[row]),
        "map_x": float(judged.map_N2[row, 0]),
        "map_y": float(judged.map_N2[row, 1]),
    }


def tile_rows(trained_run: Run, points: RunPoints, k: int, plane: Plane) -> list[dict[str, Any]]:
    sample = points.tiles
    if not sample.bag_rows_T:
        return []
    bag_rows = np.array(sample.bag_rows_T)
    tiles = Points(sample.x_TD, points.label_N[bag_rows], [points.patients[row] for row in bag_rows])
    num_same_T = find_neighbours(tiles, tiles, k).num_same_Q
    plane_T2 = plane(sample.x_TD, k)
    return [
        {
            "bag_id": trained_run.bags[row].bag_id,
            "slide_id": slide_id,
            "tile": tile,
            "x_l0_px": x,
            "y_l0_px": y,
            "label": trained_run.classes[points.label_N[row]],
            "type": type_of(float(num), k).value,
            "num_same": int(num),
            "map_x": float(place[0]),
            "map_y": float(place[1]),
        }
        for row, slide_id, tile, (x, y), num, place in zip(
            sample.bag_rows_T, sample.slide_ids, sample.tiles_T, sample.coords_l0_px, num_same_T, plane_T2, strict=True
        )
    ]


def typed_folds(trained_run: Run, points: RunPoints, k: int) -> dict[str, list[TypedFold]]:
    """By head, the folds of the first seed: training bags typed among themselves by mean tile features, as
    `hardness_types=features` types them, so that nothing of a test part enters."""
    folds: dict[str, list[TypedFold]] = {head: [] for head in HEADS}
    row_of = {bag.bag_id: row for row, bag in enumerate(trained_run.bags)}
    for split in trained_run.splits:
        train, test = (
            np.array([row_of[bag.bag_id] for bag in bags_in(trained_run.bags, part)])
            for part in (split.train, split.test)
        )
        if not len(test):
            continue
        space = _space_of(points.spaces, trained_run.seeds[0], split.fold)
        place_of = {int(row): place for place, row in enumerate(space.space.rows_M)}
        types = types_among(Points(points.mean_ND, points.label_N, points.patients).at(train), k)
        for head in HEADS:
            if head == HEADS[0]:
                x_train, x_test = points.mean_ND[train], points.mean_ND[test]
            else:
                x_train, x_test = (
                    space.space.x_MD[[place_of[int(row)] for row in rows]].astype(np.float64) for rows in (train, test)
                )
            folds[head].append(
                TypedFold(
                    HeadFold(x_train, points.label_N[train], x_test),
                    types,
                    points.label_N[test],
                    [points.patients[row] for row in test],
                )
            )
    return folds


def _space_of(spaces: Sequence[FitSpace], seed: int, fold: int) -> FitSpace:
    return next(space for space in spaces if (space.seed, space.space.fold) == (seed, fold))


def mean_draws(folds: Sequence[TypedFold], weights: TypeWeights, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The mean over the folds' training parts."""
    counts = [
        count_draws([classes[label] for label in fold.points.label_train_N], fold.types_train, weights, classes)
        for fold in folds
    ]
    return [
        {
            "label": each[0].label,
            "type": each[0].type.value,
            "num_bags": sum(count.num_bags for count in each) / len(each),
            "draws": sum(count.draws for count in each) / len(each),
        }
        for each in zip(*counts, strict=True)
    ]
