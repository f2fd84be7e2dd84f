"""The leaderboard of a sweep as files and in print."""

from collections.abc import Sequence

from flows.sweeps.winner import HEADLINE, WINNER, Winner
from mhim_core.errors import NotFoundError
from mhim_core.fingerprint import canonical_json
from mhim_core.metrics import METRICS, Estimate
from mhim_core.printable import one_line
from mhim_core.report.numbers import format_estimate
from mhim_core.storage import Storage
from mhim_core.tables import write_csv, write_parquet
from mhim_core.task import TaskKind
from mhim_core.train.leaderboard import LOSS, LeaderboardRow, column_names, leaderboard_schema
from mhim_core.train.sweep_grid import say
from mhim_core.train.sweep_plan import TrialStatus

TABLE_CSV, TABLE_PARQUET, PAGE = "leaderboard.csv", "leaderboard.parquet", "leaderboard.html"


def write_board(
    storage: Storage, rows: Sequence[LeaderboardRow], winner: Winner | None, metric_name: str, kind: TaskKind
) -> None:
    """Table, page and winner, each only where it has changed."""
    from mhim_core.report.leaderboard_page import LeaderboardPage, render_leaderboard

    lines = [row.columns() for row in rows]
    headline = None if winner is None else winner.headline(kind)
    page = LeaderboardPage(
        rows=rows,
        metric_title=title_of(metric_name),
        sentence="" if winner is None else winner.sentence,
        test_title=title_of(HEADLINE[kind]),
        test="" if headline is None else format_estimate(_estimate(headline), HEADLINE[kind]),
    )
    _put(storage, TABLE_CSV, write_csv(lines, column_names(list(rows[0].setting))))
    _put(storage, TABLE_PARQUET, write_parquet(lines, schema=leaderboard_schema(rows)))
    _put(storage, PAGE, render_leaderboard(page).encode())
    if winner is not None:
        _put(storage, WINNER, canonical_json(winner))


def print_board(
    storage: Storage, rows: Sequence[LeaderboardRow], winner: Winner | None, metric_name: str, kind: TaskKind, top: int
) -> None:
    """The first rows, how many there are of which kind, the winner's test figure."""
    title = title_of(metric_name)
    for row in rows[:top]:
        if row.outcome.status is TrialStatus.failed:
            continue
        setting = " ".join(f"{key}={say(value)}" for key, value in row.setting.items()) or row.outcome.name
        cut = f", cut after epoch {row.outcome.rung}" if row.outcome.status is TrialStatus.cut else ""
        print(f"{row.rank:>4}  {title} {format_estimate(row.validation, metric_name)}  {setting}{cut}")
    for row in rows:
        if row.outcome.status is TrialStatus.failed:
            print(f"failed: {row.outcome.name}: {one_line(row.outcome.reason)}")
    if winner is not None:
        print(winner.sentence)
        headline = winner.headline(kind)
        if headline is not None:
            print(f"test {title_of(HEADLINE[kind])} {format_estimate(_estimate(headline), HEADLINE[kind])}")
        print(f"winner: {storage.locate(winner.run)}")
    print(f"leaderboard: {storage.locate(PAGE)}")


def title_of(metric_name: str) -> str:
    """For people."""
    return "validation loss" if metric_name == LOSS else METRICS[metric_name].title


def _estimate(document: dict[str, float | None]) -> Estimate:
    return Estimate(document["value"], document["low"], document["high"])


def _put(storage: Storage, key: str, data: bytes) -> None:
    try:
        present = storage.get(key)
    except NotFoundError:
        present = None
    if present != data:
        storage.put(key, data)
