"""Failures, numbered and kept apart from commits: they explain, they can be skipped, they never block a success."""

from collections.abc import Iterable
from typing import NamedTuple

from mhim_core.errors import ConflictError, IntegrityError
from mhim_core.features import SourceHint
from mhim_core.fingerprint import canonical_json, fingerprint, neutral_fields
from mhim_core.outcome import ENCODER_DIED, ENCODER_STOOD_STILL, LOST
from mhim_core.records import parse_json, read_record
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.matching import Admission
from mhim_core.store.parallel import read_all
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

MAX_ATTEMPTS = 9999
NOT_THE_SLIDE = frozenset({FailureReason.NO_SPACE, FailureReason.STORAGE})
"""Reasons that concern a disk or a store, not the slide."""
MAY_PASS = frozenset(
    {
        FailureReason.OPEN,
        FailureReason.READ,
        FailureReason.DECODER_CRASH,
        FailureReason.TIMEOUT,
        FailureReason.BAD_FEATURES,
    }
)
"""Mostly the file's fault, though a faulty mount, too little memory or a broken device causes them too: whether to try
again is the user's decision. The other reasons recur as long as file, task and policy are the same."""


@neutral_fields(decode_timeout_s=None, max_mpp_factor=None)
class RecordedFailure(NamedTuple):
    """One recorded failure and the policy it met."""

    row: StatusRow
    max_upsample: float
    default_mpp: float | None
    decode_timeout_s: float | None = None
    """How long its decoder was allowed to make no progress; None: not recorded."""
    max_mpp_factor: float | None = None
    """None: not recorded."""

    def could_differ(self, policy: Admission, *, decode_timeout_s: float | None, is_there: bool) -> bool:
        """Could the same slide, asked for in the same way, fare otherwise now?

        Refusals could under another policy; a timeout under a longer limit, and where either limit is not known;
        a slide that was not found, if it is seen now (a node lacked the mount); and always what tells nothing of the
        slide: storage, a full disk, an encoder that died or stood still (memory, a limit, a broken device). A decoder
        that crashed on a slide, twice in a row, crashes again.
        """
        reason = self.row.reason
        if self.row.error_type in (LOST, ENCODER_STOOD_STILL, ENCODER_DIED):
            return True
        if reason is FailureReason.NO_MPP:
            return policy.default_mpp != self.default_mpp
        if reason is FailureReason.IMPLAUSIBLE_MPP:
            return (policy.max_mpp_factor, policy.default_mpp) != (self.max_mpp_factor, self.default_mpp)
        if reason is FailureReason.UPSAMPLE:
            return (policy.max_upsample, policy.default_mpp) != (self.max_upsample, self.default_mpp)
        if reason is FailureReason.TIMEOUT:
            then_s, now_s = self.decode_timeout_s, decode_timeout_s
            return then_s is None or now_s is None or now_s > then_s
        if reason is FailureReason.NOT_FOUND:
            return is_there
        return reason in NOT_THE_SLIDE


def record_failure(
    storage: Storage,
    feature_set: str,
    task: SlideTask,
    row: StatusRow,
    policy: Admission,
    hint: SourceHint | None,
    decode_timeout_s: float | None = None,
) -> str:
    """Keep the failure under the next free number; its key. `hint`: how the source looked, None if it was not there."""
    if row.status is not Status.FAILED:
        raise ValueError(f"slide {row.slide_id} is {row.status.value}; only failures are recorded")
    failure = RecordedFailure(row, policy.max_upsample, policy.default_mpp, decode_timeout_s, policy.max_mpp_factor)
    data = canonical_json(failure)
    digest = attempt_digest(task, hint)
    folder = layout.attempt_folder(feature_set, task.slide_id, digest)
    names = [entry.key.rpartition("/")[2].removesuffix(".json") for entry in storage.list(folder)]
    first = max((int(name) for name in names if name.isdecimal()), default=0) + 1  # the last is the newest
    for number in range(first, MAX_ATTEMPTS + 1):
        key = layout.attempt_key(feature_set, task.slide_id, digest, number)
        if storage.put_if_absent(key, data):
            return key
    raise ConflictError(f"slide {task.slide_id}: {MAX_ATTEMPTS} failed attempts are recorded; remove {folder}")


def last_failures(
    storage: Storage, feature_set: str, tasks: Iterable[SlideTask], hints: dict[SlideId, SourceHint | None]
) -> dict[SlideId, RecordedFailure]:
    """The newest recorded failure of each task whose source looks as it did then."""
    newest: dict[str, str] = {}
    for entry in storage.list(layout.attempts_prefix(feature_set)):
        newest[entry.key.rpartition("/")[0]] = entry.key  # sorted by key: the last number stays
    keys = {}
    for task in tasks:
        digest = attempt_digest(task, hints.get(task.slide_id))
        key = newest.get(layout.attempt_folder(feature_set, task.slide_id, digest))
        if key is not None:
            keys[task.slide_id] = key
    contents = read_all(storage, keys.values())
    return {slide_id: _parse(contents[key], storage.locate(key)) for slide_id, key in keys.items() if key in contents}


def attempt_digest(task: SlideTask, hint: SourceHint | None) -> str:
    """What was asked and how the source looked; anything else is a new start, with no failure held against it."""
    source = hint if hint is not None else task.uri
    asked = {"source": source, "mpp_override": task.mpp_override, "sha256": task.sha256}
    return fingerprint(asked | ({"regions": task.regions} if task.regions else {}))


def _parse(data: bytes, origin: str) -> RecordedFailure:
    try:
        raw = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{origin} is no recorded failure: {error}") from error
    return read_record(RecordedFailure, raw, origin)
