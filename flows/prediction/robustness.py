"""How far predictions are from another class, compared with slides that the run knows: a table beside them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.prediction.predictor import Predictor
from flows.runs.folder import Run
from mhim_core.errors import InputError
from mhim_core.registry.external import NewBag
from mhim_core.storage import Storage
from mhim_core.tables import write_csv, write_parquet
from mhim_core.types import BagId

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import PatientBags

TABLES = ("robustness.csv", "robustness.parquet")


def write_robustness(
    run: Run | None, predictor: Predictor, source: "PatientBags", bags: Sequence[NewBag], num_known: int, out: Storage
) -> None:
    """A line a bag: flip_radius (empty: none was found), to_class, fragility (the share of the known bags with a larger
    radius), and how many known bags that is of.

    `num_known`: so many of the run's own bags, drawn by the run's seed, give the unit of the radius and are compared
    with; the models have seen them in training. Raises InputError without a run, and for what has no flip radius.
    """
    from mhim_core.train.flip_radius import check_flips, feature_spread, flip_radius, quantile_among

    if run is None:
        raise InputError("robustness=true needs run=: a registered model does not know the slides it is compared with")
    check_flips(predictor.voters)
    own, known_bags = run.bag_source(), _drawn(run, num_known)
    spread = feature_spread([own.read(bag_id) for bag_id in known_bags])
    known = [flip_radius(own.read(bag_id), predictor.voters, spread, bag_id).radius for bag_id in known_bags]
    lines: list[dict[str, Any]] = []
    for bag in bags:
        flip = flip_radius(source.read(bag.bag_id), predictor.voters, spread, bag.bag_id)
        lines.append(
            {
                "slide_id" if predictor.by_slide else "patient_id": bag.bag_id,
                "flip_radius": flip.radius if math.isfinite(flip.radius) else None,
                "to_class": None if flip.to_class is None else predictor.classes[flip.to_class],
                "fragility": quantile_among(flip.radius, known),
                "num_known": len(known),
            }
        )
    for key, write in zip(TABLES, (write_csv, write_parquet), strict=True):
        out.put(key, write(lines))


def _drawn(run: Run, num: int) -> list[BagId]:
    """Of the run's bags in training, `num` at most."""
    from mhim_core.mil.draws import Draws

    trained = {slide_id for split in run.splits for slide_id in split.train}
    members = sorted(bag.bag_id for bag in run.bags if trained.intersection(bag.slide_ids))
    order = Draws(run.seeds[0], 0, BagId(""), "robustness").permutation("bags", len(members)).tolist()
    return sorted(members[place] for place in order[:num])
