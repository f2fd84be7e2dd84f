"""How large a table may be: a small file may unpack to more than memory holds, and as Python's objects to still more.

A table of 100,000 slides with 15 columns has 20 MB of text.
"""

from mhim_core.errors import CohortError

MAX_BYTES = 64 * 2**20
"""Of text, unpacked."""
MAX_SHEET_BYTES = 2 * MAX_BYTES
"""Of an .xlsx file, unpacked: its XML takes 30 to 45 bytes for a cell beside the text."""
MAX_ROWS = 2_000_000
MAX_COLUMNS = 1_000
MAX_CELLS = 20_000_000


def check_size(
    name: str,
    *,
    num_bytes: int = 0,
    num_sheet_bytes: int = 0,
    num_rows: int = 0,
    num_columns: int = 0,
    num_cells: int = 0,
) -> None:
    """Raises CohortError, with the figure and the limit, where one of these is too large; `name` is for messages."""
    for number, limit, unit in (
        (num_bytes, MAX_BYTES, "bytes of text"),
        (num_sheet_bytes, MAX_SHEET_BYTES, "bytes unpacked"),
        (num_rows, MAX_ROWS, "rows"),
        (num_columns, MAX_COLUMNS, "columns"),
        (num_cells, MAX_CELLS, "cells"),
    ):
        if number > limit:
            raise CohortError(f"{name}: has {number:,} {unit} or more; a table of slides may have {limit:,} at most")
