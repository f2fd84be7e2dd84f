"""CSV tables as other tools write them: unpacking, decoding, skipping comments, finding the delimiter."""

import csv
import gzip
import io
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mhim_core.cohort.columns import KNOWN_NAMES, is_named
from mhim_core.cohort.findings import quote, quote_all
from mhim_core.cohort.limits import MAX_BYTES, check_size
from mhim_core.errors import CohortError

_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"
_DELIMITERS = ",;\t"
_SAMPLE_LINES = 20
"""How many lines at the start of a table decide its delimiter."""
_SAMPLE_CHARACTERS = 2**16
"""And how much of each line."""
_LINE_ENDS = ("\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
"""Of str.splitlines."""


class CsvText(NamedTuple):
    """A table's text, without the comment lines above it."""

    text: str
    first_line: int
    """The number of the text's first line in the file, for messages."""
    delimiter: str
    notes: tuple[str, ...] = ()
    """What was left out."""


def unpack(data: bytes, name: str) -> bytes:
    """The table inside a zip or gzip file; any other bytes as they are, spreadsheets among them.

    Raises CohortError for an archive of several files, and for one that is damaged or too large (`check_size`).
    """
    check_size(name, num_bytes=len(data))
    try:
        if data.startswith(_GZIP):
            with gzip.open(io.BytesIO(data)) as file:
                return _limited(file.read(MAX_BYTES + 1), name)
        if not data.startswith(_ZIP) or is_office_file(data):
            return data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # the resource forks that macOS adds do not count
            files = [entry for entry in archive.namelist() if not entry.endswith("/") and "__MACOSX" not in entry]
            if len(files) != 1:
                raise CohortError(
                    f"{name}: a zip file of {len(files)} files ({quote_all(files)}); give the table itself"
                )
            with archive.open(files[0]) as file:
                return _limited(file.read(MAX_BYTES + 1), name)
    except (CohortError, MemoryError):
        raise
    except Exception as error:  # a foreign file may break the reader in any way
        reason = str(error) or type(error).__name__
        raise CohortError(f"{name}: a packed file that cannot be unpacked ({reason}); give the table itself") from None


def is_office_file(data: bytes) -> bool:
    """True for xlsx, ods and the like, and for bytes that begin like a zip file but are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except Exception:  # a foreign file may break the reader in any way
        return True
    return "[Content_Types].xml" in names or "mimetype" in names


def decode(data: bytes, name: str) -> str:
    """UTF-8 with or without byte order mark, or UTF-16 with one (Excel's "Unicode text")."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise CohortError(f"{name}: begins like UTF-16 text but is not; save the table as CSV (UTF-8)") from None
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff")):
        raise CohortError(f"{name}: this is a picture, no table; give its folder, or a table with a row for each slide")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        excerpt = data[max(0, error.start - 20) : error.start + 20].decode("cp1252", "replace")
        around = quote(" ".join(excerpt.split()), 60)
        raise CohortError(
            f"{name}: line {line} is not UTF-8 text (near {around}); save the table as CSV (UTF-8)"
        ) from None


def find_csv(text: str, name: str) -> CsvText:
    """Where the table begins, and what separates its cells.

    Above it may stand Excel's line `sep=;` and comment lines that begin with `#`, as cBioPortal writes them.
    """
    num_ends = sum(map(text.count, _LINE_ENDS)) - text.count("\r\n")
    check_size(name, num_rows=num_ends)  # before each becomes an object
    lines = text.splitlines(keepends=True)
    index, delimiter = 0, ""
    comments: list[int] = []
    for index, line in enumerate(map(str.strip, lines)):
        unquoted = line.strip('"')
        if unquoted.casefold().startswith("sep=") and len(unquoted) <= 5 and not delimiter:
            delimiter = unquoted[4:] or "\t"  # a tab was stripped with the line's end
        elif line.startswith("#"):
            comments.append(index)
        elif line:
            break
    if comments and _num_known(lines[index]) == 0 and _num_known(lines[comments[-1]]) > 1:
        index = comments.pop()  # one # before the header makes it no comment
    notes = (f"{name}: {len(comments)} comment lines above the table are not read",) if comments else ()
    rest = lines[index:]
    return CsvText("".join(rest), index + 1, delimiter or _delimiter(rest[:_SAMPLE_LINES]), notes)


def _num_known(line: str) -> int:
    """How many cells of the line are names of columns."""
    (cells,) = list(_rows([line], max(_DELIMITERS, key=line.count)))[:1] or [[]]
    return sum(is_named(cell, KNOWN_NAMES) for cell in cells)


def _delimiter(lines: Sequence[str]) -> str:
    """The one that makes known column names of the header, then rows of equal length, then the most cells."""

    def rank(delimiter: str) -> tuple[int, bool, int]:
        rows = [row for row in _rows(lines, delimiter) if any(row)]
        if not rows or len(rows[0]) < 2:
            return 0, False, 0
        known = sum(is_named(cell, KNOWN_NAMES) for cell in rows[0])
        return known, all(len(row) == len(rows[0]) for row in rows), len(rows[0])

    return max(_DELIMITERS, key=rank)  # the first of equals: a comma where there is one column


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    sample = "".join(line[:_SAMPLE_CHARACTERS] for line in lines)
    try:
        yield from csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    except csv.Error:
        return


def _limited(data: bytes, name: str) -> bytes:
    check_size(name, num_bytes=len(data))
    return data
