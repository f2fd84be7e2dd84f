"""From the table's bytes to text cells, exactly as written: `007` stays `007`."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from mhim_core.errors import CohortError
from mhim_core.tables import read_parquet

_PARQUET_MAGIC = b"PAR1"


class TextRow(NamedTuple):
    """One row as text; "" where the table has nothing."""

    row: int
    """The line (CSV) or 1-based row (Parquet) for messages."""
    cells: list[str]


class TextTable(NamedTuple):
    """The header and its rows. A row may be longer or shorter than the header: the reader says so."""

    header: list[str]
    rows: list[TextRow]


def read_cells(data: bytes, name: str) -> TextTable:
    """Read a CSV (comma, semicolon or tab; UTF-8 with or without BOM; any line ends) or Parquet table.

    `name` serves messages; the content decides what it is. Raises CohortError with what was found.
    """
    header, *rows = read_lines(data, name)
    if not rows:
        raise CohortError(f"{name}: the table has no rows")
    return TextTable(header.cells, rows)


def read_lines(data: bytes, name: str) -> list[TextRow]:
    """As `read_cells`, for a table that may be without header: all its lines that hold anything, at least one."""
    if data.startswith(_PARQUET_MAGIC):
        return _read_parquet(data, name)
    if name.lower().endswith(".parquet"):
        raise CohortError(f"{name}: is named .parquet but does not start like a Parquet file")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise CohortError(f"{name}: looks like a spreadsheet (xlsx, ods, xls); save it as CSV (UTF-8)")
    return _read_csv(data, name)


def _read_csv(data: bytes, name: str) -> list[TextRow]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CohortError(f"{name}: line {line} is not UTF-8 text; save the table as CSV (UTF-8)") from None
    header_line = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)  # the first of equals: a comma where there is one column
    try:
        rows = [row for row in _csv_rows(text, delimiter) if any(row.cells)]
    except csv.Error as error:
        raise CohortError(f"{name}: not a CSV table ({error}); check the quotes") from None
    if not rows:
        raise CohortError(f"{name}: the table is empty")
    return rows


def _csv_rows(text: str, delimiter: str) -> Iterator[TextRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    for cells in reader:
        yield TextRow(start, cells)
        start = reader.line_num + 1  # a quoted cell may span lines: the row is named by its first


def _read_parquet(data: bytes, name: str) -> list[TextRow]:
    import pyarrow as pa

    try:
        table = read_parquet(data)
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    columns = [
        [""] * len(column) if pa.types.is_nested(column.type) else [_cell_text(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    rows = [TextRow(index + 1, list(cells)) for index, cells in enumerate(zip(*columns, strict=True))]
    return [TextRow(0, list(table.column_names)), *(row for row in rows if any(row.cells))]


def _cell_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # a data frame turns integers with gaps into floats: 1.0 was 1
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
