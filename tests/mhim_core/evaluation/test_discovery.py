"""Foci on a grid whose truth is known, by models that say what they are made to say."""

import numpy as np
import pytest

from mhim_core.errors import ConfigError
from mhim_core.evaluation.discovery import DiscoveryOptions, find_foci, peaks, with_context

SIDE, TILE = 20, 100
COORDS = np.array([(x * TILE, y * TILE) for y in range(SIDE) for x in range(SIDE)], np.int32)
LOUD, QUIET = 5 * SIDE + 4, 14 * SIDE + 15
"""The middle of two foci of nine tiles each."""


def tiles_of(middle: int) -> list[int]:
    return [middle + dy * SIDE + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class Greedy:
    """Looks at the loud focus alone while a tile of it is there; either focus is enough for its prediction."""

    def __init__(self) -> None:
        self.kind = np.zeros(len(COORDS))
        self.kind[tiles_of(LOUD)] = 2
        self.kind[tiles_of(QUIET)] = 1

    def attention(self, rows: np.ndarray) -> np.ndarray:
        kind = self.kind[rows]
        weights = np.where(kind == kind.max(), 1.0, 1e-4)
        middle = np.isin(rows, (LOUD, QUIET))
        weights = weights * np.where(middle, 1.1, 1)
        return np.asarray(weights / weights.sum())

    def score(self, rows: np.ndarray) -> float:
        return 0.9 if self.kind[rows].any() else 0.1

    def embedded(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.eye(3)[self.kind[rows].astype(int)] * 10)


class Shared(Greedy):
    """As it, but each focus is half of the evidence, and a loud tile is worth more."""

    def score(self, rows: np.ndarray) -> float:
        kind = self.kind[rows]
        return 0.1 + 0.5 * float((kind == 2).any()) + 0.3 * float((kind == 1).any())


def test_erasing_finds_the_focus_that_the_first_one_hides() -> None:
    without = find_foci(COORDS, (TILE, TILE), Greedy(), DiscoveryOptions(rounds=0, per_round=1, context_tiles=0))
    assert [focus.peak for focus in without] == [LOUD]
    found = find_foci(COORDS, (TILE, TILE), Greedy(), DiscoveryOptions(per_round=1, context_tiles=0))
    assert [focus.peak for focus in found if focus.sufficiency > 0.5] == [LOUD, QUIET]
    assert {focus.peak: focus.round for focus in found}[QUIET] == 1
    assert found[0].rows.tolist() == tiles_of(LOUD)
    assert max(focus.round for focus in found) == 1, "with both erased the model says no more, and erasing ends"


def test_foci_are_ordered_by_what_they_are_enough_for() -> None:
    found = find_foci(COORDS, (TILE, TILE), Shared())
    first, second = found[:2]
    assert (first.peak in tiles_of(LOUD), second.peak in tiles_of(QUIET)) == (True, True)
    assert (first.necessity, second.necessity) == (pytest.approx(0.5), pytest.approx(0.3))
    assert first.selection == pytest.approx(0.6 * 0.5)
    assert all(focus.selection == 0 for focus in found[2:])


def test_context_lifts_what_looks_alike() -> None:
    model = Greedy()
    rows = np.arange(len(COORDS))
    attention = np.full(len(COORDS), 1e-6)
    attention[tiles_of(QUIET)[0]] = 1.0  # one of nine alike
    widened = with_context(model, rows, attention, 2048)
    assert widened[tiles_of(QUIET)[5]] == pytest.approx(1 / 18, rel=1e-3)
    assert widened[LOUD] < 1e-5
    assert (with_context(model, rows, attention, 0) == attention).all()


def test_peaks_keep_their_distance_and_options_their_ranges() -> None:
    places = COORDS / TILE
    map_n = -np.abs(places - 7).max(axis=1)
    chosen = peaks(map_n, places, DiscoveryOptions(radius=4, per_round=4))
    assert chosen[0] == 7 * SIDE + 7
    assert all(np.abs(places[a] - places[b]).max() > 4 for a in chosen for b in chosen if a != b)
    assert find_foci(COORDS[:0], (TILE, TILE), Greedy()) == []
    for wrong in ({"radius": 0}, {"per_round": 0}, {"extent": 2}, {"rounds": -1}):
        with pytest.raises(ConfigError):
            DiscoveryOptions(**wrong)
