"""The cohort: the user's table of slides, read into rows whose every value is exactly what the table says."""

import math
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mhim_core.cohort.cells import TextRow, TextTable, read_cells
from mhim_core.cohort.columns import Columns, find_columns, has_slide_extension, strip_extension
from mhim_core.cohort.findings import Finding, Severity, quote
from mhim_core.errors import CohortError
from mhim_core.fingerprint import sha256
from mhim_core.types import PatientId, SlideId

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan", re.IGNORECASE | re.ASCII)  # float() takes 1_0 and ٣
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {alias: split for split, aliases in _SPLITS.items() for alias in aliases}


class CohortRow(NamedTuple):
    """One slide of the table."""

    slide_id: SlideId
    uri: str
    """An absolute path or an `s3://` URI."""
    patient_id: PatientId
    label: str | None = None
    mpp: float | None = None
    """µm/px of level 0; wins over the slide's own."""
    split: str | None = None
    """train | val | test."""
    site: str | None = None
    sha256: str | None = None
    row: int = 0
    """The line (CSV) or 1-based row (Parquet) for messages."""


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
    if all(_NUMBER.fullmatch(label) and not math.isnan(float(label)) for label in labels):
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    return tuple(sorted(labels, key=natural_key))


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key under which `slide2` comes before `slide10`; total, so that equal keys mean equal texts."""
    parts = re.split(r"([0-9]+)", text)
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], text


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
    reader = _RowReader(table.header, columns, base_uri)
    rows = tuple(reader.read(row) for row in table.rows)
    notes = []
    if columns.patient_id is None:
        notes.append(f"{name} has no patient column: each slide counts as a patient of its own")
    if columns.label is None:
        notes.append(f"{name} has no label column: its slides can be embedded and predicted, not trained on")
    header = {key: table.header[index] for key, index in columns._asdict().items() if index is not None}
    return Cohort(
        name=name,
        rows=rows,
        header=header,
        findings=tuple(reader.findings),
        notes=tuple(notes),
        sha256=sha256(data),
    )


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


class _RowReader:
    """Turns text rows into CohortRows and keeps the findings."""

    def __init__(self, header: Sequence[str], columns: Columns, base_uri: str) -> None:
        self.header = header
        self.columns = columns
        self.base_uri = base_uri if base_uri.startswith("s3://") else os.path.abspath(base_uri)
        self.findings: list[Finding] = []

    def read(self, text: TextRow) -> CohortRow:
        columns = self.columns
        cells = text.cells
        if len(cells) != len(self.header):
            message = f"{len(cells)} cells where the header has {len(self.header)}: quote cells that hold the delimiter"
            self.findings.append(Finding(text.row, cells[0], "", message))
            cells = (cells + [""] * len(self.header))[: len(self.header)]
        path = self._cell(cells, columns.path)
        if columns.slide_id is None or columns.slide_id == columns.path:
            slide_id = strip_extension(re.split(r"[/\\]", path)[-1])
        else:
            slide_id = strip_extension(self._cell(cells, columns.slide_id))
        place = _Place(self, text.row, slide_id)
        label = self._cell(cells, columns.label) or None
        return CohortRow(
            slide_id=SlideId(slide_id),
            uri=self._uri(path, place),
            patient_id=PatientId(self._patient(cells, label, place) or slide_id),
            label=label,
            mpp=self._mpp(self._cell(cells, columns.mpp), place),
            split=self._split(self._cell(cells, columns.split), place),
            site=self._cell(cells, columns.site) or None,
            sha256=self._sha256(self._cell(cells, columns.sha256), place),
            row=text.row,
        )

    def _cell(self, cells: list[str], index: int | None) -> str:
        return "" if index is None else cells[index]

    def _patient(self, cells: list[str], label: str | None, place: "_Place") -> str:
        patient = self._cell(cells, self.columns.patient_id)
        if not patient and self.columns.patient_id is not None:
            if label is not None:
                place.error(self.columns.patient_id, "the patient is empty: a labelled slide needs one")
            else:
                place.warn(self.columns.patient_id, "the patient is empty: the slide counts as a patient of its own")
        return patient

    def _uri(self, path: str, place: "_Place") -> str:
        column = self.columns.path
        if not path:
            place.error(column, "the path is empty")
            return ""
        if any(ord(character) < 32 or ord(character) == 127 for character in path):
            place.error(column, f"the path {quote(path)} holds a control character")
            return ""
        if path.startswith("file:///"):
            path = path.removeprefix("file://")
        if _SCHEME.match(path) and not path.startswith("s3://"):
            place.error(column, f"{quote(path)} is neither a path nor an s3:// URI")
            return ""
        if path.startswith("s3://"):
            return path
        if not self.base_uri.startswith("s3://") or path.startswith("/"):
            return os.path.normpath(os.path.join(self.base_uri, path))
        bucket, _, prefix = self.base_uri.removeprefix("s3://").partition("/")
        key = posixpath.normpath(posixpath.join(prefix, path))
        if key.startswith("../"):
            place.error(column, f"{quote(path)} leads out of the bucket {bucket}")
            return ""
        return f"s3://{bucket}/{key}"

    def _mpp(self, text: str, place: "_Place") -> float | None:
        text = text.strip()
        if not text:
            return None
        if not _NUMBER.fullmatch(text) or math.isinf(float(text)):
            hint = f"; write {text.replace(',', '.')}" if _NUMBER.fullmatch(text.replace(",", ".", 1)) else ""
            place.error(self.columns.mpp, f"{quote(text)} is not a number of µm per pixel{hint}")
            return None
        value = float(text)
        if value > 0:
            return value
        place.warn(self.columns.mpp, f"{text} is no resolution: the slide's own is used, or it fails with no_mpp")
        return None

    def _split(self, text: str, place: "_Place") -> str | None:
        split = _SPLIT_OF.get(text.strip().casefold())
        if split is None and text:
            place.error(self.columns.split, f"{quote(text)} is none of train, val, test")
        return split

    def _sha256(self, text: str, place: "_Place") -> str | None:
        digest = text.strip().lower()
        if digest and not _SHA256.fullmatch(digest):
            place.error(self.columns.sha256, f"{quote(text)} is not a sha256 (64 hexadecimal digits)")
            return None
        return digest or None


class _Place(NamedTuple):
    """Where a finding belongs."""

    reader: _RowReader
    row: int
    slide_id: str

    def error(self, column: int | None, message: str) -> None:
        self._add(column, message, Severity.ERROR)

    def warn(self, column: int | None, message: str) -> None:
        self._add(column, message, Severity.WARNING)

    def _add(self, column: int | None, message: str, severity: Severity) -> None:
        name = "" if column is None else self.reader.header[column]
        self.reader.findings.append(Finding(self.row, self.slide_id, name, message, severity))
