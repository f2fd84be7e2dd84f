"""The columns that say how long a patient was followed, and whether the event was observed.

Names alone do not decide: `status` is a scan's state in one table and a death in another, and there are tables of
survival whose `Event` holds months and whose `Status` holds the event. So a column is chosen by its name and its
cells, a note says which was chosen, and a table in which two columns could have the same meaning is refused.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mhim_core.cohort.cells import TextRow
from mhim_core.cohort.columns import column_key, named_column
from mhim_core.cohort.findings import quote
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.cohort.values import CellError, has_no_value, number_of, read_event, read_time
from mhim_core.errors import CohortError

TIME_NAMES = (
    "time",
    "survival_time",
    "survival_months",
    "survival_days",
    "survival_years",
    "os_time",
    "os_months",
    "os_days",
    "os.time",
    "overall_survival_months",
    "overall_survival_days",
    "follow_up_time",
    "followup_time",
    "follow_up_months",
    "follow_up_days",
    "time_to_event",
    "event_time",
    "futime",
    "duration",
)
EVENT_NAMES = (
    "event",
    "event_observed",
    "status",
    "survival_status",
    "os_event",
    "os_status",
    "os",
    "overall_survival_status",
    "vital_status",
    "dead",
    "deceased",
    "death",
    "fustat",
)
CENSORSHIP_NAMES = ("censorship", "censored")
"""1 = censored: the inverse of an event."""


_TIMES, _EVENTS, _CENSORSHIPS = (
    frozenset(map(column_key, names)) for names in (TIME_NAMES, EVENT_NAMES, CENSORSHIP_NAMES)
)


class SurvivalColumns(NamedTuple):
    """The indices of a patient's time and event."""

    time: int
    event: int
    censorship: bool = False
    """The event column is inverted: 1 = censored."""


class SurvivalFound(NamedTuple):
    """The columns, if the table has both, and notes on it."""

    columns: SurvivalColumns | None
    notes: tuple[str, ...] = ()


def find_survival(
    header: Sequence[str], rows: Sequence[TextRow], table_name: str, options: TableOptions = AS_FOUND
) -> SurvivalFound:
    """Find the columns of times and events; both or neither are read.

    A column counts if its name fits and at least one of its cells can be read accordingly, or if an option names it;
    where options name only the column of labels, none is searched for. Raises CohortError where several columns fit,
    and where one that an option names cannot be read.
    """
    if options.label_column and not (options.time_column or options.event_column):
        return SurvivalFound(None)
    chosen = {key: named_column(header, name, key, table_name) for key, name in options.named_columns().items()}
    named = {index: column_key(cell) for index, cell in enumerate(header) if index not in chosen.values()}
    events = [index for index, name in named.items() if name in _EVENTS | _CENSORSHIPS]
    times = [index for index, name in named.items() if name in _TIMES]
    times = [chosen["time_column"]] if "time_column" in chosen else times
    events = [chosen["event_column"]] if "event_column" in chosen else events
    if not times and (swapped := _event_of_months(named, rows)):
        time, event = (quote(header[index]) for index in swapped[:2])
        note = f"{time} holds numbers other than 0 and 1: taken as the time, and {event} as the event (1 = seen)"
        return SurvivalFound(swapped, (f"{table_name}: {note}",))
    is_named = "time_column" in chosen or "event_column" in chosen
    if not times or not events:
        notes = _lonely(header, [*times, *events], "time" if events else "event", table_name)
        return SurvivalFound(None, _refused_if(is_named, notes))
    good_times = [index for index in times if _any_readable(rows, index, read_time)]
    good_events = [index for index in events if _any_readable(rows, index, read_event)]
    if not good_times or not good_events:
        notes = (_no_values(header, times, events, bool(good_times), table_name),)
        return SurvivalFound(None, _refused_if(is_named, notes))
    _check_one(header, good_times, good_events, table_name)
    inverted = column_key(header[good_events[0]]) in _CENSORSHIPS
    notes = tuple(
        f"{table_name}: column {quote(header[index])} is not read: none of its cells is a time or an event"
        for index in (*times, *events)
        if index not in (*good_times, *good_events)
    )
    if inverted:
        note = f"{table_name}: in {quote(header[good_events[0]])} 1 is read as censored and 0 as the event seen"
        notes = (*notes, note)
    return SurvivalFound(SurvivalColumns(good_times[0], good_events[0], inverted), notes)


def _check_one(header: Sequence[str], times: Sequence[int], events: Sequence[int], table_name: str) -> None:
    if len(times) > 1 or len(events) > 1:
        meaning, several = ("time", times) if len(times) > 1 else ("event", events)
        columns = ", ".join(quote(header[index]) for index in several)
        raise CohortError(
            f"{table_name}: columns {columns} could all be the {meaning} of survival: keep one and rename the others, "
            f"or set {meaning}_column="
        )


def _refused_if(is_named: bool, notes: tuple[str, ...]) -> tuple[str, ...]:
    """The notes; a column that was named on purpose and is not read is an error. Raises CohortError."""
    if is_named:
        raise CohortError("; ".join(notes))
    return notes


def _event_of_months(named: dict[int, str], rows: Sequence[TextRow]) -> SurvivalColumns | None:
    """`Event` = months and `Status` = 1 dead: decided by the cells, and only if no other column could be either."""
    candidates = [index for index, name in named.items() if name in _EVENTS | _CENSORSHIPS]
    if sorted(named[index] for index in candidates) != ["event", "status"]:
        return None
    time, event = sorted(candidates, key=lambda index: named[index])
    months = all(number_of(text) is not None for text in _cells(rows, time)) and _any_readable(rows, time, read_time)
    is_event = _all_readable(rows, event, read_event) and not _all_readable(rows, time, read_event)
    return SurvivalColumns(time, event) if months and is_event else None


def _lonely(header: Sequence[str], indices: Sequence[int], missing: str, table_name: str) -> tuple[str, ...]:
    if not indices:
        return ()
    columns = ", ".join(quote(header[index]) for index in indices)
    return (f"{table_name}: {columns} could be of survival, but no column gives the {missing}: not read",)


def _no_values(
    header: Sequence[str], times: Sequence[int], events: Sequence[int], has_times: bool, table_name: str
) -> str:
    columns = ", ".join(quote(header[index]) for index in (*times, *events))
    meaning = "event (1 or 0, dead or alive, …)" if has_times else "time (a number, 0 or more)"
    return f"{table_name}: {columns} could be of survival, but no cell is a readable {meaning}: not read"


def _cells(rows: Sequence[TextRow], index: int) -> list[str]:
    return [row.cells[index] for row in rows if len(row.cells) > index and not has_no_value(row.cells[index])]


def _readable(text: str, read: Callable[[str], object]) -> bool:
    try:
        read(text)
    except CellError:
        return False
    return True


def _any_readable(rows: Sequence[TextRow], index: int, read: Callable[[str], object]) -> bool:
    return any(_readable(text, read) for text in _cells(rows, index))


def _all_readable(rows: Sequence[TextRow], index: int, read: Callable[[str], object]) -> bool:
    cells = _cells(rows, index)
    return bool(cells) and all(_readable(text, read) for text in cells)
