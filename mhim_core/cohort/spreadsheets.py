"""Tables as Excel saves them: the first sheet of an .xlsx file, by openpyxl (the extra `xlsx`)."""

import datetime
import io
import warnings
import zipfile
from typing import Any

from mhim_core.cohort.findings import quote, quote_all
from mhim_core.errors import CohortError

SAVE_AS_CSV = "save it as CSV (UTF-8)"


def is_xlsx(data: bytes) -> bool:
    """True for the bytes of an .xlsx file, whatever its name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(entry.startswith("xl/workbook") for entry in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_sheet(data: bytes, name: str) -> list[list[Any]]:
    """The cells of the only sheet that holds any, row by row: text, numbers, truth, None; formulas by their value.

    Raises CohortError where openpyxl is not installed, the file is damaged or several sheets hold cells.
    """
    try:
        import openpyxl
    except ImportError:
        raise CohortError(
            f"{name}: a spreadsheet (.xlsx), which openpyxl reads: pip install 'mhim[xlsx]', or {SAVE_AS_CSV}"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that are not kept
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = {
                sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book.worksheets
            }
    except (KeyError, ValueError, OSError, SyntaxError, zipfile.BadZipFile) as error:
        raise CohortError(f"{name}: a spreadsheet that cannot be read ({error}); {SAVE_AS_CSV}") from None
    filled = {title: rows for title, rows in sheets.items() if any(cell is not None for row in rows for cell in row)}
    if len(filled) > 1:
        raise CohortError(f"{name}: the sheets {quote_all(filled)} all hold cells; keep one, or {SAVE_AS_CSV}")
    if not filled:
        raise CohortError(f"{name}: the table is empty")
    (title,) = filled
    return _trimmed(filled[title], name, title)


def _trimmed(rows: list[list[Any]], name: str, title: str) -> list[list[Any]]:
    """Without the empty columns on the right that formatting leaves behind."""
    width = max((index + 1 for row in rows for index, cell in enumerate(row) if cell is not None), default=0)
    for number, row in enumerate(rows, start=1):
        if wrong := next((cell for cell in row[:width] if isinstance(cell, datetime.timedelta)), None):
            raise CohortError(f"{name}, sheet {quote(title)}: row {number} holds a duration ({wrong}); write a number")
    return [[_plain(cell) for cell in row[:width]] + [None] * (width - len(row)) for row in rows]


def _plain(cell: Any) -> Any:
    """Dates in ISO 8601, with a time of day only if there is one."""
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(sep=" ")
    return cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else cell
