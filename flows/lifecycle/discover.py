"""The present state of the cohort: content of its files, features in the store, files that a prefix adds."""

import dataclasses
from typing import NamedTuple

from cluster.storage import open_storage
from flows.runs.cohort import CohortInput, slide_hint, slide_identity
from mhim_core.cohort.check import SLIDE_ID, validate
from mhim_core.cohort.columns import has_slide_extension
from mhim_core.cohort.folders import slide_keys
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.slide_names import slide_id_of
from mhim_core.errors import CohortError
from mhim_core.features import SourceIdentity
from mhim_core.storage import Storage
from mhim_core.store.manifest import newest_version, read_manifest
from mhim_core.store.parallel import map_all
from mhim_core.store.record import CommitRecord
from mhim_core.types import PatientId, SlideId, SlideTask


class Features(NamedTuple):
    """The store's features of one feature set: its newest manifest, or nothing yet."""

    entries: dict[SlideId, CommitRecord]

    def with_tiles(self) -> dict[SlideId, CommitRecord]:
        """Without slides on which no tissue was found."""
        return {slide_id: record for slide_id, record in self.entries.items() if record.num_tiles}


def read_features(store: Storage, feature_set: str) -> Features:
    """Of the feature set with this fingerprint. Raises IntegrityError if its manifest is damaged."""
    version = newest_version(store, feature_set)
    return Features({} if version is None else read_manifest(store, feature_set, version).entries)


def contents_of(cohort_input: CohortInput, features: Features) -> dict[SlideId, SourceIdentity]:
    """The identity of each slide's present content, for slides that can be read.

    A file whose hint the manifest knows is not read again; a file that is unreachable keeps its recorded identity.
    """

    def look(task: SlideTask) -> SourceIdentity | None:
        hint, entry = cohort_input.hints.get(task.slide_id), features.entries.get(task.slide_id)
        if entry is not None and hint in (None, entry.reading.hint):
            return entry.reading.source
        return None if hint is None else slide_identity(task)

    tasks = cohort_input.tasks()
    sources = zip(tasks, map_all(look, tasks), strict=True)
    return {task.slide_id: source for task, source in sources if source is not None}


def with_prefix(cohort_input: CohortInput, prefix: str) -> CohortInput:
    """The cohort and, without labels, the slide files below a folder or `s3://` prefix that it does not list.

    Their ids are their file names, made safe. Raises CohortError if two files, or a file and a row, would share an id.
    """
    listed = {row.uri for row in cohort_input.cohort.rows}
    storage = open_storage(prefix)
    uris = [
        storage.locate(key) for key in slide_keys(entry.key for entry in storage.list("")) if has_slide_extension(key)
    ]
    rows = [_row(uri) for uri in uris if uri not in listed]
    if wrong := [row.slide_id for row in rows if not SLIDE_ID.fullmatch(row.slide_id)]:
        raise CohortError(
            f"slides_prefix={prefix}: {len(wrong)} file names cannot be slide ids (of 128 characters at most), such as "
            f"{wrong[0]!r}; rename them, or list them in the table under other ids"
        )
    cohort = dataclasses.replace(cohort_input.cohort, rows=(*cohort_input.cohort.rows, *rows))
    validate(cohort)
    return cohort_input._replace(
        cohort=cohort, hints=cohort_input.hints | {row.slide_id: slide_hint(row.uri) for row in rows}
    )


def _row(uri: str) -> CohortRow:
    slide_id = slide_id_of(uri)
    return CohortRow(SlideId(slide_id), uri, PatientId(slide_id))
