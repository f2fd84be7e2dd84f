import math

from mhim_core.demo.cohort import FociKind
from mhim_core.evaluation.foci_figures import FociRow, summarise_foci


def row(model: str, shows: FociKind, score: float, dice: float = math.nan, top: float = 0.0) -> FociRow:
    return FociRow(model, f"{shows}-{score}", shows, score, dice, top, 0.6)


def test_each_kind_is_judged_against_the_slides_without_tumour() -> None:
    rows = [
        row("plain", FociKind.none, 0.0),
        row("plain", FociKind.none, 1.0),
        row("plain", FociKind.quiet, 0.5, 0.2, 0.1),
        row("plain", FociKind.quiet, -1.0, 0.4, 0.3),
        row("plain", FociKind.loud, 2.0, 0.9, 0.2),
        row("mhim", FociKind.none, 0.0),
        row("mhim", FociKind.quiet, 1.0, 1.0, 0.5),
    ]
    summary = summarise_foci(rows)
    assert summary["num"] == {"none": 2, "quiet": 2, "loud": 1}
    plain, student = summary["models"]["plain"], summary["models"]["mhim"]
    assert plain["auroc"] == {"all": 0.5, "quiet": 0.25, "loud": 1.0}
    assert plain["dice"] == {"quiet": (0.2 + 0.4) / 2, "loud": 0.9}
    assert plain["top_ten"]["quiet"] == (0.1 + 0.3) / 2
    assert student["auroc"] == {"all": 1.0, "quiet": 1.0, "loud": None}
    assert student["dice"]["loud"] is None
    assert summary["possible"]["quiet"] == 0.6
