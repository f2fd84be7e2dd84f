"""A table of labels beside the cohort, as the field's label files are: joined to the slides by whole ids.

With a header it names its columns as the cohort's own table does (id, label, time, event, with their aliases), which
says whose ids they are. Without, it has two columns, id and label, and its first row is a row.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from mhim_core.cohort.cells import TextRow, read_lines
from mhim_core.cohort.columns import FILE_NAMES, ID_NAMES, LABEL_NAMES, PATIENT_NAMES, strip_extension
from mhim_core.cohort.findings import Finding, Severity, listed, quote, quote_all
from mhim_core.cohort.ids import BARE_ID_NAMES, IdColumns, IdIndex, IdKind, find_id_columns
from mhim_core.cohort.rows import NO_PATIENT, OWN_PATIENT
from mhim_core.cohort.survival import SurvivalColumns, find_survival
from mhim_core.cohort.table import Cohort, no_label_note
from mhim_core.cohort.values import CellError, read_event, read_time
from mhim_core.errors import CohortError
from mhim_core.types import SlideId

TARGET_COLUMNS = ("label", "time", "event")
_HEADER_NAMES = {*LABEL_NAMES, *ID_NAMES, *BARE_ID_NAMES, *PATIENT_NAMES, *FILE_NAMES}
"""One of these makes a first row a header."""


class LabelCells(NamedTuple):
    """What the table says of one id."""

    label: str | None = None
    time: float | None = None
    event: bool | None = None


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The labels by id, in the table's order."""

    name: str
    kind: IdKind
    """Whose ids they are."""
    cells: dict[str, LabelCells]
    header: dict[str, str]
    """What the label, time and event columns are called; absent ones are not in it."""
    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each, to be printed."""


class _Layout(NamedTuple):
    """Where the columns are."""

    key: int
    """The id's; the table's first column where none is named so."""
    kind: IdKind
    label: int | None
    survival: SurvivalColumns | None


def read_labels(data: bytes, name: str) -> LabelTable:
    """Read a CSV or Parquet table of labels, with or without header.

    A first row is a header if one of its cells is a known name of an id, patient or label column. Raises CohortError
    where the columns cannot be told, and, listing the rows, for rows without id, ids with two different labels, and
    times and events that cannot be read.
    """
    lines = read_lines(data, name)
    named = [cell.strip().casefold() for cell in lines[0].cells]
    if _HEADER_NAMES.isdisjoint(named):
        _check_two_columns(lines, name)
        note = f"{name} has no header: its first row is read as an id and a label, like the others"
        return _table(lines, _Layout(0, IdKind.either, 1, None), name, {"label": "label"}, (note,))
    header, rows = lines[0].cells, lines[1:]
    if not rows:
        raise CohortError(f"{name}: the table has no rows")
    survival = find_survival(header, rows, name)
    ids = find_id_columns(named)
    _check_one_id(ids, header, name)
    key = ids.indices[0] if ids.indices else 0
    layout = _Layout(key, ids.kind, _label_column(header, named, name), survival.columns)
    if layout.label is None and layout.survival is None:
        more = "".join(f"; {note}" for note in survival.notes)
        raise CohortError(f"{name}: no column gives a label, or a time and an event{more}")
    columns: dict[str, int | None] = {"label": layout.label}
    if layout.survival is not None:
        columns |= {"time": layout.survival.time, "event": layout.survival.event}
    names = {key: header[index] for key, index in columns.items() if index is not None}
    return _table(rows, layout, name, names, survival.notes)


def join_labels(cohort: Cohort, labels: LabelTable) -> Cohort:
    """The cohort with the labels, times and events of the table in place of its own.

    Ids are compared whole, with slides' or patients' as the table's header says; where it does not, with both, and a
    slide's own row counts before its patient's. A slide that none matches is unlabelled. Raises CohortError if no id
    matches, or if one could be a slide's or another patient's and nothing says which.
    """
    index = IdIndex(cohort.rows)
    if ambiguity := index.ambiguity(labels.cells, labels.kind):
        raise CohortError(f"{labels.name}: {ambiguity}")
    cells = _cells_of_slides(labels, index)
    rows = tuple(row._replace(**cells.get(row.slide_id, LabelCells())._asdict()) for row in cohort.rows)
    with_target = {row.row for row in rows if (row.label, row.time, row.event) != LabelCells()}
    if not with_target:
        hint = index.other_kind(index.unknown(labels.cells, labels.kind), labels.kind)
        raise CohortError(
            f"{labels.name}: none of its {len(labels.cells)} {labels.kind.ids} gives a slide of {cohort.name} a label"
            f"{hint}; its first is {quote(next(iter(labels.cells)))}, the cohort's first slide "
            f"{quote(cohort.rows[0].slide_id)} of patient {quote(cohort.rows[0].patient_id)}; ids are compared whole"
        )
    header = {key: name for key, name in cohort.header.items() if key not in TARGET_COLUMNS}
    return replace(
        cohort,
        rows=rows,
        header=header | labels.header,
        findings=tuple(_patient_finding(finding, with_target) for finding in cohort.findings),
        notes=tuple(_notes(cohort, labels, index)),
    )


def _cells_of_slides(labels: LabelTable, index: IdIndex) -> dict[SlideId, LabelCells]:
    cells: dict[SlideId, LabelCells] = {}
    for kind in (IdKind.patient, IdKind.slide):  # in this order, so that a slide's own row overwrites its patient's
        if labels.kind in (kind, IdKind.either):
            for one, found in labels.cells.items():
                cells |= dict.fromkeys(index.slides(one, kind), found)
    return cells


def _check_two_columns(lines: Sequence[TextRow], name: str) -> None:
    for line in lines:
        if len(line.cells) < 2 or any(cell.strip() for cell in line.cells[2:]):
            raise CohortError(
                f"{name}: without a header, each row is an id and a label; row {line.row} has {len(line.cells)} cells. "
                "Add a header line that names the columns"
            )


def _check_one_id(ids: IdColumns, header: Sequence[str], name: str) -> None:
    if len(ids.indices) > 1:
        columns = ", ".join(quote(header[index]) for index in ids.indices)
        raise CohortError(f"{name}: columns {columns} could all be the id: keep one and rename the others")


def _label_column(header: Sequence[str], named: Sequence[str], name: str) -> int | None:
    found = [index for index, cell in enumerate(named) if cell in LABEL_NAMES]
    if len(found) > 1:
        columns = ", ".join(quote(header[index]) for index in found)
        raise CohortError(f"{name}: columns {columns} all mean the label: keep one and rename the others")
    return found[0] if found else None


def _table(
    rows: Sequence[TextRow], layout: _Layout, name: str, header: dict[str, str], notes: tuple[str, ...]
) -> LabelTable:
    cells: dict[str, LabelCells] = {}
    first_row: dict[str, int] = {}
    wrong = []
    for row in rows:
        try:
            key, found = _read_row(row, layout)
        except CellError as error:
            wrong.append(f"row {row.row}: {error}")
            continue
        if cells.setdefault(key, found) != found:
            wrong.append(f"row {row.row}: {quote(key)} has another label than in row {first_row[key]}")
        first_row.setdefault(key, row.row)
    if wrong:
        raise CohortError("\n  ".join([f"{name}: {len(wrong)} errors in the labels", *listed(wrong)]))
    return LabelTable(name=name, kind=layout.kind, cells=cells, header=header, notes=notes)


def _read_row(row: TextRow, layout: _Layout) -> tuple[str, LabelCells]:
    def cell(index: int | None) -> str:
        return row.cells[index] if index is not None and index < len(row.cells) else ""

    key = cell(layout.key).strip()
    key = key if layout.kind is IdKind.patient else strip_extension(key)
    if not key:
        raise CellError("the id is empty")
    label = cell(layout.label) or None
    if layout.survival is None:
        return key, LabelCells(label)
    event = partial(read_event, censorship=layout.survival.censorship)
    return key, LabelCells(label, read_time(cell(layout.survival.time)), event(cell(layout.survival.event)))


def _patient_finding(finding: Finding, with_target: Set[int]) -> Finding:
    """A slide needs a patient if, and only if, it has something to be learned from."""
    if finding.message not in (NO_PATIENT, OWN_PATIENT):
        return finding
    if finding.row in with_target:
        return finding._replace(message=NO_PATIENT, severity=Severity.ERROR)
    return finding._replace(message=OWN_PATIENT, severity=Severity.WARNING)


def _notes(cohort: Cohort, labels: LabelTable, index: IdIndex) -> Iterator[str]:
    yield from (note for note in cohort.notes if note != no_label_note(cohort.name))
    yield from labels.notes
    own = [quote(cohort.header[key]) for key in TARGET_COLUMNS if key in cohort.header]
    if own:
        yield f"{cohort.name}: its own {', '.join(own)} are not used, since {labels.name} gives the labels"
    unknown = index.unknown(labels.cells, labels.kind)
    if unknown:
        hint = index.other_kind(unknown, labels.kind)
        count = f"{len(unknown)} of {len(labels.cells)} {labels.kind.ids}"
        yield f"{labels.name}: {count} have no slide in {cohort.name}{hint}: {quote_all(unknown)}"
