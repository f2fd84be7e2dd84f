"""The demo's two lines of evidence, by model: are the slides told apart, and does the model look at the foci?

{num: {none, quiet, loud}, the slides of each kind; possible: {quiet, loud}, the largest share that the ten top tiles
 could reach; models: {name: {auroc: {all, quiet, loud}, dice: {quiet, loud}, top_ten: {quiet, loud}}}}
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mhim_core.demo.cohort import FociKind
from mhim_core.metrics import auroc

SHOWN = (FociKind.quiet, FociKind.loud)


class FociRow(NamedTuple):
    """One test slide by one model."""

    model: str
    slide_id: str
    shows: FociKind
    score: float
    """Higher for tumour: the difference of the two logits."""
    dice: float
    """`localisation.attention_dice`; NaN without foci."""
    top_ten: float
    """`localisation.share_of_top`."""
    possible: float
    """`localisation.most_of_top`."""


def summarise_foci(rows: Sequence[FociRow]) -> dict[str, Any]:
    """The document above, plain JSON; what no slide gives is null. AUROCs are of slides with quiet foci alone, with
    loud ones alone, and of all with tumour, each against the slides without."""
    models = list(dict.fromkeys(row.model for row in rows))
    first = [row for row in rows if row.model == models[0]] if models else []
    return {
        "num": {kind: sum(row.shows is kind for row in first) for kind in (FociKind.none, *SHOWN)},
        "possible": {kind: _mean([row.possible for row in first if row.shows is kind]) for kind in SHOWN},
        "models": {name: _model([row for row in rows if row.model == name]) for name in models},
    }


def _model(rows: Sequence[FociRow]) -> dict[str, Any]:
    return {
        "auroc": {"all": _auroc(rows, set(FociKind))} | {kind: _auroc(rows, {kind}) for kind in SHOWN},
        "dice": {kind: _mean([row.dice for row in rows if row.shows is kind]) for kind in SHOWN},
        "top_ten": {kind: _mean([row.top_ten for row in rows if row.shows is kind]) for kind in SHOWN},
    }


def _auroc(rows: Sequence[FociRow], kinds: set[FociKind]) -> float | None:
    chosen = [row for row in rows if row.shows is FociKind.none or row.shows in kinds]
    truth = [int(row.shows is not FociKind.none) for row in chosen]
    return auroc(truth, [row.score for row in chosen]) if len(set(truth)) == 2 else None


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
