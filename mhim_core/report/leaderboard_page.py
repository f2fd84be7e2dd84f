"""The page of a sweep: one self-contained HTML file without scripts; the same leaderboard gives the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from mhim_core.report.numbers import format_amount, format_difference, format_estimate, format_number
from mhim_core.report.page import RESEARCH_USE
from mhim_core.train.leaderboard import LeaderboardRow
from mhim_core.train.sweep_grid import say


@dataclass(frozen=True, kw_only=True)
class LeaderboardPage:
    """Everything on the page."""

    rows: Sequence[LeaderboardRow]
    metric_title: str
    """Of what the configurations are ranked by, on validation."""
    sentence: str
    """How the first was chosen; empty: none has finished."""
    test_title: str
    test: str
    """The first's test figure with its interval; empty: there is none."""


def render_leaderboard(page: LeaderboardPage) -> str:
    """The page."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {
        "estimate": format_estimate,
        "number": format_number,
        "amount": format_amount,
        "difference": format_difference,
        "say": say,
    }
    return environment.get_template("leaderboard.html.j2").render(
        page=page, keys=list(page.rows[0].setting), research_use=RESEARCH_USE
    )


def _source(name: str) -> str:
    return resources.files("mhim_core.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")
