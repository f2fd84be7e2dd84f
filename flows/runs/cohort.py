"""The cohort table of a command, read and validated once, before anything starts."""

import dataclasses
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cluster.storage import object_hint, object_hints, object_identity, open_storage, read_bytes
from cluster.tile_selection import TileSelection
from mhim_core.cohort.check import validate
from mhim_core.cohort.findings import Finding
from mhim_core.cohort.folders import folder_table
from mhim_core.cohort.labels import join_labels, read_labels
from mhim_core.cohort.spellings import merge_spellings
from mhim_core.cohort.split_files import SplitFile, read_split_file
from mhim_core.cohort.table import Cohort, CohortRow, read_cohort
from mhim_core.cohort.task_options import AS_FOUND, LabelSpellings, TableOptions
from mhim_core.errors import CohortError, NotFoundError, SlideError
from mhim_core.features import SourceHint, SourceIdentity
from mhim_core.slides.source_identity import source_hint, source_identity
from mhim_core.store.parallel import map_all
from mhim_core.types import SlideId, SlideTask, StatusRow

_TABLES = {
    "cohort": "the cohort is one table, CSV, xlsx or Parquet, that lists the slides, or a folder of them",
    "labels": "the labels are one table, CSV, xlsx or Parquet, of slide or patient ids and labels",
    "split_files": "a split file is one table, CSV, xlsx or Parquet, a fold",
}


class CohortInput(NamedTuple):
    """A validated cohort, and where each of its files is now."""

    cohort: Cohort
    hints: dict[SlideId, SourceHint]
    """Place, size and version of every file that exists."""
    warnings: tuple[Finding, ...]
    regions: Mapping[SlideId, SlideTask] = MappingProxyType({})
    """The tasks of slides of which more than the file is used (`flows.runs.regions`)."""
    refused: tuple[StatusRow, ...] = ()
    """Slides that lack a file that is needed, or whose is unreadable: failed without being opened."""
    selection: TileSelection | None = None
    """How the tiles of the tasks in `regions` are chosen; None: all are embedded."""

    def tasks(self) -> list[SlideTask]:
        """One task a slide, in the order of the table."""
        return [
            self.regions.get(row.slide_id) or SlideTask(row.slide_id, row.uri, row.mpp, row.sha256)
            for row in self.cohort.rows
        ]

    def region_digests(self) -> dict[SlideId, str]:
        """Of what is used beside each slide's file, where anything is."""
        return {slide_id: task.regions for slide_id, task in self.regions.items() if task.regions}

    def open_tasks(self) -> list[SlideTask]:
        """Those of slides that are not refused."""
        refused = {row.slide_id for row in self.refused}
        return [task for task in self.tasks() if task.slide_id not in refused]


def load_cohort(
    uri: str,
    *,
    strict: bool = False,
    with_files: bool = True,
    labels_uri: str = "",
    options: TableOptions = AS_FOUND,
) -> CohortInput:
    """Read and validate the table at a path or an `s3://` URI, or list the slides of a folder.

    `with_files=False` does not look for the slides: training reads features, and a cohort's slides may be offline.
    `labels_uri`: a table of labels, with or without header, that takes the place of the cohort's own labels.
    Raises CohortError listing every finding row by row, StorageError if the table's storage does not answer.
    """
    if options.slides_dir:
        options = dataclasses.replace(options, slides_dir=os.path.expanduser(options.slides_dir))
    cohort = _read_cohort(uri, options.without_targets() if labels_uri else options)
    if labels_uri:
        labels_uri = _table_address(labels_uri, "labels")
        labels = read_labels(_read_table(labels_uri, "labels"), posixpath.basename(labels_uri), options)
        cohort = join_labels(cohort, labels)
    if options.label_spellings is LabelSpellings.merge:
        cohort = merge_spellings(cohort)
    if not with_files:
        return CohortInput(cohort, {}, validate(cohort))
    hints = _hints(cohort.rows)

    def num_bytes(row: CohortRow) -> int | None:
        hint = hints.get(row.uri)
        return None if hint is None else hint.num_bytes

    warnings = validate(cohort, num_bytes=num_bytes, identity=_identity, strict=strict)
    return CohortInput(cohort, {row.slide_id: hints[row.uri] for row in cohort.rows if row.uri in hints}, warnings)


