"""A table of labels beside the cohort's own, as other tools write it: joined to the slides by whole ids.

With a header, its columns are named as in the cohort's own table (id, label, time, event, with their aliases), which
also says whether the ids are slides' or patients'; of several columns of ids, the one that the cohort knows is taken.
Without a header, it has two columns, id and label, from its first row on.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from mhim_core.cohort.cells import TextRow, read_lines
from mhim_core.cohort.columns import (
    FILE_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    PATIENT_NAMES,
    is_named,
    named_column,
    strip_extension,
)
from mhim_core.cohort.findings import Finding, Severity, listed, quote, quote_all
from mhim_core.cohort.ids import BARE_ID_NAMES, IdIndex, IdKind, id_candidates, whole_id
from mhim_core.cohort.rows import NO_PATIENT, OWN_PATIENT, LabelReader
from mhim_core.cohort.survival import SurvivalColumns, find_survival
from mhim_core.cohort.table import Cohort
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.cohort.values import CellError, read_event, read_time
from mhim_core.errors import CohortError
from mhim_core.types import SlideId

TARGET_COLUMNS = ("label", "time", "event")
_HEADER_NAMES = (*LABEL_NAMES, *ID_NAMES, *BARE_ID_NAMES, *PATIENT_NAMES, *FILE_NAMES)
"""A first row with one of these is a header."""
_FAR_MORE = 2
"""A column of ids with a less specific name is taken if the cohort knows over this many times as many of its ids."""


class LabelCells(NamedTuple):
    """The table's values for one id."""

    label: str | None = None
    time: float | None = None
    event: bool | None = None


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The labels by id, in the table's order."""

    name: str
    kind: IdKind
    """Of its ids."""
    cells: dict[str, LabelCells]
    header: dict[str, str]
    """What the label, time and event columns are called; absent ones are not in it."""
    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each, to be printed."""
    id_column: str = ""
    """What the column of the ids is called; empty: the table has no header, or no name says so."""
    alternatives: tuple["LabelTable", ...] = ()
    """The same labels by other columns of ids."""
    errors: tuple[str, ...] = ()
    """Rows that cannot be read with this id column; the table is refused if it is used."""


class _Layout(NamedTuple):
    """Where the columns are."""

    key: int
    """The id's; the table's first column where none is named so."""
    kind: IdKind
    label: int | None
    survival: SurvivalColumns | None


def read_labels(data: bytes, name: str, options: TableOptions = AS_FOUND) -> LabelTable:
    """Read a CSV, xlsx or Parquet table of labels, with or without header.

    A first row is a header if one of its cells is a known name of an id, patient or label column, or if the options
    name a column. Raises CohortError where the columns cannot be told, and, listing the rows, for rows without id, ids
    with two different labels, and times and events that cannot be read.
    """
    lines = read_lines(data, name)
    header, rows = lines.rows[0].cells, lines.rows[1:]
    if not _is_header(header, options):
        _check_two_columns(lines.rows, name)
        note = f"{name} has no header: its first row is read as an id and a label, like the others"
        table = _table(lines.rows, _Layout(0, IdKind.either, 1, None), name, {"label": "label"}, options)
        return _without_errors(replace(table, notes=(*lines.notes, note, *table.notes)))
    if not rows:
        raise CohortError(f"{name}: the table has no rows")
    survival = find_survival(header, rows, name, options)
    label = _label_column(header, name, options)
    if label is None and survival.columns is None:
        more = "".join(f"; {note}" for note in survival.notes)
        columns = ", ".join(quote(cell, 40) for cell in header[:12])
        raise CohortError(
            f"{name}: no column gives a label, or a time and an event{more}; its columns are {columns}, of which "
            "label_column= may name one"
        )
    targets = {"label": label}
    if survival.columns is not None:
        targets |= {"time": survival.columns.time, "event": survival.columns.event}
    names = {key: header[index] for key, index in targets.items() if index is not None}
    tables = []
    for key, kind in _id_columns(header, name, options):
        table = _table(rows, _Layout(key, kind, label, survival.columns), name, names, options)
        tables.append(replace(table, id_column=header[key], notes=(*lines.notes, *survival.notes, *table.notes)))
    first, *alternatives = tables
    return replace(first, alternatives=tuple(alternatives)) if alternatives else _without_errors(first)


def join_labels(cohort: Cohort, labels: LabelTable) -> Cohort:
    """The cohort with the labels, times and events of the table in place of its own.

    Ids are compared whole, with slides' or patients' as the table's header says; where it does not, with both, and a
    slide's own row counts before its patient's. Of several columns of ids, one that the cohort knows far better than
    the most telling one is taken, and a note says so. A slide that none matches is unlabelled. Raises CohortError if no
    id matches, or if one could be a slide's or another patient's and nothing says which.
    """
    index = IdIndex(cohort.rows)
    labels = _without_errors(_best_known(labels, index))
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
    _check_near_misses(cohort, labels, index, cells)
    header = {key: name for key, name in cohort.header.items() if key not in TARGET_COLUMNS}
    return replace(
        cohort,
        rows=rows,
        header=header | labels.header,
        findings=tuple(_patient_finding(finding, with_target) for finding in cohort.findings),
        notes=tuple(_notes(cohort, labels, index)),
        target_notes=(),
    )


def _check_near_misses(cohort: Cohort, labels: LabelTable, index: IdIndex, cells: Mapping[SlideId, LabelCells]) -> None:
    """Raises CohortError for near misses of the ids of slides that get no label.

    The table may cover more than the cohort, but no slide may lose its label because of a capital or a zero.
    """
    near = index.near_misses(index.unknown(labels.cells, labels.kind), labels.kind)
    missed = {
        listed_id: twin
        for listed_id, twin in near.items()
        if any(s not in cells for s in index.slides(twin, labels.kind))
    }
    if missed:
        pairs = listed([f"{quote(listed_id)} ({quote(twin)} there)" for listed_id, twin in missed.items()])
        raise CohortError(
            f"{labels.name}: {len(missed)} ids differ from those of {cohort.name} only in case, blanks or leading "
            f"zeros, which leaves these without a label: {', '.join(pairs)}; write them alike"
        )


def _is_header(cells: Sequence[str], options: TableOptions) -> bool:
    """Of a table's first row. Where an option names a column of labels or times, there must be a header."""
    if options.named_columns().keys() & {"label_column", "time_column", "event_column"}:
        return True
    names = (*_HEADER_NAMES, *options.named_columns().values())
    return any(is_named(cell, names) for cell in cells)


