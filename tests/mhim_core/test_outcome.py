import pytest

from mhim_core.outcome import reconcile
from mhim_core.types import ExitCode, FailureReason, SlideId, Status, StatusRow

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
