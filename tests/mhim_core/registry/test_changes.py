"""Differences between cards are named as the keys that a person gave."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mhim_core.registry.changes import changes

Make = Callable[..., Any]


def keys(before: Any, after: Any) -> list[str]:
    return [change.key for change in changes(before, after)]


def test_equal_cards_and_other_weights_alone_are_no_change(made: Make) -> None:
    assert keys(made(b"one").card, made(b"two").card) == []
    assert keys(made().card, replace(made().card, created_by="else", estimate={"auroc": 1})) == []


def test_each_difference_has_its_key(made: Make) -> None:
    card = made().card
    fit = card.recipe["fit"]
    assert keys(card, replace(card, recipe=card.recipe | {"fit": fit | {"epochs": 1}})) == ["epochs"]
    assert keys(card, replace(card, recipe=card.recipe | {"fit": fit | {"seed": 7}, "seeds": [7]})) == ["seed"]
    assert keys(card, replace(card, recipe=card.recipe | {"mhim": {"score": "margin"}})) == ["score"]
    assert keys(card, made(threshold=0.6).card) == ["thresholds"]
    assert keys(made(b"a").card, made(b"a", b"b").card) == ["fits", "thresholds"]
    other = replace(card.trained_on, manifest_sha256="other")
    assert keys(card, replace(card, trained_on=other)) == ["data"]


def test_a_change_is_said_with_both_values_but_for_digests(made: Make) -> None:
    card = made().card
    (found,) = changes(card, replace(card, recipe=card.recipe | {"method": "plain"}))
    assert found.words == "method (mhim → plain)"
    (data,) = changes(card, replace(card, trained_on=replace(card.trained_on, cohort="other")))
    assert data.words == "data"
