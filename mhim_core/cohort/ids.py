"""The ids of a table beside the cohort: whether slides' or patients', and which slides each of them names.

The column's name says whose they are. Where it does not (no header, a bare `id`, the columns of a wide split file) an
id may be either, and one that names a slide and also a patient of other slides is refused: of slides 1 to 8 of patients
1 to 4 the wrong one would be taken without a word.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from mhim_core.cohort.columns import FILE_NAMES, ID_NAMES, PATIENT_NAMES, strip_extension
from mhim_core.cohort.findings import quote_all
from mhim_core.cohort.rows import CohortRow
from mhim_core.types import SlideId

BARE_ID_NAMES = ("id",)


class IdKind(StrEnum):
    """Whose ids they are."""

    slide = "slide"
    patient = "patient"
    either = "either"
    """Nothing says so."""

    @property
    def ids(self) -> str:
        """As a sentence calls them."""
        return "ids" if self is IdKind.either else f"{self} ids"


class IdColumns(NamedTuple):
    """The columns that could be the id; a table should have one."""

    indices: tuple[int, ...]
    kind: IdKind


def find_id_columns(named: Sequence[str]) -> IdColumns:
    """The columns of the header, whose cells are stripped and in lower case, by the most telling name that it has."""
    # a bare id beside the patients' is not the patients'
    bare = IdKind.slide if any(cell in PATIENT_NAMES for cell in named) else IdKind.either
    for names, kind in (
        (ID_NAMES, IdKind.slide),
        (BARE_ID_NAMES, bare),
        (PATIENT_NAMES, IdKind.patient),
        (FILE_NAMES, IdKind.slide),
    ):
        found = tuple(index for index, cell in enumerate(named) if cell in names)
        if found:
            return IdColumns(found, kind)
    return IdColumns((), IdKind.either)


class IdIndex:
    """A cohort's slides by whole ids."""

    def __init__(self, rows: Iterable[CohortRow]) -> None:
        self._slides: set[str] = set()
        self._slides_of: dict[str, list[SlideId]] = defaultdict(list)
        for row in rows:
            self._slides.add(row.slide_id)
            self._slides_of[row.patient_id].append(row.slide_id)

    def slides(self, one: str, kind: IdKind) -> Sequence[SlideId]:
        """The slides that the id names. A slide's may have its file's extension; a patient's is taken as it stands."""
        for text in _spellings(one, kind):
            if kind is not IdKind.patient and text in self._slides:
                return [SlideId(text)]
            if kind is not IdKind.slide and text in self._slides_of:
                return self._slides_of[text]
        return []

    def unknown(self, ids: Iterable[str], kind: IdKind) -> list[str]:
        """Those that name no slide."""
        return [one for one in ids if not self.slides(one, kind)]

    def ambiguity(self, ids: Iterable[str], kind: IdKind) -> str:
        """The sentence that refuses ids of two meanings; "" where there are none."""
        if kind is not IdKind.either:
            return ""
        found = [one for one in ids if any(self._has_two_meanings(text) for text in _spellings(one, kind))]
        if not found:
            return ""
        return (
            f"{quote_all(found)}: a slide has this id, and so has a patient of other slides; give the ids in a column "
            "named slide_id or patient_id, which says whose they are"
        )

    def other_kind(self, ids: Sequence[str], kind: IdKind) -> str:
        """Words on how many of these ids, which name no slide, would as the other kind; "" if none would."""
        other = {IdKind.slide: IdKind.patient, IdKind.patient: IdKind.slide}.get(kind)
        count = 0 if other is None else len(ids) - len(self.unknown(ids, other))
        return f" ({count} are ids of {other}s, but their column's name says {kind})" if count else ""

    def _has_two_meanings(self, text: str) -> bool:
        return text in self._slides and self._slides_of.get(text, [text]) != [text]


def _spellings(one: str, kind: IdKind) -> Iterable[str]:
    return (one,) if kind is IdKind.patient else dict.fromkeys((one, strip_extension(one)))
