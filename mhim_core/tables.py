"""Tables to give away: CSV that no spreadsheet executes, and its Parquet twin. Same rows, same bytes."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from mhim_core.printable import printable

if TYPE_CHECKING:
    import pyarrow

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_INNER_FORMULA = re.compile(r"(?<=[;\t\r\n])([ \"]*)(?=[=+\-@＝＋－＠])([^;\t\r\n]*)")
"""What would be a formula of its own to a spreadsheet that splits at semicolons or tabs, as many do by default."""


def write_csv(rows: Iterable[Any], columns: Sequence[str] | None = None) -> bytes:
    """UTF-8 CSV with a header and `\\n` line ends.

    `rows`: mappings or NamedTuples. `columns`: which, in order (default: those of the first row); a mapping without one
    gives an empty cell. None and NaN are empty, floats are written so that they read back exactly, enums by value,
    lists and mappings as JSON. A text that a spreadsheet would run as a formula gets a leading apostrophe, also within
    a cell, where one that splits at semicolons or tabs would find it. Control characters and marks that turn the
    direction are escaped as on a terminal (`printable`), since a CSV file may be shown on one.
    """
    records = [_record(row) for row in rows]
    names = _names(records, columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_csv_text(name) for name in names])
    writer.writerows([_csv_cell(record.get(name)) for name in names] for record in records)
    return text.getvalue().encode()


def write_parquet(
    rows: Iterable[Any], columns: Sequence[str] | None = None, schema: "pyarrow.Schema | None" = None
) -> bytes:
    """The same table as Parquet, its texts unescaped, in fixed writer options (zstd, page checksums).

    Without a `schema` types are inferred; a column of None alone is a text column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [_record(row) for row in rows]
    names = list(schema.names) if schema is not None else _names(records, columns)
    arrays = []
    for index, name in enumerate(names):
        values = [_plain(record.get(name)) for record in records]
        array = pa.array(values, type=None if schema is None else schema.field(index).type)
        arrays.append(array.cast(pa.string()) if pa.types.is_null(array.type) else array)
    table = pa.table(arrays, names=names) if schema is None else pa.table(arrays, schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(data: bytes, dictionaries: Sequence[str] = ()) -> "pyarrow.Table":
    """A small Parquet file, its page checksums verified. Raises OSError or pyarrow.ArrowException if it is not one.

    `dictionaries`: the text columns whose equal cells share their memory.

    On this thread alone: a thread of Arrow's that lets go of Python's bytes while the interpreter ends aborts the
    process ("terminate called without an active exception"), and a command that has nothing to do ends soon after.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(
            pa.BufferReader(data), page_checksum_verification=True, read_dictionary=list(dictionaries) or None
        )
        return file.read(use_threads=False)
    except UnicodeDecodeError as error:  # of a name in the file, or of Arrow's own message that quotes it
        raise pa.ArrowInvalid(f"not UTF-8: {error}") from error


def escape_formula(text: str) -> str:
    """`=cmd()` → `'=cmd()`, `a;=cmd()` → `a;'=cmd()`; plain numbers such as `-0.5` stay."""
    text = _INNER_FORMULA.sub(lambda match: match[1] + _unless_number(match[2]), text)
    return _unless_number(text) if text.startswith(_FORMULA_STARTS) else text


def _unless_number(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text


def _record(row: Any) -> Mapping[str, Any]:
    record: Mapping[str, Any] = row._asdict() if hasattr(row, "_asdict") else row
    return record


def _names(records: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> list[str]:
    if columns is not None:
        return list(columns)
    return list(records[0]) if records else []


def _csv_cell(value: Any) -> str:
    value = _plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | dict):
        return _csv_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
    return _csv_text(str(value))


def _csv_text(text: str) -> str:
    return escape_formula(printable(text))


def _plain(value: Any) -> Any:
    """Enums by value, numpy scalars and tuples as Python's own."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