def _best_known(labels: LabelTable, index: IdIndex) -> LabelTable:
    """The table with the id column that the cohort knows."""
    if not labels.alternatives:
        return labels
    tables = (labels, *labels.alternatives)
    known = [len(table.cells) - len(index.unknown(table.cells, table.kind)) for table in tables]
    best = max(range(len(tables)), key=lambda place: (known[place], -place))
    if known[best] <= _FAR_MORE * known[0]:
        return labels
    chosen = tables[best]
    counts = f"the cohort knows {known[best]} of its {len(chosen.cells)}"
    passed_over = f"{known[0]} of the {len(labels.cells)} of {quote(labels.id_column)}"
    note = f"{chosen.name}: the ids are taken from {quote(chosen.id_column)}: {counts}, and {passed_over}"
    return replace(chosen, notes=(*chosen.notes, note))


def _without_errors(table: LabelTable) -> LabelTable:
    """Raises CohortError listing the rows that cannot be read."""
    if table.errors:
        lines = listed(table.errors)
        raise CohortError("\n  ".join([f"{table.name}: {len(table.errors)} errors in the labels", *lines]))
    return table


def _cells_of_slides(labels: LabelTable, index: IdIndex) -> dict[SlideId, LabelCells]:
    """The label cells of each slide. Raises CohortError where two ids of one slide or patient (17, 17.0) disagree."""
    cells: dict[SlideId, LabelCells] = {}
    for kind in (IdKind.patient, IdKind.slide):  # in this order, so that a slide's own row overwrites its patient's
        if labels.kind not in (kind, IdKind.either):
            continue
        giver: dict[SlideId, str] = {}
        for listed_id, row_cells in labels.cells.items():
            for slide_id in index.slides(listed_id, kind):
                first_id = giver.setdefault(slide_id, listed_id)
                if labels.cells[first_id] != row_cells:
                    raise CohortError(
                        f"{labels.name}: {quote(listed_id)} and {quote(first_id)} both name slide {quote(slide_id)}, "
                        "and have different labels"
                    )
                cells[slide_id] = row_cells
    return cells


def _check_two_columns(lines: Sequence[TextRow], name: str) -> None:
    for line in lines:
        if len(line.cells) < 2 or any(cell.strip() for cell in line.cells[2:]):
            raise CohortError(
                f"{name}: without a header, each row is an id and a label; row {line.row} has {len(line.cells)} cells. "
                "Add a header line that names the columns"
            )


