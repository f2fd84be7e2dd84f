"""One row of the cohort, and how its cells become values or findings."""

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from mhim_core.cohort.cells import TextRow
from mhim_core.cohort.columns import Columns, has_slide_extension, strip_extension, strip_feature_extension
from mhim_core.cohort.findings import Finding, Severity, quote
from mhim_core.cohort.slide_names import slide_id_of
from mhim_core.cohort.survival import SurvivalColumns
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.cohort.values import (
    NUMBER,
    CellError,
    has_no_value,
    is_decimal_comma,
    read_event,
    read_fold,
    read_sha256,
    read_site,
    read_split,
    read_time,
    word_key,
)
from mhim_core.fingerprint import neutral_fields
from mhim_core.types import PatientId, SlideId

NO_PATIENT = "the patient is empty: a labelled slide needs one"
OWN_PATIENT = "the patient is empty: the slide counts as a patient of its own"
Value = TypeVar("Value")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@neutral_fields(annotation="", mask="")
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
    time: float | None = None
    """Length of follow-up, until the event or the last visit, in the table's unit; 0 or more."""
    event: bool | None = None
    """True: observed at `time`; False: censored, not observed until `time`."""
    fold: int | None = None
    """The fold that tests the slide's patient."""
    row: int = 0
    """The line (CSV) or 1-based row (Parquet) for messages."""
    annotation: str = ""
    """The file of the slide's annotated regions, an absolute path or an `s3://` URI; empty: the table names none."""
    mask: str = ""
    """The picture of its tissue, in the same way."""

    @property
    def is_labelled(self) -> bool:
        """Whether it has a target: a label, or a time with its event."""
        return self.label is not None or (self.time is not None and self.event is not None)


class LabelReader:
    """Turns label cells into labels, and counts the words that mean "no label"."""

    def __init__(self, options: TableOptions) -> None:
        self.words = options.missing_words()
        self.missing: Counter[str] = Counter()

    def read(self, cell: str) -> str | None:
        """The label exactly as written; None where there is none."""
        if not cell.strip():
            return None
        if word_key(cell) not in self.words:
            return cell
        self.missing[cell.strip()] += 1
        return None

    def notes(self, table_name: str) -> tuple[str, ...]:
        """Which words counted as no label, and how to make them classes."""
        if not self.missing:
            return ()
        counts = ", ".join(f"{quote(word)} {number}" for word, number in sorted(self.missing.items()))
        total = sum(self.missing.values())
        return (
            f"{table_name}: {total} label cells with words for no label count as empty: {counts} "
            "(na_values= without such a word makes it a class)",
        )


