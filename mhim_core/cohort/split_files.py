"""Folds given as files, one CSV a fold, in the two layouts of the field.

Long: a column of slide or patient ids and a column `split` (train, val, test). Wide, as of CLAM, TransMIL and MHIM-MIL:
columns `train`, `val` and `test` that list ids, of unequal length; the index column and `train_label` and its like are
not read. Ids are compared whole: in a long file with slides' or patients', as its column is named, else with both; a
data frame's `17.0` is 17. What a file says is what is trained: an unknown id, a part that is filled and of
which nothing can be used, and a column that seems to be a part and is not read are errors.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mhim_core.cohort.cells import TextTable, read_cells
from mhim_core.cohort.columns import FILE_NAMES, ID_NAMES, PATIENT_NAMES, SPLIT_NAMES, column_key, is_named
from mhim_core.cohort.findings import quote, quote_all
from mhim_core.cohort.ids import BARE_ID_NAMES, IdColumns, IdIndex, IdKind, id_candidates, whole_id
from mhim_core.cohort.split_notes import part_notes
from mhim_core.cohort.splits import Split, split_by_part
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.cohort.values import CellError, read_split
from mhim_core.errors import SplitError
from mhim_core.task import Task
from mhim_core.types import SlideId

_COMPANIONS = frozenset({"label", "labels", "target", "targets", "class", "y", "time", "event", "site"})
"""Words in the names of columns that go with a part's ids, such as `train_label`."""


class SplitFile(NamedTuple):
    """One fold as its file has it."""

    name: str
    kind: IdKind
    """Of its ids."""
    parts: dict[str, str]
    """The part, train, val or test, of each id that the file lists, in its order."""


class FileSplits(NamedTuple):
    """The folds, numbered from 0 in the order of their files, and notes on them."""

    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def read_split_file(data: bytes, name: str) -> SplitFile:
    """Read one fold's CSV or Parquet table, long or wide.

    Raises SplitError for a table that is no split, CohortError where the bytes are no table.
    """
    table = read_cells(data, name)
    parts_of_columns = {index: part for index, cell in enumerate(table.header) if (part := _part(cell)) is not None}
    if any(is_named(cell, SPLIT_NAMES) for cell in table.header):
        ids = (id_candidates(table.header) or [IdColumns((), IdKind.either)])[0]
        kind, listed = ids.kind, _read_long(table, ids.indices, name)
    elif "train" in parts_of_columns.values():
        _check_unread(table.header, parts_of_columns, name)
        kind, listed = IdKind.either, _read_wide(table, parts_of_columns, name)
    else:
        columns = ", ".join(quote(cell, 40) for cell in table.header[:12])
        raise SplitError(
            f"{name}: found columns {columns}; expected an id column and `split`, or the columns train, val and test"
        )
    parts: dict[str, str] = {}
    for listed_id, part in listed:
        if parts.setdefault(listed_id, part) != part:
            raise SplitError(
                f"{name}: {quote(listed_id)} is in {parts[listed_id]} and in {part}: an id belongs to one part"
            )
    return SplitFile(name, kind, parts)


def _part(header: str) -> str | None:
    try:
        return read_split(header)
    except CellError:
        return None


def _check_unread(header: Sequence[str], parts: Mapping[int, str], name: str) -> None:
    """SplitError for a column like `val_ids` or `Test set`: not read, its part would count as absent."""
    own = {column_key(known) for known in (*ID_NAMES, *BARE_ID_NAMES, *PATIENT_NAMES, *FILE_NAMES)}
    for index, cell in enumerate(header):
        words = [word for word in re.split(r"[^a-z]+", cell.casefold()) if word]
        if index in parts or column_key(cell) in own or not words or any(word in _COMPANIONS for word in words):
            continue
        if any(_part(word) for word in words):
            raise SplitError(
                f"{name}: column {quote(cell)} seems to list a part and is not read; the columns of ids are called "
                "train, val and test: rename it, or remove it"
            )


def _read_long(table: TextTable, ids: Sequence[int], name: str) -> Iterator[tuple[str, str]]:
    """(id, part) of every row; rows without a part take none."""
    splits = [index for index, cell in enumerate(table.header) if is_named(cell, SPLIT_NAMES)]
    if len(ids) != 1 or len(splits) != 1:
        raise SplitError(
            f"{name}: {len(ids)} id and {len(splits)} split columns; a long split file has one of each "
            "(slide_id or patient_id, and split)"
        )
    id_column, split = ids[0], splits[0]
    for row in table.rows:
        if len(row.cells) <= max(id_column, split):
            raise SplitError(
                f"{name}: row {row.row} has {len(row.cells)} cells where the header has {len(table.header)}"
            )
        try:
            part = read_split(row.cells[split])
        except CellError as error:
            raise SplitError(f"{name}: row {row.row}: {error}") from None
        listed_id = row.cells[id_column].strip()
        if part is not None and not listed_id:
            raise SplitError(f"{name}: row {row.row} has a split but no id")
        if part is not None:
            yield listed_id, part


