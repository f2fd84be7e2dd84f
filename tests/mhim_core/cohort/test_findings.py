"""Listings in sentences: the first of many, the rest counted."""

from mhim_core.cohort.findings import Finding, listed, listed_by_kind, quote_all


def test_all_of_few_are_listed_and_the_rest_of_many_is_counted():
    assert listed(["a", "b"], 2) == ["a", "b"]
    assert listed(["a", "b", "c", "d"], 2) == ["a", "b", "… and 2 more"]
    assert listed([]) == []


def test_names_are_quoted_in_natural_order():
    assert quote_all(["s10", "s9", "s\u202e1"], 2) == "'s9', 's10', … and 1 more"
    assert "\u202e" not in quote_all(["s\u202e1"])


def test_a_thousand_rows_with_one_mistake_do_not_hide_another() -> None:
    missing = [Finding(row, f"s{row}", "path", f"not_found: there is no file '/a/{row}.svs'") for row in range(2, 1002)]
    label = Finding(1002, "s1002", "label", "'x ' has spaces around it: remove them")
    lines = listed_by_kind([*missing, label])
    assert str(label) in lines
    assert lines[0] == str(missing[0])
    assert len(lines) == 49 + 1 + 1
    assert lines[-1] == "… and 951 more"


def test_rows_of_one_kind_are_told_by_their_words_not_by_what_they_quote() -> None:
    same = [Finding(row, "", "slide_id", f"the same slide id as 'a\\'{row}' (row {row})") for row in range(200)]
    assert len(listed_by_kind(same)) == 50 + 1
