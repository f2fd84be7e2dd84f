"""The cohort: the user's table of slides, read into rows whose every value is exactly what the table says."""

from dataclasses import dataclass, field

from mhim_core.cohort.cells import TextTable, read_cells
from mhim_core.cohort.columns import Columns, find_columns, has_slide_extension
from mhim_core.cohort.findings import Finding, quote
from mhim_core.cohort.order import natural_key as natural_key
from mhim_core.cohort.rows import CohortRow as CohortRow
from mhim_core.cohort.rows import RowReader
from mhim_core.cohort.survival import find_survival
from mhim_core.cohort.values import number_of
from mhim_core.errors import CohortError
from mhim_core.fingerprint import sha256


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The table's rows in its order, and what reading it found. `cohort.check` judges it."""

    name: str
    rows: tuple[CohortRow, ...]
    header: dict[str, str]
    """What each known column is called in the table: {"patient_id": "PATIENT", …}; absent columns are not in it."""
    findings: tuple[Finding, ...] = ()
    """Cells that could not be read."""
    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each, to be printed."""
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


def read_cohort(data: bytes, *, name: str, base_uri: str) -> Cohort:
    """Read the table of slides.

    `data`: the bytes of a CSV or Parquet file; `name`: what to call it in messages; `base_uri`: the folder or
    `s3://bucket/prefix` it lies in, against which relative paths are resolved. Columns, with their aliases, are in
    `cohort.columns`; others are not read. Raises CohortError if the table as a whole cannot be understood; what is
    wrong with single cells is in `Cohort.findings`.
    """
    table = read_cells(data, name)
    columns = find_columns(table.header, name)
    columns = _with_path(columns, table, name)
    survival = find_survival(table.header, table.rows, name)
    reader = RowReader(table.header, columns, survival.columns, base_uri)
    rows = tuple(reader.read(row) for row in table.rows)
    notes = [*survival.notes]
    if columns.patient_id is None:
        notes.append(f"{name} has no patient column: each slide counts as a patient of its own")
    if columns.label is None and survival.columns is None:
        notes.append(no_label_note(name))
    header = {key: table.header[index] for key, index in columns._asdict().items() if index is not None}
    if survival.columns is not None:
        header |= {"time": table.header[survival.columns.time], "event": table.header[survival.columns.event]}
    return Cohort(
        name=name,
        rows=rows,
        header=header,
        findings=tuple(reader.findings),
        notes=tuple(notes),
        sha256=sha256(data),
    )


def no_label_note(name: str) -> str:
    """What is said of a table that has nothing to learn from."""
    return f"{name} has no label column: its slides can be embedded and predicted, not trained on"


def _with_path(columns: Columns, table: TextTable, name: str) -> Columns:
    """Without a path column the slide column is the path, if it holds file names."""
    if columns.path is not None or columns.slide_id is None:
        return columns
    index = columns.slide_id
    values = [row.cells[index] for row in table.rows if len(row.cells) > index]
    if not any(has_slide_extension(value) for value in values):
        first = f" (its first value is {quote(values[0])})" if values else ""
        raise CohortError(
            f"{name}: no column gives the slides' files, and {quote(table.header[index])} holds no file names{first}; "
            "add a column `path`"
        )
    return columns._replace(path=index)