def _read_wide(table: TextTable, columns: Mapping[int, str], name: str) -> Iterator[tuple[str, str]]:
    """(id, part) of every cell under train, val and test."""
    if len(set(columns.values())) < len(columns):
        headings = ", ".join(quote(table.header[index]) for index in columns)
        raise SplitError(f"{name}: of columns {headings} two are the same part: keep one")
    cells = [
        (row.cells[index].strip(), part)
        for index, part in columns.items()
        for row in table.rows
        if len(row.cells) > index and row.cells[index].strip()
    ]
    if {listed_id.casefold() for listed_id, _ in cells} <= {"true", "false"}:
        raise SplitError(f"{name}: its columns hold true and false, not ids; give the file that lists the ids")
    return iter(cells)


def splits_from_files(
    rows: Sequence[CohortRow],
    files: Sequence[SplitFile],
    task: Task,
    options: SplitOptions,
    seed: int,
    cohort_rows: Sequence[CohortRow],
    *,
    partial: bool = False,
) -> FileSplits:
    """The folds that the files give, of the slides that can be trained on.

    `rows`: the slides with a target and tiles; `cohort_rows`: all of the table, so that a slide without tiles is told
    from an unknown id; `partial`: such ids are left out, with a note. Notes say what takes no part, where
    validation is taken from, what a file does not test, and what several files test again. Raises SplitError for an id
    that nobody knows (unless `partial`), one that could be a slide's or another patient's and nothing says which, a
    slide or patient in two parts, a file that knows no slide of the cohort, a part that lists ids of which none can be
    used, and a training or validation part that cannot serve.
    """
    if not files:
        raise SplitError("no split file is given")
    index = IdIndex(cohort_rows)
    splits: list[Split] = []
    notes: list[str] = []
    for fold, file in enumerate(files):
        part_of = _parts(file, index)
        assigned = [row._replace(split=part_of[row.slide_id]) for row in rows if row.slide_id in part_of]
        if not assigned:
            hint = index.other_kind(index.unknown(file.parts, file.kind), file.kind)
            raise SplitError(f"{file.name} lists no slide or patient of the cohort that has a target and tiles{hint}")
        _check_known(file, index, partial=partial)
        _check_filled(file, assigned)
        notes += _id_notes(file, part_of, index, rows)
        notes += part_notes(assigned, task, options, file.name)
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


def _parts(file: SplitFile, index: IdIndex) -> dict[SlideId, str]:
    """The part of each slide that the file's ids name; SplitError for a slide in two."""
    if ambiguity := index.ambiguity(file.parts, file.kind):
        raise SplitError(f"{file.name}: {ambiguity}")
    part_of: dict[SlideId, str] = {}
    for listed_id, part in file.parts.items():
        for slide_id in index.slides(listed_id, file.kind):
            if part_of.setdefault(slide_id, part) != part:
                raise SplitError(
                    f"{file.name}: slide {quote(slide_id)} is in {part_of[slide_id]} and, by {quote(listed_id)}, in "
                    f"{part}: a slide belongs to one part"
                )
    return part_of


def check_known(files: Sequence[SplitFile], rows: Sequence[CohortRow], *, partial: bool) -> None:
    """Raises SplitError for ids of the files that are not the cohort's, unless `partial`."""
    index = IdIndex(rows)
    for file in files:
        _check_known(file, index, partial=partial)


def _check_known(file: SplitFile, index: IdIndex, *, partial: bool) -> None:
    """Raises SplitError for unknown ids: without them, the experiment would not be the one that the file describes."""
    unknown = index.unknown(file.parts, file.kind)
    if unknown and not partial:
        hint = index.other_kind(unknown, file.kind) + index.alike(unknown, file.kind)
        raise SplitError(
            f"{file.name}: {len(unknown)} of its {len(file.parts)} {file.kind.ids} are not in the cohort: "
            f"{quote_all(unknown)}{hint}; correct them, or set partial_splits=true to go without them"
        )


def _check_filled(file: SplitFile, assigned: Sequence[CohortRow]) -> None:
    """Raises SplitError for a part for which the file lists ids, none of which can be used."""
    listed, usable = Counter(file.parts.values()), {row.split for row in assigned}
    for part, number in listed.items():
        if part not in usable:
            raise SplitError(
                f"{file.name}: {part} lists {number} ids, and none is of a slide with a target and tiles: "
                f"{quote_all(listed_id for listed_id, own in file.parts.items() if own == part)}"
            )


def _id_notes(
    file: SplitFile, part_of: Mapping[SlideId, str], index: IdIndex, rows: Sequence[CohortRow]
) -> Iterator[str]:
    usable = {row.slide_id for row in rows}
    if whole := index.as_whole(file.parts, file.kind):
        first = f"{quote(whole[0])} as {quote(whole_id(whole[0]))}"
        yield f"{file.name}: {len(whole)} ids are read as whole numbers, {first}"
    if unknown := index.unknown(file.parts, file.kind):
        hint = index.other_kind(unknown, file.kind)
        yield f"{file.name}: {len(unknown)} of its {file.kind.ids} are not in the cohort{hint}: {quote_all(unknown)}"
    if unusable := [slide_id for slide_id in part_of if slide_id not in usable]:
        yield f"{file.name}: {len(unusable)} of its slides have no target or no tiles: {quote_all(unusable)}"
    if unlisted := [slide_id for slide_id in usable if slide_id not in part_of]:
        yield f"{file.name} does not list {len(unlisted)} slides, which take no part: {quote_all(unlisted)}"
