import pytest

from mhim_core.outcome import joined, merged, parts_of, reconcile
from mhim_core.types import ExitCode, FailureReason, SlideId, SlideTask, Status, StatusRow

IDS = [SlideId(f"s{index}") for index in range(10)]


def rows(num_failed: int) -> list[StatusRow]:
    failed = [StatusRow(slide_id, Status.FAILED, FailureReason.NO_MPP) for slide_id in IDS[:num_failed]]
    return failed + [StatusRow(slide_id, Status.OK) for slide_id in IDS[num_failed:]]


@pytest.mark.parametrize(
    ("num_failed", "code"), [(0, ExitCode.OK), (1, ExitCode.PARTIAL), (2, ExitCode.TOO_MANY_FAILED)]
)
def test_the_exit_code_follows_the_failed_share_of_all_slides(num_failed: int, code: ExitCode) -> None:
    assert reconcile(IDS, rows(num_failed)).exit_code(0.1) is code


def test_a_slide_without_a_row_is_counted_as_failed_and_the_counts_add_up() -> None:
    outcome = reconcile(IDS, rows(1)[:-2])
    assert [row.slide_id for row in outcome.rows] == IDS
    assert outcome.reasons == {"decoder_crash": 2, "no_mpp": 1}
    assert outcome.summary() == "10 slides: 7 ok, 0 empty, 3 failed (decoder_crash 2, no_mpp 1), 0 skipped"


def test_the_last_of_two_rows_of_one_slide_counts() -> None:
    assert reconcile(IDS, [*rows(1), StatusRow(IDS[0], Status.OK)]).count(Status.OK) == 10


def test_a_row_of_a_foreign_slide_is_a_programmer_error() -> None:
    with pytest.raises(AssertionError, match="not in the cohort"):
        reconcile(IDS, [StatusRow(SlideId("other"), Status.OK)])


def test_empty_slides_count_as_failed_beyond_their_fraction_alone() -> None:
    ids = [SlideId(f"s{number}") for number in range(10)]
    rows = [StatusRow(slide_id, Status.OK, num_tiles=1) for slide_id in ids[:8]]
    rows += [StatusRow(ids[8], Status.EMPTY), StatusRow(ids[9], Status.SKIPPED, is_empty=True)]
    outcome = reconcile(ids, rows)
    assert [row.slide_id for row in outcome.empty] == ids[8:]
    assert outcome.exit_code(0.1, 0.2) is ExitCode.OK
    assert outcome.exit_code(0.2, 0.1) is ExitCode.PARTIAL
    assert outcome.exit_code(0.1, 0.1) is ExitCode.TOO_MANY_FAILED


def test_a_slide_s_row_of_several_encoders_fails_with_any_and_counts_its_tiles_once() -> None:
    a, b = (StatusRow(IDS[0], status, num_tiles=7, num_bytes=10) for status in (Status.SKIPPED, Status.OK))
    row = merged([a, b])
    assert (row.status, row.num_tiles, row.num_bytes, row.parts) == (Status.OK, 7, 20, (a, b))
    failed = StatusRow(IDS[0], Status.FAILED, FailureReason.BAD_FEATURES, "encode", "SlideError", "why")
    row = merged([a, failed, failed._replace(reason=FailureReason.STORAGE, message="denied")])
    assert (row.status, row.reason, row.message) == (Status.FAILED, FailureReason.BAD_FEATURES, "why; denied")
    assert merged([a, StatusRow(IDS[0], Status.EMPTY, is_empty=True)]).status is Status.EMPTY
    assert merged([failed]) == failed


def test_the_parts_of_a_row_belong_to_the_encoders_of_its_task() -> None:
    a, b = StatusRow(IDS[0], Status.OK), StatusRow(IDS[0], Status.FAILED)
    task = SlideTask(IDS[0], "s.svs")
    assert parts_of(merged([a, b]), task, 2) == {0: a, 1: b}
    assert parts_of(merged([a, b]), task._replace(encoders=(0, 2)), 3) == {0: a, 2: b}
    assert parts_of(b, task, 2) == {0: b, 1: b}, "it failed as a whole"
    assert parts_of(a, task._replace(encoders=(1,)), 3) == {1: a}


def test_the_joined_outcome_counts_a_slide_once_that_failed_for_one_encoder() -> None:
    outcome = joined([reconcile(IDS, rows(1)), reconcile(IDS, rows(2)), reconcile(IDS, rows(0))])
    assert (len(outcome.rows), len(outcome.failed)) == (10, 2)
    assert outcome.exit_code(0.2) is ExitCode.PARTIAL
