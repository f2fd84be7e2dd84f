"""Figures of an explanation on models whose behaviour is known: attention that is right, wrong, or beside the point."""

import numpy as np
import pytest

from mhim_core.evaluation.explanation import (
    FIGURES,
    SHARES,
    Agreement,
    ExplainedBag,
    agreement,
    area,
    faithfulness,
    random_orders,
    summarise_explanation,
)

NUM = 100
EVIDENCE = np.zeros(NUM)
EVIDENCE[[7, 40, 41, 80, 99]] = 1


def score(rows: np.ndarray) -> float:
    """Of a model that finds disease as far as the five tiles of evidence are there."""
    assert (np.diff(rows) > 0).all()
    return 0.1 + 0.8 * float(EVIDENCE[rows].sum()) / 5


def test_right_attention_is_sufficient_necessary_and_better_than_chance() -> None:
    right = faithfulness(EVIDENCE, score, "bag")
    assert right.score == right.sufficiency == pytest.approx(0.9)
    assert right.necessity == pytest.approx(0.8)
    wrong = faithfulness(1 - EVIDENCE, score, "bag")
    assert wrong.sufficiency == pytest.approx(0.1)
    assert wrong.necessity == pytest.approx(0.0)
    for name, sign in (("deletion", -1), ("insertion", 1)):
        own, other = (area(getattr(each.by_attention, name)) for each in (right, wrong))
        chance = area(getattr(right.by_chance, name))
        assert sign * own > sign * chance > sign * other
    assert right.by_chance.deletion.tolist() == wrong.by_chance.deletion.tolist(), "keyed by the bag alone"


def test_curves_begin_and_end_with_all_tiles_and_with_one() -> None:
    curves = faithfulness(EVIDENCE, score, "bag").by_attention
    assert curves.deletion[0] == curves.insertion[-1] == pytest.approx(0.9)
    assert curves.deletion[SHARES.index(0.05)] == pytest.approx(0.1), "the five tiles are gone"
    assert curves.insertion[0] == pytest.approx(0.1 + 0.8 / 5), "the first tile alone"
    single = faithfulness([1.0], lambda rows: float(len(rows)), "x")
    assert (single.score, single.sufficiency, single.necessity) == (1, 1, 0)
    with pytest.raises(ValueError, match="without tiles"):
        faithfulness([], score, "x")


def test_the_model_is_asked_once_about_the_same_tiles() -> None:
    asked: list[bytes] = []

    def counted(rows: np.ndarray) -> float:
        asked.append(rows.tobytes())
        return score(rows)

    faithfulness(EVIDENCE, counted, "bag")
    assert len(asked) == len(set(asked))


def test_areas_and_orders() -> None:
    assert area([1.0] * len(SHARES)) == pytest.approx(1)
    assert area(SHARES) == pytest.approx(0.5)
    first, again, other = (random_orders(NUM, key) for key in ("a", "a", "b"))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()
    assert sorted(first[0].tolist()) == list(range(NUM))


def test_agreement_of_equal_opposite_and_constant_attention() -> None:
    rising = np.arange(NUM, dtype=np.float64)
    assert agreement([rising, 2 * rising + 1]) == (pytest.approx(1), 1)
    assert agreement([rising, -rising]) == (pytest.approx(-1), 0)
    half = np.where(np.arange(NUM) >= 97, rising, -rising)  # three of the five top tiles of `rising`
    assert agreement([rising, half]).top_overlap == pytest.approx(0.6)
    assert agreement([rising]) == agreement([rising, np.ones(NUM)]) == (None, None)


def test_the_summary_has_means_with_intervals_and_says_what_is_undefined() -> None:
    right = faithfulness(EVIDENCE, score, "a")
    wrong = faithfulness(1 - EVIDENCE, score, "b")
    bags = [
        ExplainedBag("a", "p1", 0, NUM, right, Agreement(0.5, 0.2)),
        ExplainedBag("b", "p2", 0, NUM, wrong, Agreement(None, None)),
    ]
    document = summarise_explanation(bags, replicates=50)
    assert set(document["estimates"]) == set(FIGURES) <= set(bags[0].line())
    assert document["estimates"]["sufficiency"]["value"] == pytest.approx(0.5)
    assert document["estimates"]["sufficiency"]["low"] <= 0.5 <= document["estimates"]["sufficiency"]["high"]
    assert document["estimates"]["rank_correlation"]["value"] == 0.5, "of the bag that has one"
    assert document["curves"]["deletion"][0] == pytest.approx(0.9)
    none = summarise_explanation([bags[1]], replicates=0)
    assert none["estimates"]["rank_correlation"] == {
        "value": None,
        "low": None,
        "high": None,
        "num_undefined": 0,
        "reason": "no bag has it",
    }