def _id_columns(header: Sequence[str], name: str, options: TableOptions) -> list[tuple[int, IdKind]]:
    """The columns that could be the id, the most telling first; the table's first one where no name says so."""
    named = set(options.named_columns().values())
    for key, kind in (("id_column", IdKind.slide), ("patient_column", IdKind.patient)):
        wanted = getattr(options, key)
        if wanted and any(is_named(cell, [wanted]) for cell in header):
            column = named_column(header, wanted, key, name)
            # of its own table an id's column may be slides' or patients', as its name says
            kinds = [candidate.kind for candidate in id_candidates([header[column]])]
            return [(column, IdKind.patient if kind is IdKind.patient else (kinds or [IdKind.either])[0])]
    candidates = []
    for candidate in id_candidates([cell if cell not in named else "" for cell in header]):
        if len(candidate.indices) > 1:
            columns = ", ".join(quote(header[index]) for index in candidate.indices)
            raise CohortError(
                f"{name}: columns {columns} could all be the id: id_column= names the one that is, or keep one and "
                "rename the others"
            )
        candidates.append((candidate.indices[0], candidate.kind))
    return candidates or [(0, IdKind.either)]


def _label_column(header: Sequence[str], name: str, options: TableOptions) -> int | None:
    if options.label_column:
        return named_column(header, options.label_column, "label_column", name)
    if options.time_column or options.event_column:
        return None
    matches = [index for index, cell in enumerate(header) if is_named(cell, LABEL_NAMES)]
    if len(matches) > 1:
        columns = ", ".join(quote(header[index]) for index in matches)
        raise CohortError(
            f"{name}: columns {columns} all mean the label: label_column= names the one that counts, or keep one and "
            "rename the others"
        )
    return matches[0] if matches else None


def _table(
    rows: Sequence[TextRow], layout: _Layout, name: str, header: dict[str, str], options: TableOptions
) -> LabelTable:
    cells: dict[str, LabelCells] = {}
    first_row: dict[str, int] = {}
    errors = []
    labels = LabelReader(options)
    for row in rows:
        try:
            key, row_cells = _read_row(row, layout, labels)
        except CellError as error:
            errors.append(f"row {row.row}: {error}")
            continue
        if cells.setdefault(key, row_cells) != row_cells:
            errors.append(f"row {row.row}: {quote(key)} has another label than in row {first_row[key]}")
        first_row.setdefault(key, row.row)
    return LabelTable(
        name=name, kind=layout.kind, cells=cells, header=header, notes=labels.notes(name), errors=tuple(errors)
    )


def _read_row(row: TextRow, layout: _Layout, labels: LabelReader) -> tuple[str, LabelCells]:
    def cell(index: int | None) -> str:
        return row.cells[index] if index is not None and index < len(row.cells) else ""

    key = cell(layout.key).strip()
    key = key if layout.kind is IdKind.patient else strip_extension(key)
    if not key:
        raise CellError("the id is empty")
    label = labels.read(cell(layout.label))
    if layout.survival is None:
        return key, LabelCells(label)
    event = partial(read_event, censorship=layout.survival.censorship)
    return key, LabelCells(label, read_time(cell(layout.survival.time)), event(cell(layout.survival.event)))


def _patient_finding(finding: Finding, with_target: Set[int]) -> Finding:
    """A slide needs a patient if, and only if, it has a target."""
    if finding.message not in (NO_PATIENT, OWN_PATIENT):
        return finding
    if finding.row in with_target:
        return finding._replace(message=NO_PATIENT, severity=Severity.ERROR)
    return finding._replace(message=OWN_PATIENT, severity=Severity.WARNING)


def _notes(cohort: Cohort, labels: LabelTable, index: IdIndex) -> Iterator[str]:
    yield from (note for note in cohort.notes if note not in cohort.target_notes)
    yield from labels.notes
    if whole := index.as_whole(labels.cells, labels.kind):
        first = f"{quote(whole[0])} as {quote(whole_id(whole[0]))}"
        yield f"{labels.name}: {len(whole)} ids are read as whole numbers, {first}"
    own = [quote(cohort.header[key]) for key in TARGET_COLUMNS if key in cohort.header]
    if own:
        yield f"{cohort.name}: its own {', '.join(own)} are not used, since {labels.name} gives the labels"
    unknown = index.unknown(labels.cells, labels.kind)
    if unknown:
        hint = index.other_kind(unknown, labels.kind)
        count = f"{len(unknown)} of {len(labels.cells)} {labels.kind.ids}"
        yield f"{labels.name}: {count} have no slide in {cohort.name}{hint}: {quote_all(unknown)}"
