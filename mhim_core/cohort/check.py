"""Everything that can be wrong with a cohort, found before any work, row by row.

Mistakes that cost the most and are errors here: two slides under one id (outputs would collide), one file under two ids
or patients, one patient under two spellings (either would sit in training and test), a patient in two splits, and one
label in two spellings (it would be two classes).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from mhim_core.cohort.findings import Finding, Severity, listed_by_kind, quote
from mhim_core.cohort.ids import whole_id
from mhim_core.cohort.spellings import check_spellings
from mhim_core.cohort.table import Cohort, CohortRow
from mhim_core.cohort.values import is_decimal_comma, number_of
from mhim_core.errors import CohortError

SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_NAMED = 10
_MAX_EARLIER = 100
"""Of a group's first rows, later ones are compared with these: 10⁵ rows of one file must not make 5·10⁹ pairs."""

NumBytes = Callable[[CohortRow], int | None]
"""The size of a row's file in bytes; None: there is no such file."""
Identity = Callable[[CohortRow], tuple[object, ...] | None]
"""A file's content (size and digest); None: it cannot be read."""


def validate(
    cohort: Cohort, *, num_bytes: NumBytes | None = None, identity: Identity | None = None, strict: bool = False
) -> tuple[Finding, ...]:
    """Return the cohort's warnings; raise CohortError, listing errors and warnings of every kind by row, on any error.

    The arguments are those of `find_problems`.
    """
    findings = find_problems(cohort, num_bytes=num_bytes, identity=identity, strict=strict)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        warnings = [finding for finding in findings if finding.severity is Severity.WARNING]
        lines = [*listed_by_kind(errors), *(f"warning: {line}" for line in listed_by_kind(warnings))]
        raise CohortError("\n  ".join([f"{cohort.name}: {count} in the table", *lines]))
    return findings


def find_problems(
    cohort: Cohort, *, num_bytes: NumBytes | None = None, identity: Identity | None = None, strict: bool = False
) -> tuple[Finding, ...]:
    """All findings, sorted by row.

    `num_bytes` looks for the files (None: nothing is looked for); `identity` is called only for files of equal size, so
    that a cohort without duplicates is not read. `strict` turns a missing file from a warning into an error.
    """
    rows = cohort.rows
    findings = [
        *cohort.findings,
        *_check_ids(cohort),
        *_check_places(cohort),
        *_check_patients(cohort),
        *_check_parts(cohort),
        *_check_labels(cohort),
        *_check_survival(cohort),
        *_check_sites(cohort),
    ]
    if num_bytes is not None:
        sizes = {row.row: num_bytes(row) for row in rows if row.uri}
        missing = Severity.ERROR if strict else Severity.WARNING
        findings += (
            _finding(cohort, row, "path", f"not_found: there is no file {quote(row.uri, 300)}", missing)
            for row in rows
            if row.uri and sizes[row.row] is None
        )
        if identity is not None:
            findings += _check_contents(cohort, sizes, identity)
    return tuple(sorted(set(findings)))


def _check_ids(cohort: Cohort) -> Iterator[Finding]:
    hint = "; the id comes from the file name: add a slide_id column" if cohort.derives_ids else ""
    for row in cohort.rows:
        if not row.slide_id:
            if row.uri or not cohort.derives_ids:  # an empty path is reported already
                yield _finding(cohort, row, "slide_id", f"the slide id is empty{hint}")
        elif not SLIDE_ID.fullmatch(row.slide_id):
            message = "not a valid slide id: letters, digits and ._- only, 1 to 128, the first a letter or digit"
            yield _finding(cohort, row, "slide_id", message + hint)
    for group in _groups(cohort.rows, lambda row: row.slide_id.casefold() or None):
        for row, earlier in _with_earlier(group):
            same = [twin for twin in earlier if twin.slide_id == row.slide_id]
            if same:
                yield _finding(cohort, row, "slide_id", f"the same slide id as {_names(same, with_uri=True)}{hint}")
            cased = [twin for twin in earlier if twin.slide_id != row.slide_id]
            if cased:
                yield _finding(cohort, row, "slide_id", f"differs only in case from {_names(cased)}{hint}")


def _check_places(cohort: Cohort) -> Iterator[Finding]:
    for group in _groups(cohort.rows, lambda row: row.uri or None):
        for row, earlier in _with_earlier(group):
            yield from _same_file(cohort, row, earlier, "is the file of")


def _check_contents(cohort: Cohort, sizes: dict[int, int | None], identity: Identity) -> Iterator[Finding]:
    def size_of(row: CohortRow) -> int | None:
        return sizes.get(row.row)

    for equal_size in _groups(cohort.rows, size_of):
        if len({row.uri for row in equal_size}) < 2:
            continue  # one file named twice is found by its path
        for group in _groups(equal_size, identity):
            for row, earlier in _with_earlier(group):
                copies = [twin for twin in earlier if twin.uri != row.uri]
                yield from _same_file(cohort, row, copies, "holds the same bytes as that of")


def _same_file(cohort: Cohort, row: CohortRow, earlier: Sequence[CohortRow], verb: str) -> Iterator[Finding]:
    twins = [twin for twin in earlier if twin.slide_id != row.slide_id]
    if not twins:
        return
    strangers = [twin for twin in twins if twin.patient_id != row.patient_id]
    # without a patient column every slide is its own patient, so that different ones mean nothing
    patients = "; they are of different patients" if strangers and "patient_id" in cohort.header else ""
    yield _finding(cohort, row, "path", f"{quote(row.uri, 300)} {verb} {_names(twins)}{patients}")


