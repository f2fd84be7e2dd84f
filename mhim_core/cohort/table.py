"""The cohort: the user's table of slides, read into rows whose values are exactly those of the table."""

from dataclasses import dataclass, field

from mhim_core.cohort.cells import TextTable, read_cells
from mhim_core.cohort.columns import Columns, column_key, find_columns, has_slide_extension, strip_feature_extension
from mhim_core.cohort.findings import Finding, quote, quote_all
from mhim_core.cohort.order import natural_key as natural_key
from mhim_core.cohort.rows import CohortRow as CohortRow
from mhim_core.cohort.rows import RowReader
from mhim_core.cohort.survival import find_survival
from mhim_core.cohort.task_options import AS_FOUND, PatientUnit, TableOptions
from mhim_core.cohort.values import CellError, number_of, read_fold, read_split
from mhim_core.errors import CohortError
from mhim_core.fingerprint import sha256


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The table's rows in its order, with what could not be read; `cohort.check` validates it."""

    name: str
    rows: tuple[CohortRow, ...]
    header: dict[str, str]
    """What each known column is called in the table: {"patient_id": "PATIENT", …}; absent columns are not in it."""
    findings: tuple[Finding, ...] = ()
    """Cells that could not be read."""
    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each, to be printed."""
    target_notes: tuple[str, ...] = ()
    """Those of the notes that are about the table's own labels, times and events."""
    unread: tuple[str, ...] = ()
    """The columns without a known meaning, as the table spells them."""
    likely_splits: tuple[str, ...] = ()
    """Those of them that seem to hold train, val and test, or folds, where no such column is read."""
    patients_are_slides: bool = False
    """The user stated that every slide is a patient of its own."""
    sha256: str = field(default="")
    """Of the table's bytes."""

    @property
    def derives_ids(self) -> bool:
        """True where slide ids come from file names, because the table has no id column."""
        return "slide_id" not in self.header or self.header["slide_id"] == self.header.get("path")

    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted: as numbers if all are, else with the digits inside compared as numbers.

        The index in it is the class index; of two classes the second is the positive one.
        """
        return sort_labels({row.label for row in self.rows if row.label is not None})


def sort_labels(labels: set[str]) -> tuple[str, ...]:
    """`{"10", "9"}` → `("9", "10")`, `{"grade 10", "grade 2"}` → `("grade 2", "grade 10")`."""
    if all(number_of(label) is not None for label in labels):
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    return tuple(sorted(labels, key=natural_key))


def read_cohort(data: bytes, *, name: str, base_uri: str, options: TableOptions = AS_FOUND) -> Cohort:
    """Read the table of slides.

    `data`: the bytes of a CSV, xlsx or Parquet file; `name`: what to call it in messages; `base_uri`: the folder or
    `s3://bucket/prefix` it lies in, against which relative paths are resolved where `options.slides_dir` says nothing.
    Columns, with their aliases, are in `cohort.columns`; others are not read. Raises CohortError if the table as a
    whole cannot be understood; what is wrong with single cells is in `Cohort.findings`.
    """
    table = read_cells(data, name)
    columns = find_columns(table.header, name, options)
    columns = _with_path(columns, table, name, options)
    survival = find_survival(table.header, table.rows, name, options)
    reader = RowReader(table.header, columns, survival.columns, options.slides_dir or base_uri, options, base_uri)
    rows = tuple(reader.read(row) for row in table.rows)
    header = {key: table.header[index] for key, index in columns._asdict().items() if index is not None}
    if survival.columns is not None:
        header |= {"time": table.header[survival.columns.time], "event": table.header[survival.columns.event]}
    unread = tuple(cell for cell in table.header if cell.strip() and cell not in header.values())
    target_notes = [*survival.notes, *reader.labels.notes(name)]
    if columns.label is None and survival.columns is None:
        target_notes.append(_no_label_note(name, unread))
    no_patients = () if columns.patient_id is not None else (_no_patient_note(name, options),)
    return Cohort(
        name=name,
        rows=rows,
        header=header,
        findings=tuple(reader.findings),
        notes=(*table.notes, *no_patients, *target_notes),
        target_notes=tuple(target_notes),
        unread=unread,
        likely_splits=() if {"split", "fold"} & header.keys() else _likely_splits(table, unread),
        patients_are_slides=options.patients is PatientUnit.slides,
        sha256=sha256(data),
    )


def require_patients(cohort: Cohort) -> None:
    """Refuse to split a cohort without patients. Raises CohortError naming its unread columns."""
    if "patient_id" in cohort.header or cohort.patients_are_slides:
        return
    columns = f"; its columns {quote_all(cohort.unread)} are not read" if cohort.unread else ""
    raise CohortError(
        f"{cohort.name} has no patient column{columns}. Slides of one patient in training and test make a model look "
        "better than it is: name the column (patient_column=), or set patients=slides if every slide is a patient of "
        "its own"
    )


def _no_patient_note(name: str, options: TableOptions) -> str:
    if options.patients is PatientUnit.slides:
        return f"patients=slides: each slide of {name} counts as a patient of its own"
    return (
        f"{name} has no patient column: each slide counts as a patient of its own, and training refuses that unless "
        "patients=slides says so"
    )


def _no_label_note(name: str, unread: tuple[str, ...]) -> str:
    columns = f" (label_column= names one of {quote_all(unread)})" if unread else ""
    return f"{name} has no label column{columns}: its slides can be embedded and predicted, not trained on"


def _likely_splits(table: TextTable, unread: tuple[str, ...]) -> tuple[str, ...]:
    """The unread columns whose cells are parts, or folds if the name says so."""
    likely = []
    for name in unread:
        index = table.header.index(name)
        cells = [row.cells[index] for row in table.rows if len(row.cells) > index and row.cells[index].strip()]
        read = read_fold if "fold" in column_key(name) else read_split
        try:
            if len({read(cell) for cell in cells}) > 1:
                likely.append(name)
        except CellError:
            continue
    return tuple(likely)


def _with_path(columns: Columns, table: TextTable, name: str, options: TableOptions) -> Columns:
    """Without a path column the slide column is the path, if it holds file names or an extension makes it so."""
    if columns.path is not None or columns.slide_id is None:
        return columns
    index = columns.slide_id
    values = [row.cells[index] for row in table.rows if len(row.cells) > index]
    if not options.extension and not any(has_slide_extension(value) for value in values):
        first = f" (its first value is {quote(values[0])})" if values else ""
        holds = "files of features" if values and strip_feature_extension(values[0]) != values[0] else "no file names"
        raise CohortError(
            f"{name}: no column gives the slides' files, and {quote(table.header[index])} holds {holds}{first}; "
            "add a column `path`, or set slides_dir= and extension=.svs, the folder and the extension of the slides"
        )
    return columns._replace(path=index)
