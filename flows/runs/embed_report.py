"""The report of one embedding run: counts, and one row per failed slide."""

import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flows.engine.result import FlowResult
from mhim_core.fingerprint import canonical_json
from mhim_core.outcome import Outcome
from mhim_core.storage import Storage
from mhim_core.store.failures import MAY_PASS
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import ManifestRef
from mhim_core.store.record import CommitRecord
from mhim_core.tables import write_csv
from mhim_core.types import FailureReason, SlideId, Status, StatusRow


class Embedded(NamedTuple):
    """The result of embedding a cohort."""

    result: FlowResult
    outcome: Outcome
    entries: dict[SlideId, CommitRecord]
    """The commit of each slide that has one for its present file and resolution."""


MAX_LINES = 20
"""Slides of one kind that are listed on the terminal."""


def new_report() -> str:
    """The key of a folder for a command's report in its store; `reports/<time>-<random>`."""
    return f"reports/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def write_report(
    storage: Storage, feature_set: FeatureSet, outcome: Outcome, manifest: ManifestRef, num_retries: int = 0
) -> str:
    """Write `reports/<time>-<random>/summary.json`, `failed.csv`, `seen.csv`; the folder's key.

    `num_retries`: requests to the storage that had to be repeated, as `flows.runs.storage_retries` counts them.
    """
    folder = new_report()
    summary = {
        "feature_set": feature_set.fingerprint,
        "encoder": feature_set.encoder_id,
        "manifest": manifest,
        "num_input": len(outcome.rows),
        "counts": {status.value: outcome.count(status) for status in Status},
        "failures_by_reason": outcome.reasons,
        "empty": [row.slide_id for row in outcome.empty],
        "storage_retries": num_retries,
        "num_tiles": sum(row.num_tiles for row in outcome.rows),
        "encoder_seconds": {
            name: round(sum(getattr(row, f"{name}_s") for row in outcome.rows), 1)
            for name in ("waited", "encoded", "stored")
        },
        "nodes": sorted({row.node_id for row in outcome.rows if row.node_id}),
    }
    storage.put(f"{folder}/summary.json", canonical_json(summary))
    storage.put(f"{folder}/failed.csv", failed_table(outcome))
    seen = [
        {"slide_id": row.slide_id, "what": "no tissue" if row in outcome.empty else "warning", "message": row.message}
        for row in (*outcome.empty, *outcome.notable)
    ]
    storage.put(f"{folder}/seen.csv", write_csv(seen, ("slide_id", "what", "message")))
    return folder


def failed_table(outcome: Outcome) -> bytes:
    """`failed.csv`: one row per failed slide."""
    columns = ("slide_id", "reason", "stage", "error_type", "message", "attempts")
    return write_csv([{name: str(getattr(row, name)) for name in columns} for row in outcome.failed], columns)


def view_lines(outcome: Outcome) -> Iterator[str]:
    """Lines for the slides without tissue and for those with a warning, with what was seen on them."""
    for row in outcome.empty[:MAX_LINES]:
        yield f"  {row.slide_id}: no tissue" + (f": {row.message}" if row.message else "")
    for row in outcome.notable[:MAX_LINES]:
        yield f"  warning: {row.slide_id}: {row.message}"
    num_more = max(0, len(outcome.empty) - MAX_LINES) + max(0, len(outcome.notable) - MAX_LINES)
    if num_more:
        yield f"  and {num_more} more, in the report"


def retry_advice(given_up: Iterable[StatusRow]) -> str:
    """Advice about slides that failed before and were not tried again; empty if trying again would not help."""
    reasons = [row.reason for row in given_up if row.reason in MAY_PASS]
    if not reasons:
        return ""
    longer = " (a higher decode_timeout_s= tries those that timed out)" if FailureReason.TIMEOUT in reasons else ""
    return (
        f"{len(reasons)} of the failed were not tried again, since the same file failed before; once the cause is "
        f"fixed, retry_failed=true tries all of them{longer}"
    )
