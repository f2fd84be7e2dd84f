"""What a cohort's table adds to the viewer: where slides are, and rows of those that are in no run."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from flows.runs.cohort import load_cohort
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.task_options import TableOptions
from mhim_core.storage import Storage
from mhim_core.store.record import CommitRecord
from mhim_core.types import SlideId, Status
from mhim_core.view.failed import FailedBefore, recorded_failures
from mhim_core.view.worklist import RowStatus, WorklistRow


class CohortPlaces(NamedTuple):
    """A cohort's table."""

    uris: dict[str, str]
    """Where each slide's file is."""
    rows: tuple[CohortRow, ...]


def read_places(uri: str, options: TableOptions) -> CohortPlaces | None:
    """The table at a path or URI; None for no table. Raises CohortError, StorageError."""
    if not uri:
        return None
    rows = load_cohort(uri, with_files=False, options=options).cohort.rows
    return CohortPlaces({str(row.slide_id): row.uri for row in rows if row.uri}, tuple(rows))


def rows_beside(
    cohort: CohortPlaces | None,
    listed: Collection[str],
    store: Storage,
    feature_set: str,
    entries: Mapping[SlideId, CommitRecord],
) -> list[WorklistRow]:
    """Rows of the table's slides that are not `listed`, with what the store has recorded of them."""
    rows = [] if cohort is None else [row for row in cohort.rows if row.slide_id not in listed]
    if not rows:
        return []
    failures = recorded_failures(store, feature_set, entries.keys())
    return [_row(row, entries.get(row.slide_id), failures.get(row.slide_id)) for row in rows]


def failed_row(slide_id: str, failure: FailedBefore) -> WorklistRow:
    """Of a slide of which nothing else is known."""
    return WorklistRow(slide_id=slide_id, status=RowStatus.failed, reason=failure.reason, message=failure.message)


def _row(row: CohortRow, entry: CommitRecord | None, failure: FailedBefore | None) -> WorklistRow:
    status = RowStatus.absent
    if entry is not None:
        status = RowStatus.ok if entry.status is Status.OK else RowStatus.empty
    elif failure is not None:
        status = RowStatus.failed
    return WorklistRow(
        slide_id=row.slide_id,
        patient_id=row.patient_id,
        site=row.site,
        label=row.label,
        status=status,
        num_tiles=None if entry is None else entry.num_tiles,
        reason=failure.reason if failure is not None and entry is None else "",
        message=failure.message if failure is not None and entry is None else "",
    )
