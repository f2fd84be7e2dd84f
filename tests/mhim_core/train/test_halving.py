"""Successive halving: when configurations are compared, and which of them go on."""

import pytest

from mhim_core.errors import ConfigError
from mhim_core.train.halving import Rung, Standing, mean_standing, rank, rungs_of


@pytest.mark.parametrize(
    ("num", "epochs", "factor", "at", "rungs"),
    [
        (9, 200, 0, (), [(None, 9)]),
        (9, 200, 3, (), [(23, 3), (67, 1), (None, 9)]),
        (8, 200, 2, (), [(25, 4), (50, 2), (100, 1), (None, 8)]),
        (36, 200, 3, (), [(8, 12), (23, 4), (67, 1), (None, 36)]),
        (2, 200, 3, (), [(None, 2)]),
        (1, 200, 2, (), [(None, 1)]),
        (27, 4, 3, (), [(1, 3), (2, 1), (None, 27)]),
        (4, 1, 2, (), [(None, 4)]),
        (10, 100, 2, (10, 40), [(10, 5), (40, 2), (None, 10)]),
        (3, 100, 2, (1, 2, 3), [(1, 1), (2, 1), (3, 1), (None, 3)]),
    ],
)
def test_a_share_of_the_configurations_goes_on_from_each_rung(
    num: int, epochs: int, factor: int, at: tuple[int, ...], rungs: list[tuple[int | None, int]]
) -> None:
    assert rungs_of(num, epochs, factor, at) == tuple(Rung(*rung) for rung in rungs)


@pytest.mark.parametrize(
    ("factor", "at"), [(1, ()), (-2, ()), (0, (5,)), (2, (5, 5)), (2, (9, 5)), (2, (0, 5)), (2, (5, 20)), (2, (5, 30))]
)
def test_rungs_that_cannot_be_are_refused(factor: int, at: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"halving|rungs"):
        rungs_of(8, 20, factor, at)


def test_the_higher_metric_wins_then_the_lower_loss_then_the_order_of_the_grid() -> None:
    standings = [Standing(0.8, 0.5), Standing(0.9, 0.7), Standing(None, 0.1), Standing(0.9, 0.6), Standing(0.8, 0.5)]
    assert rank(standings) == [3, 1, 0, 4, 2]
    assert rank([Standing(None, 0.3), Standing(None, 0.1)]) == [1, 0]
    assert rank([]) == []


def test_fits_without_a_metric_are_left_out_of_its_mean_and_kept_in_that_of_the_loss() -> None:
    assert mean_standing([0.5, None, 1.0], [1, 2, 3]) == Standing(0.75, 2)
    assert mean_standing([None], [1.5]) == Standing(None, 1.5)
