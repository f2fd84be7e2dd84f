"""Slides that a store has recorded as failed and never committed, with their reason."""

from collections.abc import Collection
from typing import Any, NamedTuple

from mhim_core.records import parse_json
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.parallel import read_all
from mhim_core.types import SlideId

MAX_FAILURES = 5000


class FailedBefore(NamedTuple):
    """A recorded failure."""

    reason: str
    message: str


def recorded_failures(
    storage: Storage, feature_set: str, committed: Collection[SlideId]
) -> dict[SlideId, FailedBefore]:
    """The newest failure of each slide that has no commit: a listing, and a small file each, 5,000 at most."""
    newest: dict[SlideId, tuple[float, str]] = {}
    for entry in storage.list(layout.attempts_prefix(feature_set)):
        slide_id = SlideId(entry.key.split("/")[2])
        if slide_id not in committed:
            newest[slide_id] = max(newest.get(slide_id, (0.0, "")), (entry.modified_s, entry.key))
    chosen = dict(sorted(newest.items())[:MAX_FAILURES])
    contents = read_all(storage, [key for _, key in chosen.values()])
    failures = {}
    for slide_id, (_, key) in chosen.items():
        if key in contents:
            failures[slide_id] = _failure(contents[key])
    return failures


def _failure(data: bytes) -> FailedBefore:
    """A record that cannot be read is a failure all the same."""
    try:
        row: Any = parse_json(data)["row"]
        return FailedBefore(str(row.get("reason") or "failed"), str(row.get("message", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return FailedBefore("failed", "its record cannot be read")
