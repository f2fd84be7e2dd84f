"""Folds given as files, one CSV a fold, in the two layouts of the field.

Long: a column of slide or patient ids and a column `split` (train, val, test). Wide, as of CLAM, TransMIL and MHIM-MIL:
columns `train`, `val` and `test` that list ids, of unequal length; the index column and `train_label` and its like are
not read. Ids match a slide's or a patient's whole id, never a part of it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mhim_core.cohort.cells import TextTable, read_cells
from mhim_core.cohort.columns import FILE_NAMES, ID_NAMES, PATIENT_NAMES, SPLIT_NAMES, strip_extension
from mhim_core.cohort.findings import quote
from mhim_core.cohort.options import SplitOptions
from mhim_core.cohort.splits import Split, split_by_part
from mhim_core.cohort.table import CohortRow, natural_key
from mhim_core.cohort.values import CellError, read_split
from mhim_core.errors import SplitError
from mhim_core.task import Task
from mhim_core.types import SlideId

_MAX_LISTED = 10


class SplitFile(NamedTuple):
    """One fold as its file has it."""

    name: str
    parts: dict[str, str]
    """The part, train, val or test, of each id that the file lists, in its order."""


class FileSplits(NamedTuple):
    """The folds, numbered from 0 in the order of their files, and what is to be said of them."""

    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def read_split_file(data: bytes, name: str) -> SplitFile:
    """Read one fold's CSV or Parquet table, long or wide. Raises SplitError with what was found.

    Raises CohortError where the bytes are no table at all.
    """
    table = read_cells(data, name)
    named = [cell.strip().casefold() for cell in table.header]
    parts_of_columns = {index: part for index, cell in enumerate(named) if (part := _part(cell)) is not None}
    if any(cell in SPLIT_NAMES for cell in named):
        listed = _read_long(table, named, name)
    elif "train" in parts_of_columns.values():
        listed = _read_wide(table, parts_of_columns, name)
    else:
        columns = ", ".join(quote(cell, 40) for cell in table.header[:12])
        raise SplitError(
            f"{name}: found columns {columns}; expected an id column and `split`, or the columns train, val and test"
        )
    parts: dict[str, str] = {}
    for one, part in listed:
        if parts.setdefault(one, part) != part:
            raise SplitError(f"{name}: {quote(one)} is in {parts[one]} and in {part}: an id belongs to one part")
    return SplitFile(name, parts)


def _part(header: str) -> str | None:
    try:
        return read_split(header)
    except CellError:
        return None


def _read_long(table: TextTable, named: Sequence[str], name: str) -> Iterator[tuple[str, str]]:
    """(id, part) of every row; rows without a part take none."""
    for names in (ID_NAMES, PATIENT_NAMES, ("id",), FILE_NAMES):
        ids = [index for index, cell in enumerate(named) if cell in names]
        if ids:
            break
    split = [index for index, cell in enumerate(named) if cell in SPLIT_NAMES]
    if len(ids) != 1 or len(split) != 1:
        raise SplitError(
            f"{name}: {len(ids)} id and {len(split)} split columns; a long split file has one of each "
            "(slide_id or patient_id, and split)"
        )
    for row in table.rows:
        if len(row.cells) <= max(ids[0], split[0]):
            raise SplitError(f"{name}: row {row.row} has {len(row.cells)} cells where the header has {len(named)}")
        try:
            part = read_split(row.cells[split[0]])
        except CellError as error:
            raise SplitError(f"{name}: row {row.row}: {error}") from None
        one = row.cells[ids[0]].strip()
        if part is not None and not one:
            raise SplitError(f"{name}: row {row.row} has a split but no id")
        if part is not None:
            yield one, part


def _read_wide(table: TextTable, columns: Mapping[int, str], name: str) -> Iterator[tuple[str, str]]:
    """(id, part) of every cell under train, val and test."""
    if len(set(columns.values())) < len(columns):
        found = ", ".join(quote(table.header[index]) for index in columns)
        raise SplitError(f"{name}: of columns {found} two are the same part: keep one")
    cells = [
        (row.cells[index].strip(), part)
        for index, part in columns.items()
        for row in table.rows
        if len(row.cells) > index and row.cells[index].strip()
    ]
    if {one.casefold() for one, _ in cells} <= {"true", "false"}:
        raise SplitError(f"{name}: its columns hold true and false, not ids; give the file that lists the ids")
    return iter(cells)


def splits_from_files(
    rows: Sequence[CohortRow],
    files: Sequence[SplitFile],
    task: Task,
    options: SplitOptions,
    seed: int,
    cohort_rows: Sequence[CohortRow],
) -> FileSplits:
    """The folds that the files give, of the slides that can be trained on.

    `rows`: the slides with a target and tiles; `cohort_rows`: all of the table, so that a slide without tiles is told
    from an id that nobody knows. Both kinds of ids take no part, and a note counts them. Where a file has no val,
    validation is taken from its train by `val_fraction`, and a note says so. Raises SplitError for an id that names a
    slide and another patient, a slide or patient in two parts, a file that knows no slide of the cohort, and a part
    that cannot serve.
    """
    if not files:
        raise SplitError("no split file is given")
    resolver = _Resolver(cohort_rows)
    usable = {row.slide_id: row for row in rows}
    splits: list[Split] = []
    notes: list[str] = []
    for fold, file in enumerate(files):
        part_of = resolver.parts(file)
        notes += resolver.notes(file, part_of, usable)
        assigned = [row._replace(split=part_of[row.slide_id]) for row in rows if row.slide_id in part_of]
        if not assigned:
            raise SplitError(f"{file.name} lists no slide or patient of the cohort that has a target and tiles")
        if "val" not in file.parts.values():
            notes.append(f"{file.name} has no val: validation is taken from its train, {options.val_fraction:g} of it")
        splits.append(_split(assigned, task, options, seed, fold, file.name))
    return FileSplits(tuple(splits), (*notes, *_overlap(splits)))


def _split(rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int, fold: int, name: str) -> Split:
    try:
        return split_by_part(rows, task, options, seed, fold, "change the file, or train without split files")
    except SplitError as error:
        raise SplitError(f"{name}: {error}") from None


def _overlap(splits: Sequence[Split]) -> Iterator[str]:
    tested = [slide_id for split in splits for slide_id in split.test]
    repeated = len(tested) - len(set(tested))
    if repeated:
        yield f"the split files test {repeated} slides again that an earlier file tests: folds are not independent"


class _Resolver:
    """Ids → slides, by whole ids."""

    def __init__(self, rows: Sequence[CohortRow]) -> None:
        self.slides = {str(row.slide_id) for row in rows}
        self.slides_of: dict[str, list[SlideId]] = defaultdict(list)
        for row in rows:
            self.slides_of[row.patient_id].append(row.slide_id)

    def parts(self, file: SplitFile) -> dict[SlideId, str]:
        """The part of each slide that the file's ids name; SplitError for a slide in two."""
        part_of: dict[SlideId, str] = {}
        for one, part in file.parts.items():
            for slide_id in self.resolve(one, file.name):
                if part_of.setdefault(slide_id, part) != part:
                    raise SplitError(
                        f"{file.name}: slide {quote(slide_id)} is in {part_of[slide_id]} and, by {quote(one)}, in "
                        f"{part}: a slide belongs to one part"
                    )
        return part_of

    def resolve(self, one: str, name: str) -> list[SlideId]:
        """The slides of one id: the slide or the patient of that id; without its file extension, if need be."""
        for text in dict.fromkeys((one, strip_extension(one))):
            of_patient = self.slides_of.get(text, [])
            if text in self.slides:
                if of_patient and of_patient != [text]:
                    raise SplitError(
                        f"{name}: {quote(text)} is the id of a slide and of a patient of other slides; rename one"
                    )
                return [SlideId(text)]
            if of_patient:
                return of_patient
        return []

    def notes(
        self, file: SplitFile, part_of: Mapping[SlideId, str], usable: Mapping[SlideId, CohortRow]
    ) -> Iterator[str]:
        unknown = [one for one in file.parts if not self.resolve(one, file.name)]
        if unknown:
            yield f"{file.name}: {len(unknown)} of its ids are not in the cohort: {_listed(unknown)}"
        unusable = [slide_id for slide_id in part_of if slide_id not in usable]
        if unusable:
            yield f"{file.name}: {len(unusable)} of its slides have no target or no tiles: {_listed(unusable)}"
        unlisted = [slide_id for slide_id in usable if slide_id not in part_of]
        if unlisted:
            yield f"{file.name} lists {len(unlisted)} slides not at all, they take no part: {_listed(unlisted)}"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(quote(name) for name in sorted(names, key=natural_key)[:_MAX_LISTED]) + rest