def _check_patients(cohort: Cohort) -> Iterator[Finding]:
    column = "patient_id"
    if column not in cohort.header:
        return
    spelt: dict[str, CohortRow] = {}
    reported: set[str] = set()
    for row in cohort.rows:
        if row.patient_id != row.patient_id.strip():
            yield _finding(cohort, row, column, f"{quote(row.patient_id)} has spaces around it: remove them")
            continue
        first = spelt.setdefault(_patient_key(row.patient_id), row)
        if first.patient_id != row.patient_id and row.patient_id not in reported:
            reported.add(row.patient_id)  # once a spelling, not once a slide
            message = (
                f"{quote(row.patient_id)} and {quote(first.patient_id)} (row {first.row}) differ only in case, blanks "
                "or leading zeros: if they are one patient, it could be in training and test. Write them in one way, "
                "or make the ids differ in more than that"
            )
            yield _finding(cohort, row, column, message)


def _patient_key(patient_id: str) -> str:
    """Equal for the spellings of one patient: `17`, `17.0` and `017`, as three programs write it."""
    key = "".join(whole_id(patient_id.strip()).casefold().split())
    return key.lstrip("0") if key.isdigit() else key


def _check_parts(cohort: Cohort) -> Iterator[Finding]:
    """A patient in two splits or two folds would be trained and tested on."""
    for column in ("split", "fold"):
        first_in: dict[str, CohortRow] = {}
        for row in cohort.rows:
            part = getattr(row, column)
            if part is None:
                continue
            first = first_in.setdefault(row.patient_id, row)
            first_part = getattr(first, column)
            if first_part != part:
                part_name, first_name = (
                    (f"fold {part}", f"fold {first_part}") if column == "fold" else (part, first_part)
                )
                message = (
                    f"patient {quote(row.patient_id)} is in {part_name} here and in {first_name} in row {first.row} "
                    f"(slide {quote(first.slide_id)}): a patient belongs to one {column}"
                )
                yield _finding(cohort, row, column, message)


def _check_labels(cohort: Cohort) -> Iterator[Finding]:
    if "label" not in cohort.header:
        return
    yield from check_spellings(cohort)
    labels = {row.label for row in cohort.rows if row.label is not None}
    # 1,2 among words may be a class; among numbers it is a number
    numbers = all(number_of(label) is not None or is_decimal_comma(label) for label in labels)
    for row in cohort.rows:
        if row.label is None:
            yield _finding(cohort, row, "label", "no label: the slide takes no part in training", Severity.WARNING)
        elif row.label != row.label.strip():
            yield _finding(cohort, row, "label", f"{quote(row.label)} has spaces around it: remove them")
        elif numbers and is_decimal_comma(row.label):
            message = (
                f"{quote(row.label)} has a decimal comma, and would be a class: write {row.label.replace(',', '.')}"
            )
            yield _finding(cohort, row, "label", message)


def _check_survival(cohort: Cohort) -> Iterator[Finding]:
    if "time" not in cohort.header:
        return
    first_of: dict[str, CohortRow] = {}
    for row in cohort.rows:
        if row.time is None and row.event is None:
            if "label" not in cohort.header:
                message = "no time and no event: the slide takes no part in training"
                yield _finding(cohort, row, "time", message, Severity.WARNING)
            continue
        if row.time is None or row.event is None:
            present, absent = ("time", "event") if row.event is None else ("event", "time")
            message = f"there is a value for {present} but none for {absent}: the slide cannot be used for survival"
            yield _finding(cohort, row, absent, message, Severity.WARNING)
        first = first_of.setdefault(row.patient_id, row)
        if (first.time, first.event) != (row.time, row.event):
            message = (
                f"patient {quote(row.patient_id)} has another time or event here than in row {first.row} "
                f"(slide {quote(first.slide_id)})"
            )
            yield _finding(cohort, row, "time", message, Severity.WARNING)


def _check_sites(cohort: Cohort) -> Iterator[Finding]:
    """Two spellings of one site would count as two sites; each spelling is reported once, not once a slide."""
    spellings: dict[str, dict[str, CohortRow]] = defaultdict(dict)
    for row in cohort.rows:
        if row.site is not None:
            spellings["".join(row.site.casefold().split())].setdefault(row.site, row)
    for first, *others in (list(rows.values()) for rows in spellings.values()):
        for row in others:
            pair = f"{quote(str(row.site))} and {quote(str(first.site))} (row {first.row})"
            message = f"{pair} differ only in case or spaces: taken as two sites"
            yield _finding(cohort, row, "site", message, Severity.WARNING)


def _groups(rows: Iterable[CohortRow], key: Callable[[CohortRow], object | None]) -> Iterator[list[CohortRow]]:
    """The rows that share a key with another row; None is no key."""
    groups: dict[object, list[CohortRow]] = defaultdict(list)
    for row in rows:
        value = key(row)
        if value is not None:
            groups[value].append(row)
    return (group for group in groups.values() if len(group) > 1)


def _with_earlier(group: Sequence[CohortRow]) -> Iterator[tuple[CohortRow, list[CohortRow]]]:
    """Each row but the first with the ones before it: every pair once, in groups of readable size."""
    for index, row in enumerate(group[1:], start=1):
        yield row, list(group[: min(index, _MAX_EARLIER)])


def _names(rows: Sequence[CohortRow], *, with_uri: bool = False) -> str:
    names = [
        f"{quote(row.slide_id)} (row {row.row}{', ' + quote(row.uri, 300) if with_uri else ''})"
        for row in rows[:_MAX_NAMED]
    ]
    rest = " and others" if len(rows) > _MAX_NAMED else ""
    return ", ".join(names) + rest


def _finding(cohort: Cohort, row: CohortRow, column: str, message: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(row.row, row.slide_id, cohort.header.get(column, ""), message, severity)
