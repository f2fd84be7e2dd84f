"""Which tiles are chosen: the highest scores, or those that are spread over all that a slide shows."""

import numpy as np
import pytest

from mhim_core.store import selection
from mhim_core.store.selection import highest_rows, num_chosen, spread_rows


@pytest.mark.parametrize(
    ("num_tiles", "share", "num"), [(0, 0.25, 0), (1, 0.25, 1), (4, 0.25, 1), (5, 0.25, 2), (10, 0.3, 3), (7, 1.0, 7)]
)
def test_a_share_is_rounded_up(num_tiles: int, share: float, num: int) -> None:
    assert num_chosen(num_tiles, share) == num


def test_the_highest_scores_are_chosen_of_equal_ones_the_first() -> None:
    assert highest_rows(np.array([0.1, 0.5, 0.5, 0.9, 0.5], np.float32), 3).tolist() == [1, 2, 3]


def test_what_is_rare_is_among_the_spread() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (500, 128)).astype(np.float16)
    features[[7, 300, 498]] += rng.normal(0, 3, (3, 128)).astype(np.float16)
    rows = spread_rows(features, 25)
    assert len(set(rows.tolist())) == 25
    assert rows.tolist() == sorted(rows.tolist())
    assert {7, 300, 498} <= set(rows.tolist())


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_of_tiles_that_are_all_alike_none_is_taken_twice(value: float) -> None:
    assert len(set(spread_rows(np.full((40, 8), value, np.float16), 10).tolist())) == 10


def test_the_spread_does_not_depend_on_how_sums_are_made() -> None:
    """Distances are whole numbers: float64 finds the same rows that float32 found on any machine."""
    features = np.random.default_rng(3).standard_normal((300, 200)).astype(np.float16)
    values = features.astype(np.float64) @ selection._signs(200)
    points = np.rint(values * (255 / np.abs(values).max()))
    chosen = [int(((points - np.rint(points.mean(axis=0))) ** 2).sum(axis=1).argmin())]
    for _ in range(29):
        distance = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    assert spread_rows(features, 30).tolist() == sorted(chosen)
    assert np.abs(points).max() == 255
    assert selection._signs(200)[0, :8].tolist() == [-1, 1, 1, -1, -1, -1, 1, -1]


def test_a_large_slide_is_spread_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(4).standard_normal((100, 16)).astype(np.float16)
    monkeypatch.setattr(selection, "_GROUP_TILES", 30)
    rows = spread_rows(features, 41)
    assert len(set(rows.tolist())) == 41
    assert np.bincount(rows % 4).tolist() == [11, 10, 10, 10]
