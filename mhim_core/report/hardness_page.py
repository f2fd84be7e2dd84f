"""The page of `mhim hardness`: one self-contained HTML file without scripts; the same tables give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.hardness.resampling import Effect
from mhim_core.metrics import METRICS
from mhim_core.report.answer import Count
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.hardness_figures import MAX_SPACES, cohort_figure, spaces_figure, tiles_figure
from mhim_core.report.numbers import format_number

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
    """The page, its pictures inside."""
    classes = page.summary["classes"]
    judged = [row for row in page.bags if row["rank"] is not None]
    suspects = [row for row in judged if row["is_suspect"]]
    hard = [row for row in judged if row["type"] in (HardnessType.borderline, HardnessType.rare)]
    return render_page(
        "hardness.html.j2",
        filters={"signed": _signed},
        anchors=_anchors(page, page.summary["unit"]),
        page=page,
        summary=page.summary,
        classes=classes,
        types=[kind.value for kind in HardnessType],
        judged=judged,
        suspects=suspects[:MAX_ROWS],
        num_suspects=len(suspects),
        hard=hard[:MAX_ROWS],
        num_hard=len(hard),
        pictured=[row for row in judged if row["bag_id"] in page.pictures],
        spaces=spaces_figure(page.bags, classes),
        max_spaces=MAX_SPACES,
        cohort_map=cohort_figure(page.bags, classes),
        tile_map=tiles_figure(page.tiles, classes) if page.tiles else None,
        metric_titles={name: METRICS[name].title for name in {effect.metric for effect in page.effects}},
        counts=_counts(page, len(hard)),
    )


def _counts(page: HardnessPage, num_hard: int) -> Iterator[Count]:
    unit, left = page.summary["unit"], page.summary["num_not_held_out"]
    yield Count(f"{num_hard:,}", f"hard {unit}s (borderline or rare)", "hard")
    if left:
        yield Count(f"{left:,}", f"{unit}s that no model held out: without a type", "types", is_bad=True)


def _anchors(page: HardnessPage, unit: str) -> Iterator[Anchor]:
    yield Anchor("suspects", "Suspect labels")
    yield Anchor("hard", f"Hard {unit}s")
    yield Anchor("types", "Types")
    yield Anchor("maps", "Maps")
    yield Anchor("sampling", "Sampling by type")
    if page.tiles:
        yield Anchor("tiles", "Tiles")
    yield Anchor("how", "How it is computed")


def _signed(value: float) -> str:
    """`+0.012`, of a metric."""
    text = format_number(value)
    return f"+{text}" if value > 0 else text
