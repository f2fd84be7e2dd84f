"""One label in two spellings (`Tumour`, `tumour`; `1`, `1.0`) would be two classes: refused, or merged on request."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mhim_core.cohort.findings import Finding, Severity, quote
from mhim_core.cohort.order import natural_key
from mhim_core.cohort.table import Cohort
from mhim_core.cohort.task_options import LabelSpellings
from mhim_core.cohort.values import number_of
from mhim_core.errors import CohortError

_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u2011\u2013](?=[^\W\d_])")
"""Between letters alone: `HER2-` is not `HER2`, nor `T-1` `T1`."""


def spelling_key(label: str) -> str:
    """Equal for all spellings of one label; of numbers, the number."""
    if (number := number_of(label)) is not None:
        return f"number {number!r}"
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(_HYPHEN.sub("", folded).replace("_", " ").split())


def spelling_groups(labels: Iterable[str]) -> list[list[str]]:
    """The spellings of each label that has several, the most frequent one first."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        groups[spelling_key(label)][label] += 1
    return [
        sorted(group, key=lambda label: (-group[label], natural_key(label)))
        for group in groups.values()
        if len(group) > 1
    ]


def check_spellings(cohort: Cohort) -> Iterator[Finding]:
    """An error at the first row of each spelling but the first; numbers may be values, which `tasks` knows."""
    first = {
        row.label: row for row in reversed(cohort.rows) if row.label is not None and row.label == row.label.strip()
    }
    for group in spelling_groups(row.label for row in cohort.rows if row.label in first and row.label is not None):
        if number_of(group[0]) is not None:
            continue
        for label in group[1:]:
            row = first[label]
            message = (
                f"{quote(label)} and {quote(group[0])} (row {first[group[0]].row}) are one label in two spellings, and "
                "would be two classes: write one, or set label_spellings=merge"
            )
            yield Finding(row.row, row.slide_id, cohort.header.get("label", ""), message, Severity.ERROR)


def merge_spellings(cohort: Cohort) -> Cohort:
    """The cohort with the most frequent spelling of each label, and a note of what was merged."""
    groups = spelling_groups(row.label for row in cohort.rows if row.label is not None)
    spelt = {label: group[0] for group in groups for label in group[1:]}
    return _respelt(cohort, spelt) if spelt else cohort


def spell_as(cohort: Cohort, classes: Sequence[str], spellings: LabelSpellings) -> Cohort:
    """The cohort with its labels spelt as the classes of models that know them.

    Raises CohortError for a label that is a class but for its spelling, unless spellings are to be merged: it would
    count as none of the classes.
    """
    class_of = {spelling_key(label): label for label in classes}
    labels = {row.label for row in cohort.rows if row.label is not None and row.label not in classes}
    spelt = {label: class_of[key] for label in labels if (key := spelling_key(label)) in class_of}
    if spelt and spellings is LabelSpellings.refuse:
        pairs = ", ".join(f"{quote(label)} (class {quote(spelt[label])})" for label in sorted(spelt, key=natural_key))
        raise CohortError(
            f"{cohort.name}: labels that are classes of the models in another spelling: {pairs}; write them as the "
            "classes are, or set label_spellings=merge"
        )
    return _respelt(cohort, spelt) if spelt else cohort


def _respelt(cohort: Cohort, spelt: dict[str, str]) -> Cohort:
    pairs = ", ".join(f"{quote(label)} as {quote(spelt[label])}" for label in sorted(spelt, key=natural_key))
    rows = tuple(row._replace(label=spelt.get(row.label, row.label) if row.label else None) for row in cohort.rows)
    return replace(cohort, rows=rows, notes=(*cohort.notes, f"{cohort.name}: labels are merged: {pairs}"))
