import numpy as np
import pytest

from mhim_core.demo.slide import Focus, FocusKind
from mhim_core.demo.truth import focus_shares

SQUARE = Focus(FocusKind.quiet, ((100, 100), (300, 100), (300, 300), (100, 300)))


def test_a_tiles_share_is_the_area_of_it_that_lies_inside() -> None:
    corners = np.array([[150, 150], [50, 150], [50, 50], [400, 400], [0, 0]])
    shares = focus_shares((SQUARE,), corners, (100, 100))
    assert shares == pytest.approx([1, 0.5, 0.25, 0, 0], abs=0.05)


def test_shares_of_all_tiles_sum_to_the_foci_wherever_the_grid_starts() -> None:
    for start in (0, 13):
        y, x = np.mgrid[start - 100 : 500 : 64, start - 100 : 500 : 64]
        corners = np.stack([x.ravel(), y.ravel()], axis=1)
        corners = corners[(corners >= 0).all(axis=1)]
        covered = focus_shares((SQUARE,), corners, (64, 64)).sum() * 64 * 64
        assert covered == pytest.approx(200 * 200, rel=0.05)


def test_foci_that_meet_are_counted_once_and_none_is_no_share() -> None:
    corners = np.array([[150, 150]])
    assert focus_shares((SQUARE, SQUARE), corners, (100, 100)) == pytest.approx([1])
    assert focus_shares((), corners, (100, 100)) == pytest.approx([0])
