"""Listings in sentences: the first of many, the rest counted."""

from mhim_core.cohort.findings import listed, quote_all


def test_all_of_few_are_listed_and_the_rest_of_many_is_counted():
    assert listed(["a", "b"], 2) == ["a", "b"]
    assert listed(["a", "b", "c", "d"], 2) == ["a", "b", "… and 2 more"]
    assert listed([]) == []


def test_names_are_quoted_in_natural_order():
    assert quote_all(["s10", "s9", "s\u202e1"], 2) == "'s9', 's10', … and 1 more"
    assert "\u202e" not in quote_all(["s\u202e1"])
