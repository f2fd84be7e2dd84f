"""The ids in a table of labels or splits: whether they are slides' or patients', and which slides each of them names.

The column's name says which. Where it does not (no header, a bare `id`, the columns of a wide split file) an id may be
either, and one that names a slide and also a patient of other slides is refused: with slides 1 to 8 of patients 1 to 4,
the wrong one would be taken silently.

A data frame with gaps in a column of whole numbers writes 17 as `17.0`: where no id is spelt like that, the whole
number is meant. No other spellings are taken for equal: ids that differ only in case or leading zeros are reported.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from mhim_core.cohort.columns import FILE_NAMES, ID_NAMES, PATIENT_NAMES, column_key, is_named, strip_extension
from mhim_core.cohort.findings import quote, quote_all
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.slide_names import safe_id
from mhim_core.types import SlideId

BARE_ID_NAMES = ("id",)
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)


class IdKind(StrEnum):
    """What the ids name."""

    slide = "slide"
    patient = "patient"
    either = "either"
    """The table does not say."""

    @property
    def ids(self) -> str:
        """For a sentence: `slide ids`."""
        return "ids" if self is IdKind.either else f"{self} ids"


class IdColumns(NamedTuple):
    """The columns that could be the id; a table should have one."""

    indices: tuple[int, ...]
    kind: IdKind


def id_candidates(header: Sequence[str]) -> list[IdColumns]:
    """All columns that could be the id, the most specific name first; a file's only where there is no other."""
    # a bare id beside a patient column is not the patients'
    bare = IdKind.slide if any(is_named(cell, PATIENT_NAMES) for cell in header) else IdKind.either
    candidates: list[IdColumns] = []
    for names, kind in (
        (ID_NAMES, IdKind.slide),
        (BARE_ID_NAMES, bare),
        (PATIENT_NAMES, IdKind.patient),
        (FILE_NAMES, IdKind.slide),
    ):
        keys = {column_key(name) for name in names}
        indices = tuple(index for index, cell in enumerate(header) if column_key(cell) in keys)
        if indices and not (candidates and names is FILE_NAMES):
            candidates.append(IdColumns(indices, kind))
    return candidates


def whole_id(text: str) -> str:
    """`17.0` → `17`, as before a data frame made it a float; any other id unchanged."""
    match = _WHOLE_FLOAT.fullmatch(text)
    return text if match is None else match[1]


class IdIndex:
    """A cohort's slides by whole ids."""

    def __init__(self, rows: Iterable[CohortRow]) -> None:
        self._slides: set[str] = set()
        self._slides_of: dict[str, list[SlideId]] = defaultdict(list)
        for row in rows:
            self._slides.add(row.slide_id)
            self._slides_of[row.patient_id].append(row.slide_id)
        self._whole_slides, self._whole_patients = _by_whole_id(self._slides), _by_whole_id(self._slides_of)

    def slides(self, listed_id: str, kind: IdKind) -> Sequence[SlideId]:
        """The slides that the id names.

        A slide's may have its file's extension, and may be the file's name as it was before it was made an id; a
        patient's is taken as it stands. `17.0` is 17, here or in the cohort, where neither is spelt as the other.
        """
        spellings = _spellings(listed_id, kind)
        for text in spellings:
            if kind is not IdKind.patient and text in self._slides:
                return [SlideId(text)]
            if kind is not IdKind.slide and text in self._slides_of:
                return self._slides_of[text]
        for text in map(whole_id, spellings):
            if kind is not IdKind.patient and text in self._whole_slides:
                return [SlideId(self._whole_slides[text])]
            if kind is not IdKind.slide and text in self._whole_patients:
                return self._slides_of[self._whole_patients[text]]
        return []

    def as_whole(self, ids: Iterable[str], kind: IdKind) -> list[str]:
        """Those that name a slide only if read as whole numbers: `17.0` for 17."""
        slides = self._slides if kind is not IdKind.patient else ()
        known = {*slides, *(self._slides_of if kind is not IdKind.slide else ())}
        return [
            listed_id
            for listed_id in ids
            if whole_id(listed_id) != listed_id and not known.intersection(_spellings(listed_id, kind))
        ]

    def near_misses(self, ids: Iterable[str], kind: IdKind) -> dict[str, str]:
        """By unknown id, the cohort's id from which it differs only in case, blanks or leading zeros."""
        slides = self._slides if kind is not IdKind.patient else ()
        known = {_likeness(text): text for text in (*slides, *(self._slides_of if kind is not IdKind.slide else ()))}
        return {listed_id: known[key] for listed_id in ids if (key := _likeness(whole_id(listed_id))) in known}

    def alike(self, ids: Iterable[str], kind: IdKind) -> str:
        """A hint about the first near miss among these unknown ids; "" if there is none."""
        first = next(iter(self.near_misses(ids, kind).items()), None)
        if first is None:
            return ""
        return f"; {quote(first[0])} resembles {quote(first[1])}, but ids are compared as a whole"

    def unknown(self, ids: Iterable[str], kind: IdKind) -> list[str]:
        """Those that name no slide."""
        return [listed_id for listed_id in ids if not self.slides(listed_id, kind)]

    def ambiguity(self, ids: Iterable[str], kind: IdKind) -> str:
        """Why these ids are refused, if some have two meanings; "" if none has."""
        if kind is not IdKind.either:
            return ""
        ambiguous = [
            listed_id
            for listed_id in ids
            if any(
                self._has_two_meanings(text)
                for spelt in _spellings(listed_id, kind)
                for text in {spelt, whole_id(spelt)}
            )
        ]
        if not ambiguous:
            return ""
        return (
            f"{quote_all(ambiguous)}: a slide has this id, and so does a patient of other slides; give the ids "
            "in a column named slide_id or patient_id"
        )

    def other_kind(self, ids: Sequence[str], kind: IdKind) -> str:
        """A hint about how many of these unknown ids are known as the other kind; "" if none is."""
        opposite = {IdKind.slide: IdKind.patient, IdKind.patient: IdKind.slide}.get(kind)
        count = 0 if opposite is None else len(ids) - len(self.unknown(ids, opposite))
        return f" ({count} are ids of {opposite}s, but their column's name says {kind})" if count else ""

    def _has_two_meanings(self, text: str) -> bool:
        return text in self._slides and self._slides_of.get(text, [text]) != [text]


def _spellings(listed_id: str, kind: IdKind) -> list[str]:
    if kind is IdKind.patient:
        return [listed_id]
    return list(dict.fromkeys((listed_id, strip_extension(listed_id), safe_id(strip_extension(listed_id)))))


def _by_whole_id(ids: Iterable[str]) -> dict[str, str]:
    """The id by its whole number, where it is the only id with that number."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in ids:
        groups[whole_id(text)].append(text)
    return {whole: group[0] for whole, group in groups.items() if len(group) == 1}


def _likeness(text: str) -> str:
    return "".join(text.casefold().split()).lstrip("0")
