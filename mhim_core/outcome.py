"""The outcome of embedding a cohort: one row per slide, counts that add up, and the exit code they mean."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mhim_core.types import ExitCode, FailureReason, SlideId, SlideTask, Status, StatusRow

LOST = "ActorDied"
ENCODER_STOOD_STILL = "EncoderStandsStill"
ENCODER_DIED = "EncoderDied"
"""`error_type` of a slide that was lost with the process that held it, and perhaps others: it may be none's fault."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The reconciled result of one run: exactly one row per slide of the cohort, in its order."""

    rows: tuple[StatusRow, ...]

    def count(self, status: Status) -> int:
        return sum(row.status is status for row in self.rows)

    @property
    def failed(self) -> tuple[StatusRow, ...]:
        return tuple(row for row in self.rows if row.status is Status.FAILED)

    @property
    def reasons(self) -> dict[str, int]:
        """Failures by reason, most frequent first."""
        return dict(Counter(row.reason.value for row in self.failed if row.reason).most_common())

    @property
    def empty(self) -> tuple[StatusRow, ...]:
        """Slides without tissue, those that an earlier run found so included."""
        return tuple(row for row in self.rows if row.is_empty or row.status is Status.EMPTY)

    @property
    def notable(self) -> tuple[StatusRow, ...]:
        """Embedded slides with something to look at."""
        return tuple(row for row in self.rows if row.status is Status.OK and row.message)

    def exit_code(self, max_failed_fraction: float, max_empty_fraction: float = 1.0) -> ExitCode:
        """0, 3 (some failed) or 4 (more than the fraction of all slides, skipped ones included, failed).

        Slides without tissue count as failed once they are more than `max_empty_fraction` of all.
        """
        num_failed = len(self.failed)
        if len(self.empty) > max_empty_fraction * len(self.rows):
            num_failed += len(self.empty)
        if num_failed == 0:
            return ExitCode.OK
        within = num_failed <= max_failed_fraction * len(self.rows)
        return ExitCode.PARTIAL if within else ExitCode.TOO_MANY_FAILED

    def summary(self) -> str:
        """`24 slides: 20 ok, 1 empty, 2 failed (no_mpp 2), 1 skipped`."""
        parts = []
        for status in Status:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            detail = f" ({reasons})" if status is Status.FAILED and reasons else ""
            parts.append(f"{self.count(status)} {status.value}{detail}")
        return f"{len(self.rows)} slide{'s' * (len(self.rows) != 1)}: " + ", ".join(parts)


def reconcile(slide_ids: Sequence[SlideId], rows: Iterable[StatusRow]) -> Outcome:
    """Hold the input list against what came back: n_input = n_ok + n_empty + n_failed + n_skipped.

    A slide without a row was lost with the process that held it, and counts as failed; of two rows of one slide (its
    work was repeated after a crash) the last one counts.
    """
    by_id = {row.slide_id: row for row in rows}
    unknown = set(by_id) - set(slide_ids)
    assert not unknown, f"rows of slides that are not in the cohort: {sorted(unknown)[:5]}"
    outcome = Outcome(rows=tuple(by_id.get(slide_id) or _lost(slide_id) for slide_id in slide_ids))
    assert len(slide_ids) == sum(outcome.count(status) for status in Status)
    return outcome


_BY_WEIGHT = (Status.FAILED, Status.OK, Status.EMPTY, Status.SKIPPED)


def merged(rows: Sequence[StatusRow]) -> StatusRow:
    """One row of a slide from its rows by encoder: failed if it failed for any; its tiles are counted once.

    Reason, stage and type are those of the first that failed; the messages stand side by side.
    """
    if len(rows) == 1:
        return rows[0]
    first = min(rows, key=lambda row: _BY_WEIGHT.index(row.status))
    telling = [row.message for row in rows if row.message and row.status is first.status]
    return first._replace(
        message="; ".join(dict.fromkeys(telling)),
        attempts=max(row.attempts for row in rows),
        num_tiles=max(row.num_tiles for row in rows),
        num_bytes=sum(row.num_bytes for row in rows),
        seconds=max(row.seconds for row in rows),
        retries=max(row.retries for row in rows),
        commit_key="",
        is_empty=any(row.is_empty for row in rows),
        parts=tuple(rows),
    )


def parts_of(row: StatusRow, task: SlideTask, num_encoders: int) -> dict[int, StatusRow]:
    """The task's row by encoder, whose place among `num_encoders` is the key."""
    places = task.encoders or tuple(range(num_encoders))
    return dict(zip(places, row.parts or (row,) * len(places), strict=True))


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of several encoders' for the same slides: each slide is counted once, as `merged` has it."""
    return Outcome(rows=tuple(merged(rows) for rows in zip(*(outcome.rows for outcome in outcomes), strict=True)))


def _lost(slide_id: SlideId) -> StatusRow:
    return StatusRow(
        slide_id,
        Status.FAILED,
        FailureReason.DECODER_CRASH,
        stage="encode",
        error_type=LOST,
        message="the process that held this slide died and its work did not come back; run again",
    )
