"""From the table's bytes to text cells, exactly as written: `007` stays `007`."""

import csv
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mhim_core.cohort.dialects import CsvText, decode, find_csv, is_office_file, unpack
from mhim_core.cohort.limits import check_size
from mhim_core.cohort.spreadsheets import SAVE_AS_CSV, is_xlsx, read_sheet
from mhim_core.errors import CohortError
from mhim_core.tables import read_parquet

if TYPE_CHECKING:
    import pyarrow

_PARQUET_MAGIC = b"PAR1"
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"


class TextRow(NamedTuple):
    """One row as text; "" where the table has nothing."""

    row: int
    """The line (CSV) or 1-based row (Parquet, xlsx) for messages."""
    cells: list[str]


class TextTable(NamedTuple):
    """The header and its rows. A row may be longer or shorter than the header, which `RowReader` reports."""

    header: list[str]
    rows: list[TextRow]
    notes: tuple[str, ...] = ()
    """What was left out, one sentence each, to be printed."""


class TextLines(NamedTuple):
    """All lines that are not empty, at least one; the first may be a header."""

    rows: list[TextRow]
    notes: tuple[str, ...] = ()
    """As `TextTable`."""


def read_cells(data: bytes, name: str) -> TextTable:
    """Read a CSV, xlsx or Parquet table; a zip or gzip file that holds one is read like it.

    CSV: comma, semicolon or tab; UTF-8 with or without BOM, or UTF-16 with one; any line ends; Excel's `sep=` line and
    comment lines above the header are not read. `name` is for messages; the content decides how it is read. Raises
    CohortError, also for a table that is too large (`check_size`), before it takes the memory.
    """
    lines = read_lines(data, name)
    header, *rows = lines.rows
    if not rows:
        raise CohortError(f"{name}: the table has no rows")
    return TextTable(header.cells, rows, lines.notes)


def read_lines(data: bytes, name: str) -> TextLines:
    """As `read_cells`, for a table that may lack a header."""
    data = unpack(data, name)
    if data.startswith(_PARQUET_MAGIC):
        return TextLines(_read_parquet(data, name))
    if name.lower().endswith(".parquet"):
        raise CohortError(f"{name}: is named .parquet but does not start like a Parquet file")
    if is_xlsx(data):
        return TextLines(_read_xlsx(data, name))
    if data.startswith(_OLD_OFFICE) or (data.startswith(b"PK\x03\x04") and is_office_file(data)):
        raise CohortError(f"{name}: looks like a spreadsheet (ods, xls); {SAVE_AS_CSV}")
    return _read_csv(data, name)


def _read_csv(data: bytes, name: str) -> TextLines:
    table = find_csv(decode(data, name), name)
    try:
        rows = [row for row in _csv_rows(table, name) if any(row.cells)]
    except csv.Error as error:
        raise CohortError(f"{name}: not a CSV table ({error}); check the quotes") from None
    if not rows:
        raise CohortError(f"{name}: the table is empty")
    return TextLines(rows, table.notes)


def _csv_rows(table: CsvText, name: str) -> Iterator[TextRow]:
    reader = csv.reader(io.StringIO(table.text, newline=""), delimiter=table.delimiter, strict=True)
    start = num_cells = 0
    for cells in reader:
        num_cells += len(cells)
        check_size(name, num_columns=len(cells), num_cells=num_cells)
        yield TextRow(table.first_line + start, cells)
        start = reader.line_num  # a quoted cell may span lines: the row is named by its first


def _read_xlsx(data: bytes, name: str) -> list[TextRow]:
    rows = [TextRow(number, list(map(_cell_text, row))) for number, row in enumerate(read_sheet(data, name), start=1)]
    return [row for row in rows if any(row.cells)]


def _read_parquet(data: bytes, name: str) -> list[TextRow]:
    import pyarrow as pa

    try:
        table = read_parquet(data, dictionaries=_check_footer(data, name))
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    columns: list[list[str]] = []
    num_characters = 0
    for column in table.columns:
        columns.append([""] * len(column) if pa.types.is_nested(column.type) else _texts(column))
        num_characters += sum(map(len, columns[-1]))
        check_size(name, num_bytes=num_characters)
    rows = [TextRow(index + 1, list(cells)) for index, cells in enumerate(zip(*columns, strict=True))]
    return [TextRow(0, list(table.column_names)), *(row for row in rows if any(row.cells))]


def _check_footer(data: bytes, name: str) -> list[str]:
    """The columns to be read as dictionaries, since one long text may stand in a million rows that take no place.

    Raises CohortError where the file says that it holds too much; pyarrow.ArrowException.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    footer, leaves = file.metadata, file.schema
    check_size(name, num_rows=footer.num_rows, num_columns=footer.num_columns)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    check_size(
        name,
        num_bytes=sum(group.total_byte_size for group in groups),
        num_cells=sum(group.column(index).num_values for group in groups for index in range(group.num_columns)),
    )
    columns = [leaves.column(index) for index in range(footer.num_columns)]
    fixed = [leaf.length for leaf in columns if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY"]
    check_size(name, num_bytes=sum(fixed) * footer.num_rows)
    return [leaf.path for leaf in columns if leaf.physical_type == "BYTE_ARRAY" and leaf.path == leaf.name]


def _texts(column: "pyarrow.ChunkedArray") -> list[str]:
    """The cells of a column; those of a dictionary share their text."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return [_cell_text(value) for value in column.to_pylist()]
    texts: list[str] = []
    for chunk in column.chunks:
        words = [_cell_text(value) for value in chunk.dictionary.to_pylist()]
        texts.extend("" if index is None else words[index] for index in chunk.indices.to_pylist())
    return texts


def _cell_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # a data frame turns integers with gaps into floats: 1.0 was 1
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
