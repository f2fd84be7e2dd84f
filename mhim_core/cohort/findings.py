"""A finding about one row of the cohort table, and how all findings are worded."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from mhim_core.cohort.order import natural_key

MAX_LISTED = 10
_MAX_FINDINGS = 50
_MIN_OF_KIND = 3
_OF_THE_ROW = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")
"""What differs between the messages of one kind: quoted cells and numbers."""
_NUM_TELLING = 30
"""Characters at a message's start that tell its kind; what follows may be a list."""


class Severity(StrEnum):
    """An error stops the command."""

    ERROR = "error"
    WARNING = "warning"


class Finding(NamedTuple):
    """What is wrong, and where. `str()` gives the sentence to print; untrusted text in it is escaped."""

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


def listed(items: Sequence[str], max_items: int = MAX_LISTED) -> list[str]:
    """The first items, and an item that counts the rest if there are more."""
    rest = [f"… and {len(items) - max_items} more"] if len(items) > max_items else []
    return [*items[:max_items], *rest]


def listed_by_kind(findings: Sequence[Finding]) -> list[str]:
    """At most about fifty sentences, in the given order, with a few of every kind: a hundred thousand rows with one
    mistake do not hide a mistake of another kind in the last row. The last item counts those left out.
    """
    kinds = [_kind(finding) for finding in findings]
    counts = Counter(kinds).values()
    limit = max(_MAX_FINDINGS, _MIN_OF_KIND * len(counts))
    room = next(most for most in range(limit, 0, -1) if sum(min(count, most) for count in counts) <= limit)
    num_seen: Counter[tuple[str, str]] = Counter()
    lines = []
    for finding, kind in zip(findings, kinds, strict=True):
        num_seen[kind] += 1
        if num_seen[kind] <= room:
            lines.append(str(finding))
    num_more = len(findings) - len(lines)
    return [*lines, f"… and {num_more} more"] if num_more else lines


def _kind(finding: Finding) -> tuple[str, str]:
    return finding.column, _OF_THE_ROW.sub("", finding.message)[:_NUM_TELLING]


def quote_all(names: Iterable[str], max_items: int = MAX_LISTED) -> str:
    """The names in natural order, quoted, with commas; the first of many."""
    return ", ".join(listed([quote(name) for name in sorted(names, key=natural_key)], max_items))
