"""The cohort table of a command, read and validated once: nothing starts before it is right."""

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cluster.storage import object_hint, object_identity, read_bytes
from mhim_core.cohort.check import validate
from mhim_core.cohort.findings import Finding
from mhim_core.cohort.table import Cohort, CohortRow, read_cohort
from mhim_core.errors import CohortError, NotFoundError, SlideError
from mhim_core.features import SourceHint, SourceIdentity
from mhim_core.slides.identity import source_hint, source_identity
from mhim_core.types import SlideId, SlideTask

_NUM_THREADS = 16
"""Hints are one HEAD request each for slides at s3://."""


class CohortInput(NamedTuple):
    """A validated cohort and where each of its files lies now."""

    cohort: Cohort
    hints: dict[SlideId, SourceHint]
    """Place, size and version of every file that is there; a missing file has none."""
    warnings: tuple[Finding, ...]

    def tasks(self) -> list[SlideTask]:
        return [SlideTask(row.slide_id, row.uri, row.mpp, row.sha256) for row in self.cohort.rows]


def load_cohort(uri: str, *, strict: bool = False, with_files: bool = True) -> CohortInput:
    """Read and validate the table at a path or an `s3://` URI.

    `with_files=False` looks for none of the slides: training reads features, and a cohort's slides may be offline.
    Raises CohortError listing every finding row by row, StorageError where the table's storage does not answer.
    """
    uri = _table_address(uri)
    try:
        data = read_bytes(uri)
    except NotFoundError:
        raise CohortError(f"cohort={uri}: there is no such file") from None
    base = posixpath.dirname(uri) if "://" in uri else str(Path(uri).parent)
    cohort = read_cohort(data, name=posixpath.basename(uri), base_uri=base)
    if not with_files:
        return CohortInput(cohort, {}, validate(cohort))
    hints = _hints(cohort.rows)

    def num_bytes(row: CohortRow) -> int | None:
        hint = hints.get(row.uri)
        return None if hint is None else hint.num_bytes

    warnings = validate(cohort, num_bytes=num_bytes, identity=_identity, strict=strict)
    return CohortInput(cohort, {row.slide_id: hints[row.uri] for row in cohort.rows if row.uri in hints}, warnings)


def _table_address(uri: str) -> str:
    """An absolute path or an `s3://` URI of one object; a leading `~` is the home folder, as in a shell."""
    if uri.startswith("s3://"):
        if not posixpath.basename(uri) or uri.count("/") < 3:
            raise CohortError(f"cohort={uri} names no object; the cohort is one table, such as s3://bucket/my.csv")
        return uri
    if "://" in uri:
        raise CohortError(f"cohort={uri} is neither a path nor an s3:// URI")
    path = Path(os.path.expanduser(uri)).absolute()
    if path.is_dir():
        raise CohortError(f"cohort={uri} is a folder; the cohort is one table, CSV or Parquet, that lists the slides")
    return str(path)


def slide_hint(uri: str) -> SourceHint:
    """Raises SlideError(NOT_FOUND) for a missing file, NotFoundError for a missing object."""
    return object_hint(uri) if "://" in uri else source_hint(uri)


def slide_identity(task: SlideTask) -> SourceIdentity | None:
    """Which bytes a slide holds now, wherever it lies and however it got there; None if it cannot be read."""
    try:
        return object_identity(task.uri) if "://" in task.uri else source_identity(task.uri)
    except (SlideError, NotFoundError):
        return None


def _hints(rows: Iterable[CohortRow]) -> dict[str, SourceHint]:
    uris = sorted({row.uri for row in rows if row.uri})
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = zip(uris, pool.map(_maybe_hint, uris), strict=True)
        return {uri: hint for uri, hint in found if hint is not None}


def _maybe_hint(uri: str) -> SourceHint | None:
    try:
        return slide_hint(uri)
    except (SlideError, NotFoundError):
        return None


def _identity(row: CohortRow) -> tuple[object, ...] | None:
    """Content of files of equal size: two ids for one file would sit in training and test."""
    if "://" in row.uri:
        return tuple(object_hint(row.uri)[1:])  # size and etag: equal objects of one upload method share an etag
    try:
        return tuple(source_identity(row.uri))
    except SlideError:
        return None
