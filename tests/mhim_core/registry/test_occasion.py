"""What sets off a retraining, and what does not."""

from typing import Any

import pytest

from mhim_core.registry.occasion import Against, Occasion, find_occasion
from mhim_core.registry.snapshot import Snapshot
from mhim_core.types import SlideId

AGAINST = Against(3, "v3")
BEFORE = Snapshot(slides={SlideId("a"): "1", SlideId("b"): "2"}, policy={})
TILES: dict[SlideId, object] = {SlideId("a"): 1, SlideId("b"): 1}
ORIGIN = {"data": BEFORE.fingerprint, "trained": BEFORE.of(TILES)}


def occasion(now: Snapshot = BEFORE, origin: Any = ORIGIN, tiles: Any = TILES, **changes: Any) -> Occasion:
    return find_occasion(now, AGAINST, origin, before=BEFORE, with_tiles=tiles, **{"num_waiting": 0} | changes)


def test_the_same_data_are_no_occasion() -> None:
    judged = occasion()
    assert (judged.embeds, judged.trains, judged.words) == (False, False, "nothing new")


def test_unlabelled_slides_are_embedded_and_train_nothing() -> None:
    judged = occasion(num_waiting=4)
    assert (judged.embeds, judged.trains) == (True, False)
    assert "4 slides" in judged.words
    inputs = judged.inputs("keys", "others")
    assert inputs["others"] == "others"
    assert "keys" not in inputs


@pytest.mark.parametrize(
    ("slides", "words"),
    [
        ({"a": "1", "b": "2", "c": "3"}, "1 new slide"),
        ({"a": "1"}, "1 gone slide"),
        ({"a": "1", "b": "9"}, "1 changed slide"),
    ],
)
def test_new_gone_and_changed_slides_are_an_occasion(slides: Any, words: str) -> None:
    judged = occasion(Snapshot(slides=slides, policy={}))
    assert (judged.trains, judged.words) == (True, words)
    assert judged.data == Snapshot(slides=slides, policy={}).fingerprint


def test_a_champion_of_unknown_origin_is_challenged() -> None:
    assert occasion(origin={}).trains


def test_slides_that_have_features_since_are_an_occasion_of_their_own() -> None:
    origin = {"data": BEFORE.fingerprint, "trained": BEFORE.of({SlideId("a"): 1})}
    judged = occasion(origin=origin)
    assert judged.trains
    assert judged.data not in (BEFORE.fingerprint, BEFORE.of(TILES)), "judged once, and apart from the data themselves"


def test_age_counts_once_a_period_and_only_where_it_is_asked_for() -> None:
    assert not occasion(age_days=400.0).trains
    assert not occasion(age_days=29.9, max_age_days=30.0).trains
    first, later = (occasion(age_days=days, max_age_days=30.0) for days in (31.0, 61.0))
    assert (first.period, later.period) == ((3, 1), (3, 2))
    assert first.marker("lung") != later.marker("lung")
    assert first.marker("lung") == occasion(age_days=45.0, max_age_days=30.0).marker("lung")


def test_the_marker_names_champion_and_data() -> None:
    assert occasion().marker("lung") == f"flows/judged/lung/v3-{BEFORE.fingerprint[:16]}.json"
