"""The page of `mhim hardness`: suspect labels and hard bags first; the same tables give the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.hardness.resampling import Effect
from mhim_core.metrics import METRICS
from mhim_core.report.answer import Count
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.hardness_figures import MAX_SPACES, cohort_figure, spaces_figure, tiles_figure

MAX_ROWS = 100
"""Bags of a list on the page; the table has all."""


@dataclass(frozen=True, kw_only=True)
class HardnessPage:
    """Everything on the page; rows are those of the tables (`mhim_core/hardness/table.py`)."""

    cohort: str
    summary: Mapping[str, Any]
    """The document of `hardness.json`."""
    bags: Sequence[Mapping[str, Any]]
    tiles: Sequence[Mapping[str, Any]]
    effects: Sequence[Effect]
    draws: Mapping[str, Sequence[Mapping[str, Any]]]
    """By weights, slides and draws by class and type, the mean over folds."""
    pictures: Mapping[str, bytes]
    """JPEG by bag, of those whose slide can be read."""


def render_hardness(page: HardnessPage) -> str:
    """The page."""
    classes = page.summary["classes"]
    judged = [row for row in page.bags if row["rank"] is not None]
    suspects = [row for row in judged if row["is_suspect"]]
    hard = [row for row in judged if row["type"] in (HardnessType.borderline, HardnessType.rare)]
    first = [row for row in judged if row["bag_id"] in page.pictures]
    unit = page.summary["unit"]
    counts = [
        Count(f"{len(suspects):,}", f"suspect labels among {len(judged):,} held-out {unit}s", "suspects"),
        Count(f"{len(hard):,}", f"hard {unit}s (borderline or rare)", "hard"),
    ]
    if page.summary["num_not_held_out"]:
        number = f"{page.summary['num_not_held_out']:,}"
        counts.append(Count(number, f"{unit}s that no model held out: without a type"))
    return render_page(
        "hardness.html.j2",
        anchors=[
            Anchor("suspects", "Suspect labels"),
            Anchor("hard", f"Hard {unit}s"),
            Anchor("types", "Types"),
            Anchor("maps", "Maps"),
            Anchor("sampling", "Sampling by type"),
            *([Anchor("tiles", "Tiles")] if page.tiles else []),
            Anchor("how", "How it is computed"),
        ],
        counts=counts,
        page=page,
        summary=page.summary,
        classes=classes,
        types=[kind.value for kind in HardnessType],
        judged=judged,
        suspects=suspects[:MAX_ROWS],
        num_suspects=len(suspects),
        hard=hard[:MAX_ROWS],
        num_hard=len(hard),
        pictured=first,
        spaces=spaces_figure(page.bags, classes),
        max_spaces=MAX_SPACES,
        cohort_map=cohort_figure(page.bags, classes),
        tile_map=tiles_figure(page.tiles, classes) if page.tiles else None,
        metric_titles={name: METRICS[name].title for name in {effect.metric for effect in page.effects}},
    )
