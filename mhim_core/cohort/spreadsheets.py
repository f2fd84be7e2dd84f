"""Tables as Excel saves them: the first sheet of an .xlsx file, by openpyxl (the extra `xlsx`)."""

import datetime
import io
import warnings
import zipfile
from typing import Any

from mhim_core.cohort.findings import quote, quote_all
from mhim_core.cohort.limits import check_size
from mhim_core.errors import CohortError

SAVE_AS_CSV = "save it as CSV (UTF-8)"


def is_xlsx(data: bytes) -> bool:
    """True for the bytes of an .xlsx file, whatever its name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(entry.startswith("xl/workbook") for entry in archive.namelist())
    except Exception:  # a foreign file may break the reader in any way
        return False


def read_sheet(data: bytes, name: str) -> list[list[Any]]:
    """The cells of the only sheet that holds any, row by row: text, numbers, truth, None; formulas by their value.

    Raises CohortError where openpyxl is not installed, the file is damaged or too large (`check_size`) or several
    sheets hold cells.
    """
    try:
        import openpyxl
    except ImportError:
        raise CohortError(
            f"{name}: a spreadsheet (.xlsx), which openpyxl reads: pip install 'mhim[xlsx]', or {SAVE_AS_CSV}"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_size(name, num_sheet_bytes=sum(entry.file_size for entry in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that are not kept
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = _sheets(book, name)
    except (CohortError, MemoryError):
        raise
    except Exception as error:  # a foreign file may break the reader in any way
        reason = str(error) or type(error).__name__
        raise CohortError(f"{name}: a spreadsheet that cannot be read ({reason}); {SAVE_AS_CSV}") from None
    filled = {title: rows for title, rows in sheets.items() if any(cell is not None for row in rows for cell in row)}
    if len(filled) > 1:
        raise CohortError(f"{name}: the sheets {quote_all(filled)} all hold cells; keep one, or {SAVE_AS_CSV}")
    if not filled:
        raise CohortError(f"{name}: the table is empty")
    (title,) = filled
    return _trimmed(filled[title], name, title)


def _sheets(book: Any, name: str) -> dict[str, list[list[Any]]]:
    """Every sheet's rows, each up to its last cell that holds something. Raises CohortError once they are too many."""
    sheets: dict[str, list[list[Any]]] = {}
    num_rows = num_cells = num_characters = 0
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # else every row is as wide as the widest, even where that is formatting alone
        rows = sheets[sheet.title] = []
        for row in sheet.iter_rows(values_only=True):
            width = next((index for index in range(len(row), 0, -1) if row[index - 1] is not None), 0)
            num_rows += 1
            num_cells += len(row)
            num_characters += sum(len(cell) for cell in row[:width] if isinstance(cell, str))
            check_size(name, num_rows=num_rows, num_columns=width, num_cells=num_cells, num_bytes=num_characters)
            rows.append(list(row[:width]))
    return sheets


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
