"""New slides of a model that was trained on imported features: theirs are imported too, and found in a store."""

from collections.abc import Mapping
from typing import Any

from flows.config.keys import FailurePolicy
from flows.engine.result import FlowResult
from flows.runs.cohort import CohortInput
from flows.runs.embed_report import MAX_LINES, Embedded
from mhim_core.errors import InputError
from mhim_core.outcome import reconcile
from mhim_core.printable import one_line
from mhim_core.storage import Storage
from mhim_core.store.foreign.importing import imported_set
from mhim_core.store.manifest import newest_version, read_manifest
from mhim_core.store.matching import sha256_matches
from mhim_core.store.record import CommitRecord, skipped_row
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow


def find_imported(
    cohort_input: CohortInput,
    tiling: Mapping[str, Any],
    encoder: Mapping[str, Any],
    storage: Storage,
    failures: FailurePolicy,
) -> Embedded:
    """The cohort's slides in the newest manifest of this imported feature set; those that it lacks failed as not_found.

    Raises InputError where the store has no such features.
    """
    feature_set = imported_set(tiling, encoder)
    if newest_version(storage, feature_set.fingerprint) is None:
        raise InputError(
            f"the model was trained on features of {feature_set.encoder_id}, imported from another tool, and "
            f"{storage.uri} has none with the same tiling: import those of the new slides with mhim import, and name "
            "that store with store="
        )
    manifest = read_manifest(storage, feature_set.fingerprint)
    tasks = cohort_input.tasks()
    rows = [_row(task, manifest.entries.get(task.slide_id)) for task in tasks]
    outcome = reconcile([task.slide_id for task in tasks], rows)
    print(outcome.summary())
    for row in outcome.failed[:MAX_LINES]:
        print(one_line(f"  {row.slide_id}: {row.reason}: {row.message}"))
    entries: dict[SlideId, CommitRecord] = {
        row.slide_id: manifest.entries[row.slide_id] for row in outcome.rows if row.status is not Status.FAILED
    }
    result = FlowResult(exit_code=failures.exit_code_of(outcome), outputs={"store": storage.uri}, recomputed=False)
    return Embedded(result, outcome, entries)


def _row(task: SlideTask, record: CommitRecord | None) -> StatusRow:
    if record is None:
        reason, message = FailureReason.NOT_FOUND, "its features are not imported; mhim import brings them in"
    elif not sha256_matches(record.reading.source_sha256, task.sha256):
        reason, message = FailureReason.SOURCE_HASH_MISMATCH, "imported features are not known to be of that sha256"
    else:
        return skipped_row(record)
    return StatusRow(task.slide_id, Status.FAILED, reason, stage="open", message=f"slide {task.slide_id}: {message}")
