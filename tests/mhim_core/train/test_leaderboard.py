"""The leaderboard: its order, means, intervals and columns."""

import dataclasses

import pytest

from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.tables import read_parquet, write_parquet
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.leaderboard import (
    LOSS,
    LeaderboardRow,
    build_leaderboard,
    column_names,
    leaderboard_schema,
    winner,
)
from mhim_core.train.sweep_plan import FitScore, TrialOutcome, TrialStatus

FINISHED, CUT, FAILED = TrialStatus.finished, TrialStatus.cut, TrialStatus.failed


def trial(
    name: str, *metrics: float | None, status: TrialStatus = FINISHED, rung: int | None = None, loss: float = 0.5
) -> TrialOutcome:
    """Two seeds a fold."""
    fits = tuple(FitScore(index % 2, index // 2, 10, 4, metric, loss) for index, metric in enumerate(metrics))
    return TrialOutcome(name=name, status=status, rung=rung, reason="NaN" if status is FAILED else "", fits=fits)


def board(*trials: TrialOutcome, metric: str = "auroc", **settings: float) -> list[LeaderboardRow]:
    own = {each.name: {"dropout": settings.get(each.name, 0.1)} for each in trials}
    return build_leaderboard(trials, own, metric, {each.name: 2.0 for each in trials}, {})


def test_finished_come_before_cut_and_cut_before_failed_whatever_their_figures() -> None:
    rows = board(
        trial("early", 0.99, status=CUT, rung=2),
        trial("broken", 1.0, status=FAILED),
        trial("second", 0.7),
        trial("late", 0.6, status=CUT, rung=7),
        trial("later", 0.65, status=CUT, rung=7),
        trial("first", 0.8),
    )
    assert [row.outcome.name for row in rows] == ["first", "second", "later", "late", "early", "broken"]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5, None]
    best = winner(rows)
    assert best is not None
    assert best.outcome.name == "first"
    assert winner(board(trial("cut", 0.9, status=CUT, rung=1))) is None


def test_the_mean_is_over_all_fits_and_the_interval_draws_folds_with_their_seeds() -> None:
    (row,) = board(trial("a", 0.6, 0.6, 0.9, 0.9, 0.75, 0.75))
    assert row.validation.value == pytest.approx(0.75)
    assert row.validation.low == pytest.approx(0.6)
    assert row.validation.high == pytest.approx(0.9), "three folds: the same one is drawn three times in 1 of 27"
    assert row.validation_std == pytest.approx(0.1342, abs=1e-4)
    (one_fold,) = board(trial("a", 0.6, 0.9))
    assert (one_fold.validation.low, one_fold.validation.high) == pytest.approx((0.6, 0.9)), "seeds are drawn"
    (one_fit,) = board(trial("a", 0.6))
    assert (one_fit.validation.low, one_fit.validation_std) == (None, None)


def test_how_far_a_row_is_behind_is_paired_over_the_same_fits() -> None:
    first, second = board(trial("b", 0.5, 0.5, 0.8, 0.8), trial("a", 0.6, 0.6, 0.9, 0.9))
    assert first.behind.value == 0
    assert (second.behind.value, second.behind.low, second.behind.high) == pytest.approx((0.1, 0.1, 0.1))
    assert second.validation.low == pytest.approx(0.5)


def test_where_the_loss_is_compared_the_lower_is_first_and_behind_is_positive() -> None:
    rows = board(trial("a", None, None, loss=0.7), trial("b", None, None, loss=0.4), metric=LOSS)
    assert [row.outcome.name for row in rows] == ["b", "a"]
    assert rows[0].validation.value == pytest.approx(0.4)
    assert rows[1].behind.value == pytest.approx(0.3)


def test_a_metric_that_no_fit_has_leaves_the_loss_to_decide_and_no_figure() -> None:
    rows = board(trial("a", None, loss=0.7), trial("b", None, loss=0.4))
    assert [row.outcome.name for row in rows] == ["b", "a"]
    assert rows[0].validation.value is None


def test_the_table_has_the_same_types_whatever_became_of_the_configurations() -> None:
    mixed = board(trial("a", 0.6), trial("b", status=FAILED), trial("c", 0.5, status=CUT, rung=3), a=0.1, b=0, c=1)
    failed = board(trial("b", status=FAILED))
    assert leaderboard_schema(mixed) == leaderboard_schema(failed)
    table = read_parquet(write_parquet([row.columns() for row in mixed], schema=leaderboard_schema(mixed))).to_pylist()
    assert [line["dropout"] for line in table] == [0.1, 1, 0]
    assert [line["rung"] for line in table] == [None, 3, None]
    assert [line["reason"] for line in table] == ["", "", "NaN"]
    assert table[2]["validation"] is None
    assert list(table[0]) == column_names(["dropout"])


def test_no_column_has_the_name_of_a_key_that_may_vary() -> None:
    keys = {field.name for kind in (ModelOptions, MhimOptions, FitOptions) for field in dataclasses.fields(kind)}
    assert not keys & set(column_names([]))
