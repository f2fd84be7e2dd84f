"""Does this commit fit this task? Pure rules over (commit, task, policy, how the source looks now).

Resolution, by who stated the committed one:

    task            override        slide            default
    override v      x = y = v       x = y = v        x = y = v
    no override     no              yes              x = y = default_mpp

The same numbers give the same features, so an override matches whoever stated them. Without an override the slide's own
resolution applies, or `default_mpp` where it states none; a commit made under an override does not tell which, so the
slide is opened again.

Source, by the sha256 that the task names (the cohort table's column) and the one verified for the commit:

    task            none verified    s verified    another verified
    names none      yes              yes           yes
    names s         no               yes           no

"yes" still asks for the source's hint or identity. Where none was verified, the slide is opened again and its sha256
checked first.

Regions (annotation, mask): the task's digest of them is the commit's, "" for none.

A policy never decides whether a commit is right, only whether its slide is let in: a slide committed under a laxer
`max_upsample` is refused by a stricter one without being opened, and is there again when the policy is relaxed.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from mhim_core.features import MppUsed, SourceHint, SourceIdentity
from mhim_core.store.record import CommitRecord
from mhim_core.types import FailureReason, SlideTask, Status, StatusRow


class Admission(Protocol):
    """What admits or refuses a slide; the slides' policy has this shape."""

    @property
    def max_upsample(self) -> float: ...

    @property
    def default_mpp(self) -> float | None: ...

    @property
    def max_mpp_factor(self) -> float: ...


def mpp_matches(used: MppUsed, override: float | None, default_mpp: float | None) -> bool:
    """Would embedding the same source now use the same level-0 resolution? See the table above."""
    if override is not None:
        return used.x == override == used.y
    if used.source == "default":
        return used.x == default_mpp == used.y
    return used.source == "slide"


def sha256_matches(verified: str, named: str | None) -> bool:
    """Is the source that the commit was made of known to be the one the task names? See the table above."""
    return named is None or verified == named.strip().lower()


def find_match(
    task: SlideTask,
    records: Iterable[CommitRecord],
    *,
    hint: SourceHint | None,
    default_mpp: float | None,
    identity: Callable[[SlideTask], SourceIdentity | None] | None = None,
) -> CommitRecord | None:
    """The commit of the task's source as it is now, or None if there is none or the source is not there (no hint).

    An equal hint settles it; else `identity` reads the source, if given and only then. A record found by identity comes
    back with the present hint.
    """
    fitting = [
        record
        for record in records
        if mpp_matches(record.reading.mpp, task.mpp_override, default_mpp)
        and sha256_matches(record.reading.source_sha256, task.sha256)
        and record.reading.regions == task.regions
    ]
    if not fitting or hint is None:
        return None
    for record in fitting:
        if record.reading.hint == hint:
            return record
    present = identity(task) if identity is not None else None
    for record in fitting:
        if record.reading.source == present:
            return record.with_hint(hint)
    return None


def refusal(record: CommitRecord, policy: Admission) -> StatusRow | None:
    """The failure row of a committed slide that the present policy does not let in; None if it does."""
    upsample = record.reading.upsample
    if upsample <= policy.max_upsample:
        return None
    return StatusRow(
        record.slide_id,
        Status.FAILED,
        FailureReason.UPSAMPLE,
        stage="plan",
        error_type="SlideError",
        message=(
            f"slide {record.slide_id} was committed with level 0 enlarged {upsample:.3g} times, over "
            f"max_upsample {policy.max_upsample:.3g}; its features are kept, set max_upsample higher to use them"
        ),
        attempts=0,
    )
