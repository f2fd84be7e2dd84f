"""One cell: a value, nothing, or a sentence; never a guess."""

import pytest

from mhim_core.cohort.values import (
    CellError,
    has_no_value,
    number_of,
    read_event,
    read_fold,
    read_site,
    read_split,
    read_time,
)


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("1.0", "0.0"), ("true", "False"), ("TRUE", "false"), ("yes", "no"), ("Y", "n"), ("t", "F")],
)
def test_answers_answer_what_the_column_asks(yes, no):
    assert (read_event(yes), read_event(no)) == (True, False)
    assert (read_event(yes, censorship=True), read_event(no, censorship=True)) == (False, True)


@pytest.mark.parametrize("censorship", [False, True])
@pytest.mark.parametrize(
    ("text", "event"),
    [
        *((text, True) for text in ("Dead", "deceased", "1:DECEASED", "1:dead", " event ")),
        *((text, False) for text in ("Alive", "LIVING", "0:LIVING", "0:alive", "Censored")),
    ],
)
def test_words_that_say_it_themselves_mean_the_same_in_either_column(text, event, censorship):
    assert read_event(text, censorship=censorship) is event


@pytest.mark.parametrize("text", ["", "  ", "NA", "n/a", "NaN", "None", "unknown", "Not Reported", "?"])
def test_what_tables_write_for_nothing_is_nothing(text):
    assert has_no_value(text)
    assert read_event(text) is None
    assert read_site(text) is None
    assert read_time(text) is None


@pytest.mark.parametrize("text", ["2", "24.3", "-1", "01", "maybe", "dead?", "1,0"])
def test_an_event_of_another_coding_is_refused(text):
    with pytest.raises(CellError, match="does not say"):
        read_event(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("12", 12.0), (" 24.33 ", 24.33), ("1e2", 100.0), ("+3", 3.0)])
def test_times_are_finite_numbers_from_zero(text, value):
    assert read_time(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-0.5", "times are 0 or more"),
        ("inf", "not a time"),
        ("1e999", "not a time"),
        ("12 months", "not a time"),
        ("1_000", "not a time"),
        ("12,5", "write 12.5"),
        ("٣", "not a time"),
    ],
)
def test_other_times_are_refused_with_a_sentence(text, message):
    with pytest.raises(CellError, match=message):
        read_time(text)


@pytest.mark.parametrize(("text", "value"), [("nan", None), ("inf", None), ("", None), ("0x1", None), (" 2 ", 2.0)])
def test_only_finite_numbers_are_numbers(text, value):
    assert number_of(text) == value


@pytest.mark.parametrize("text", ["-1", "1.5", "a", "1234567", "٣"])
def test_folds_are_counted_from_zero(text):
    assert read_fold("0") == 0
    with pytest.raises(CellError, match="not the number of a fold"):
        read_fold(text)


def test_the_parts_of_a_split_have_their_usual_names():
    assert [read_split(text) for text in ("Training", "dev", "valid", "testing", "")] == [
        "train",
        "val",
        "val",
        "test",
        None,
    ]
    with pytest.raises(CellError, match="train, val, test"):
        read_split("holdout")


def test_a_site_is_its_name_without_the_spaces_around_it():
    assert read_site(" Site A ") == "Site A"