class RowReader:
    """Turns text rows into CohortRows and keeps the findings."""

    def __init__(
        self,
        header: Sequence[str],
        columns: Columns,
        survival: SurvivalColumns | None,
        base_uri: str,
        options: TableOptions = AS_FOUND,
        table_uri: str = "",
    ) -> None:
        """`base_uri`: what the slides' paths are relative to; `table_uri`: those of other files, "" for the same."""
        self.header = header
        self.columns = columns
        self.survival = survival
        self.base_uri = _absolute(base_uri)
        self.table_uri = _absolute(table_uri or base_uri)
        self.findings: list[Finding] = []
        self.labels = LabelReader(options)
        self.extension = options.dotted_extension

    def read(self, text: TextRow) -> CohortRow:
        columns = self.columns
        cells = text.cells
        if len(cells) != len(self.header):
            message = f"{len(cells)} cells where the header has {len(self.header)}: quote cells that hold the delimiter"
            self.findings.append(Finding(text.row, cells[0], "", message))
            cells = (cells + [""] * len(self.header))[: len(self.header)]
        path = self._path(cells)
        if columns.slide_id is None or columns.slide_id == columns.path:
            slide_id = slide_id_of(path)
        else:
            slide_id = strip_extension(self._cell(cells, columns.slide_id))
        place = _Place(self, text.row, slide_id)
        label = self.labels.read(self._cell(cells, columns.label))
        time, event = self._survival(cells, place)
        has_target = label is not None or time is not None or event is not None
        return CohortRow(
            slide_id=SlideId(slide_id),
            uri=self._uri(path, place),
            patient_id=PatientId(self._patient(cells, has_target, place) or slide_id),
            label=label,
            mpp=self._mpp(self._cell(cells, columns.mpp), place),
            split=place.read(read_split, cells, columns.split),
            site=read_site(self._cell(cells, columns.site)),
            sha256=place.read(read_sha256, cells, columns.sha256),
            time=time,
            event=event,
            fold=place.read(read_fold, cells, columns.fold),
            row=text.row,
            annotation=self._beside(self._cell(cells, columns.annotation)),
            mask=self._beside(self._cell(cells, columns.mask)),
        )

    def _cell(self, cells: list[str], index: int | None) -> str:
        return "" if index is None else cells[index]

    def _path(self, cells: list[str]) -> str:
        """The cell, with the extension that the options add where it names no slide file."""
        path = self._cell(cells, self.columns.path)
        if not path.strip() or not self.extension or has_slide_extension(path):
            return path
        return strip_feature_extension(path) + self.extension

    def _survival(self, cells: list[str], place: "_Place") -> tuple[float | None, bool | None]:
        if self.survival is None:
            return None, None
        event = partial(read_event, censorship=self.survival.censorship)
        return place.read(read_time, cells, self.survival.time), place.read(event, cells, self.survival.event)

    def _patient(self, cells: list[str], has_target: bool, place: "_Place") -> str:
        patient = self._cell(cells, self.columns.patient_id)
        patient = "" if has_no_value(patient) else patient  # many slides of `NA` would be one patient
        if not patient and self.columns.patient_id is not None:
            if has_target:
                place.error(self.columns.patient_id, NO_PATIENT)
            else:
                place.warn(self.columns.patient_id, OWN_PATIENT)
        return patient

    def _beside(self, path: str) -> str:
        """The place of a file beside the table. What is none fails when it is read: many tables have such a column for
        something else, and it is read only where it is asked for."""
        path = "" if has_no_value(path) else path.strip()
        if not path or path.startswith("s3://"):
            return path
        if not self.table_uri.startswith("s3://") or path.startswith("/"):
            return os.path.normpath(os.path.join(self.table_uri, path))
        return f"{self.table_uri.rstrip('/')}/{path}"

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
        if not NUMBER.fullmatch(text) and has_no_value(text):
            return None
        if not NUMBER.fullmatch(text) or math.isinf(float(text)):
            hint = f"; write {text.replace(',', '.')}" if is_decimal_comma(text) else ""
            place.error(self.columns.mpp, f"{quote(text)} is not a number of µm per pixel{hint}")
            return None
        value = float(text)
        if value > 0:
            return value
        place.warn(self.columns.mpp, f"{text} is not a resolution: the slide's own is used, or it fails with no_mpp")
        return None


def _absolute(uri: str) -> str:
    return uri if uri.startswith("s3://") else os.path.abspath(uri)


class _Place(NamedTuple):
    """Where a finding belongs."""

    reader: RowReader
    row: int
    slide_id: str

    def read(self, read: Callable[[str], Value | None], cells: Sequence[str], column: int | None) -> Value | None:
        """The cell's value; None where the table has no such column, or, with a finding, where it cannot be read."""
        try:
            return None if column is None else read(cells[column])
        except CellError as error:
            self.error(column, str(error))
            return None

    def error(self, column: int | None, message: str) -> None:
        self._add(column, message, Severity.ERROR)

    def warn(self, column: int | None, message: str) -> None:
        self._add(column, message, Severity.WARNING)

    def _add(self, column: int | None, message: str, severity: Severity) -> None:
        name = "" if column is None else self.reader.header[column]
        self.reader.findings.append(Finding(self.row, self.slide_id, name, message, severity))
