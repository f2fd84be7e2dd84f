"""One remark about one row of the cohort table."""

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """Does the remark stop the command?"""

    ERROR = "error"
    WARNING = "warning"


class Finding(NamedTuple):
    """What is wrong, and where. `str()` gives the sentence for people; untrusted text in it is escaped."""

    row: int
    """The line of a CSV file (its header is line 1), or the 1-based row of a Parquet file."""
    slide_id: str
    column: str
    """The header cell as the table spells it; "" where the whole row is meant."""
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"row {self.row}, slide {quote(self.slide_id)}" if self.slide_id else f"row {self.row}"
        column = f", column {quote(self.column)}" if self.column else ""
        return f"{place}{column}: {self.message}"


def quote(text: str, max_chars: int = 80) -> str:
    """The text in quotes, control and direction marks escaped, shortened: safe to print on a terminal."""
    return repr(text if len(text) <= max_chars else text[: max_chars - 1] + "…")