def is_slide_folder(uri: str) -> bool:
    """Whether the cohort is a folder, or an `s3://` prefix that ends in a slash, instead of a table."""
    if uri.startswith("s3://"):
        return uri.endswith("/") and uri.count("/") > 3
    return bool(uri) and "://" not in uri and Path(os.path.expanduser(uri)).is_dir()


def _read_cohort(uri: str, options: TableOptions) -> Cohort:
    if is_slide_folder(uri):
        folder = uri.rstrip("/") if "://" in uri else str(Path(os.path.expanduser(uri)).absolute())
        keys = [entry.key for entry in open_storage(folder).list("")]
        data, notes = folder_table(keys, posixpath.basename(folder))
        cohort = read_cohort(data, name=posixpath.basename(folder), base_uri=folder, options=options)
        return dataclasses.replace(cohort, notes=(*notes, *cohort.notes))
    uri = _table_address(uri, "cohort")
    base = posixpath.dirname(uri) if "://" in uri else str(Path(uri).parent)
    return read_cohort(_read_table(uri, "cohort"), name=posixpath.basename(uri), base_uri=base, options=options)


def load_split_files(uris: Sequence[str]) -> tuple[SplitFile, ...]:
    """The predefined folds at these paths or `s3://` URIs, one file a fold, in the order given.

    Raises CohortError for a file that is missing or is not a table, SplitError for one that defines no split.
    """
    addresses = [_table_address(uri, "split_files") for uri in uris]
    return tuple(read_split_file(_read_table(uri, "split_files"), posixpath.basename(uri)) for uri in addresses)


def _read_table(uri: str, key: str) -> bytes:
    try:
        return read_bytes(uri)
    except NotFoundError:
        raise CohortError(f"{key}={uri}: there is no such file") from None


def _table_address(uri: str, key: str) -> str:
    """An absolute path or an `s3://` URI of one object; a leading `~` is the home folder, as in a shell."""
    if uri.startswith("s3://"):
        if not posixpath.basename(uri) or uri.count("/") < 3:
            raise CohortError(f"{key}={uri} names no object; {_TABLES[key]}, such as s3://bucket/my.csv")
        return uri
    if "://" in uri:
        raise CohortError(f"{key}={uri} is neither a path nor an s3:// URI")
    path = Path(os.path.expanduser(uri)).absolute()
    if path.is_dir():
        raise CohortError(f"{key}={uri} is a folder; {_TABLES[key]}")
    return str(path)


def slide_hint(uri: str) -> SourceHint:
    """Raises SlideError(NOT_FOUND) for a missing file, NotFoundError for a missing object."""
    return object_hint(uri) if "://" in uri else source_hint(uri)


def slide_identity(task: SlideTask) -> SourceIdentity | None:
    """The identity of a slide's present content, wherever it lies; None if it cannot be read."""
    try:
        return object_identity(task.uri) if "://" in task.uri else source_identity(task.uri)
    except (SlideError, NotFoundError):
        return None


def _hints(rows: Iterable[CohortRow]) -> dict[str, SourceHint]:
    uris = sorted({row.uri for row in rows if row.uri})
    local = [uri for uri in uris if "://" not in uri]
    hints = zip(local, map_all(_hint_if_there, local), strict=True)
    return {uri: hint for uri, hint in hints if hint is not None} | object_hints(uri for uri in uris if "://" in uri)


def _hint_if_there(path: str) -> SourceHint | None:
    try:
        return source_hint(path)
    except SlideError:
        return None


def _identity(row: CohortRow) -> tuple[object, ...] | None:
    """Content of files of equal size: one file under two ids could be in training and test."""
    if "://" in row.uri:
        return tuple(object_hint(row.uri)[1:])  # size and etag: equal objects of one upload method share an etag
    try:
        return tuple(source_identity(row.uri))
    except SlideError:
        return None
