"""Which columns are time and event is told by names and cells, said in a note, and never guessed."""

import pytest

from mhim_core.cohort.survival import CENSORSHIP_NAMES, EVENT_NAMES, TIME_NAMES
from mhim_core.cohort.table import read_cohort
from mhim_core.errors import CohortError


def read(header: str, *rows: str):
    lines = [f"slide_id,path,{header}", *(f"s{index},{index}.svs,{row}" for index, row in enumerate(rows))]
    return read_cohort("\n".join(lines).encode(), name="c.csv", base_uri="/data")


def survival_of(cohort):
    return [(row.time, row.event) for row in cohort.rows]


@pytest.mark.parametrize("time", TIME_NAMES)
def test_every_name_of_a_time_is_known_in_any_case(time):
    assert survival_of(read(f"{time.upper()},status", "1.5,1", "2,0")) == [(1.5, True), (2.0, False)]


@pytest.mark.parametrize("event", EVENT_NAMES)
def test_every_name_of_an_event_is_known_in_any_case(event):
    cohort = read(f"time,{event.title()}", "1.5,1", "2,0")
    assert survival_of(cohort) == [(1.5, True), (2.0, False)]
    assert cohort.header["event"] == event.title()
    assert ["no patient column" in note for note in cohort.notes] == [True]


@pytest.mark.parametrize("name", CENSORSHIP_NAMES)
def test_censorship_is_the_inverse_of_an_event_and_a_note_says_so(name):
    cohort = read(f"survival_months,{name}", "1.5,1", "2,0.0")
    assert survival_of(cohort) == [(1.5, False), (2.0, True)]
    assert any(f"'{name}' 1 is read as censored" in note for note in cohort.notes)


def test_words_in_a_column_of_censorship_mean_what_they_say():
    cohort = read("time,censored", "1,event", "2,censored", "3,Dead", "4,alive", "5,1")
    assert [row.event for row in cohort.rows] == [True, False, True, False, False]


def test_event_in_months_beside_status_is_the_time_and_a_note_says_so():
    cohort = read("Event,Status", "24.33,0", "1,1", "14.2,0")
    assert survival_of(cohort) == [(24.33, False), (1.0, True), (14.2, False)]
    assert (cohort.header["time"], cohort.header["event"]) == ("Event", "Status")
    assert any("'Event' holds numbers other than 0 and 1: taken as the time" in note for note in cohort.notes)


def test_event_of_zeros_and_ones_is_never_a_time():
    cohort = read("event,status", "1,1", "0,0")
    assert survival_of(cohort) == [(None, None), (None, None)]
    assert any("'event', 'status' could be of survival, but no column gives the time" in note for note in cohort.notes)


def test_event_beside_a_time_is_never_taken_for_the_time():
    cohort = read("event,status,time", "24.33,0,5", "14.2,1,6")
    assert survival_of(cohort) == [(5.0, False), (6.0, True)]
    assert any("column 'event' is not read" in note for note in cohort.notes)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("time,event,status", "5,1,0", "'event', 'status' could all be the event"),
        ("time,event,censorship", "5,1,0", "'event', 'censorship' could all be the event"),
        ("os_months,os_days,dead", "5,150,0", "'os_months', 'os_days' could all be the time"),
        ("time,event,status", "5,1,2\ns9,9.svs,6,24.3,1", "'event', 'status' could all be the event"),
    ],
)
def test_columns_that_could_mean_the_same_are_refused_with_what_to_do(header, row, message):
    with pytest.raises(CohortError, match=f"{message} of survival: keep one and rename the others"):
        read(header, row)


@pytest.mark.parametrize(
    ("header", "row", "note"),
    [
        ("time", "12", "no column gives the event"),
        ("status", "scanned", "no column gives the time"),
        ("time,status", "12:30,scanned", "no cell is a readable time"),
        ("time,status", "12,scanned", "no cell is a readable event"),
        ("time,event", "12,24.5", "no cell is a readable event"),
        ("time,event", ",", "no cell is a readable time"),
    ],
)
def test_columns_of_other_meaning_are_not_read_and_a_note_says_so(header, row, note):
    cohort = read(header, row)
    assert survival_of(cohort) == [(None, None)]
    assert cohort.findings == ()
    assert "time" not in cohort.header
    assert any(note in line for line in cohort.notes)


def test_codes_of_another_convention_are_findings_not_events():
    cohort = read("time,status", "306,2", "455,2", "1010,1")
    assert [finding.row for finding in cohort.findings] == [2, 3]
    assert survival_of(cohort) == [(306.0, None), (455.0, None), (1010.0, True)]


def test_short_rows_do_not_hide_the_columns():
    cohort = read("time,event", "1,1", "2")
    assert cohort.rows[0].event is True
    assert len(cohort.findings) == 1
