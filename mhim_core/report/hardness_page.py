"""The page of `mhim hardness`: one self-contained HTML file without scripts; the same tables give the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.hardness.resampling import Effect
from mhim_core.metrics import METRICS
from mhim_core.report.hardness_figures import MAX_SPACES, cohort_figure, spaces_figure, tiles_figure
from mhim_core.report.numbers import format_amount, format_number
from mhim_core.report.page import RESEARCH_USE, data_uri

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
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {
        "image": data_uri,
        "number": format_number,
        "amount": format_amount,
        "difference": _difference,
    }
    classes = page.summary["classes"]
    judged = [row for row in page.bags if row["rank"] is not None]
    suspects = [row for row in judged if row["is_suspect"]]
    hard = [row for row in judged if row["type"] in (HardnessType.borderline, HardnessType.rare)]
    first = [row for row in judged if row["bag_id"] in page.pictures]
    return environment.get_template("hardness.html.j2").render(
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
        research_use=RESEARCH_USE,
    )


def _difference(value: float) -> str:
    """`+0.012`, of a metric."""
    text = format_number(value)
    return f"+{text}" if value > 0 else text


def _source(name: str) -> str:
    return resources.files("mhim_core.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")
