"""Differences between cards are named as the keys that a person gave."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mhim_core.registry.changes import changes
from mhim_core.train import sections
from mhim_core.train.fit_options import FitOptions

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
    (change,) = changes(card, replace(card, recipe=card.recipe | {"method": "plain"}))
    assert change.words == "method (mhim → plain)"
    (data,) = changes(card, replace(card, trained_on=replace(card.trained_on, cohort="other")))
    assert data.words == "data"


@dataclass(frozen=True, kw_only=True)
class LaterFit(FitOptions):
    """With an option that a later version added."""

    added: float = field(default=0.5, metadata={"neutral": 0.0})


def test_an_option_that_the_older_card_does_not_know_is_a_change_where_it_is_used(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "SECTIONS", {"fit": LaterFit})
    card = made().card
    fit = card.recipe["fit"]
    assert keys(card, replace(card, recipe=card.recipe | {"fit": fit | {"added": 0.0}})) == []
    (change,) = changes(card, replace(card, recipe=card.recipe | {"fit": fit | {"added": 0.5}}))
    assert change.words == "added (0.0 → 0.5)"


def test_an_option_of_a_newer_version_is_a_change_by_its_name(made: Make) -> None:
    card = made().card
    newer = replace(card, recipe=card.recipe | {"fit": card.recipe["fit"] | {"added": 0.5}})
    assert keys(newer, card) == ["added"]
