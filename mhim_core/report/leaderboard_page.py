"""The page of a sweep: the first configuration and how it was chosen, then all of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mhim_core.report.answer import Count
from mhim_core.report.frame import render_page
from mhim_core.report.numbers import format_duration
from mhim_core.train.leaderboard import LeaderboardRow
from mhim_core.train.sweep_grid import say
from mhim_core.train.sweep_plan import TrialStatus


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
    return render_page(
        "leaderboard.html.j2",
        filters={"say": say},
        page=page,
        keys=list(page.rows[0].setting),
        counts=_counts(page.rows),
    )


def _counts(rows: Sequence[LeaderboardRow]) -> Iterator[Count]:
    num = Counter(row.outcome.status for row in rows)
    num_failed = num[TrialStatus.failed]
    yield Count(f"{len(rows):,}", f"configuration{'s' * (len(rows) != 1)}", "configurations")
    if num[TrialStatus.cut]:
        yield Count(f"{num[TrialStatus.cut]:,}", "cut before their end, since others did better", "configurations")
    if num_failed:
        yield Count(f"{num_failed:,}", "failed", "configurations", is_bad=True)
    yield Count(format_duration(sum(row.seconds for row in rows)), "of training, by the clock, of all fits together")
