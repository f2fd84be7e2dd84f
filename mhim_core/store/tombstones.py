"""Which slides were taken out of a store on purpose: a mark per feature set and slide, under a digest of its id.

A run that began before the removal still holds the slide's commit in its memory. The mark tells it, when it writes its
manifest, to see whether that commit still stands; and it tells `verify` that nothing was lost.
"""

from collections.abc import Iterable

from mhim_core.fingerprint import canonical_json
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import SCHEMA_VERSION
from mhim_core.types import SlideId


def mark_removed(storage: Storage, feature_set: str, slide_ids: Iterable[SlideId]) -> None:
    """Say that these slides of the set with this fingerprint are being removed. A mark stays for good."""
    for slide_id in slide_ids:
        storage.put_if_absent(
            layout.removal_key(feature_set, slide_id), canonical_json({"schema_version": SCHEMA_VERSION})
        )


def removal_marks(storage: Storage, feature_set: str) -> frozenset[str]:
    """The keys of all marks of the set with this fingerprint."""
    return frozenset(entry.key for entry in storage.list(layout.removals_prefix(feature_set)))


def removed_slides(storage: Storage, feature_set: str, records: Iterable[CommitRecord]) -> frozenset[SlideId]:
    """The slides of these records that are marked, and whose commit is not there (any more)."""
    marks = removal_marks(storage, feature_set)
    if not marks:
        return frozenset()
    marked = [record for record in records if layout.removal_key(feature_set, record.slide_id) in marks]
    return frozenset(record.slide_id for record in marked if not _is_committed(storage, record))


def _is_committed(storage: Storage, record: CommitRecord) -> bool:
    commits = storage.list(layout.slide_commits_prefix(record.feature_set, record.slide_id))
    return any(entry.key == record.commit_key for entry in commits)
