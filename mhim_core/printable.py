"""Text of others on its way to a terminal: control characters and marks that turn the direction are shown, not obeyed.

A label, a file's name or a library's message may hold escape sequences (which move the cursor, recolour, set the
window's title or make links) and line ends (which would begin a line that looks like ours).
"""

import re
from collections.abc import Sequence

_MARKS = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_UNPRINTABLE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_MARKS}]")
_LINE_ENDS = re.compile(r"[\n\t]")


def printable(text: str) -> str:
    """The text with `\\x1b` for an escape character and so on; line feeds and tabs stay."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: object) -> str:
    """The same with line feeds and tabs escaped too: for the text of others within a line of ours."""
    return _LINE_ENDS.sub(_escaped, printable(str(text)))


def counted(number: int, noun: str) -> str:
    """`1 file`, `3 files`, `10,000 files`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def first_of(names: Sequence[str], num: int) -> str:
    """The first `num` of the names, one line, and how many more there are."""
    more = f", and {len(names) - num:,} more" if len(names) > num else ""
    return one_line(", ".join(names[:num])) + more


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
