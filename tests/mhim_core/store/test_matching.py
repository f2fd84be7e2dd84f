"""Which commit fits which task: the whole matrix of who stated the resolution."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from mhim_core.features import MppUsed, SlideFeatures, SourceHint, SourceIdentity
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.matching import find_match, mpp_matches, refusal
from mhim_core.store.record import CommitRecord, make_record
from mhim_core.types import FailureReason, SlideId, SlideTask, Status

HINT = SourceHint("/slides/s1.svs", 1000, "1")
TASK = SlideTask(SlideId("s1"), "/slides/s1.svs")


@dataclass
class Policy:
    max_upsample: float = 1.1
    default_mpp: float | None = None
    max_mpp_factor: float = 4.0


@pytest.fixture
def record(feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]) -> CommitRecord:
    return make_record(feature_set, make_features(), key="k", sha256="h", num_bytes=1, committed_by="mhim 0")


@pytest.mark.parametrize(
    ("used", "override", "default_mpp", "matches"),
    [
        # the slide states its own
        (MppUsed(0.5, 0.5, "slide"), None, None, True),
        (MppUsed(0.5, 0.5, "slide"), None, 0.25, True),
        (MppUsed(0.5, 0.505, "slide"), None, None, True),
        (MppUsed(0.5, 0.5, "slide"), 0.5, None, True),
        (MppUsed(0.5, 0.505, "slide"), 0.5, None, False),
        (MppUsed(0.5, 0.5, "slide"), 0.25, None, False),
        # the slide states none
        (MppUsed(0.5, 0.5, "default"), None, 0.5, True),
        (MppUsed(0.5, 0.5, "default"), None, 0.25, False),
        (MppUsed(0.5, 0.5, "default"), None, None, False),
        (MppUsed(0.5, 0.5, "default"), 0.5, None, True),
        (MppUsed(0.5, 0.5, "default"), 0.25, 0.5, False),
        # the cohort table stated it, and no longer does or says otherwise
        (MppUsed(0.5, 0.5, "override"), 0.5, None, True),
        (MppUsed(0.5, 0.5, "override"), 0.25, None, False),
        (MppUsed(0.5, 0.5, "override"), None, None, False),
        (MppUsed(0.5, 0.5, "override"), None, 0.5, False),
    ],
)
def test_resolutions_match_when_the_same_numbers_would_be_used_again(
    used: MppUsed, override: float | None, default_mpp: float | None, matches: bool
) -> None:
    assert mpp_matches(used, override, default_mpp) is matches


@pytest.mark.parametrize("state", ["equal hint", "equal identity"])
@pytest.mark.parametrize(
    ("verified", "named", "matches"),
    [
        ("", None, True),
        ("a" * 64, None, True),
        ("", "a" * 64, False),
        ("a" * 64, "a" * 64, True),
        ("a" * 64, " " + "A" * 64, True),
        ("a" * 64, "b" * 64, False),
    ],
)
def test_a_task_that_names_a_sha256_is_served_only_by_a_commit_verified_to_be_of_it(
    record: CommitRecord, state: str, verified: str, named: str | None, matches: bool
) -> None:
    committed = record.with_sha256(verified)
    hint = HINT if state == "equal hint" else SourceHint("/archive/s1.svs", 1000, "2")
    matched = find_match(
        TASK._replace(sha256=named), [committed], hint=hint, default_mpp=None, identity=lambda _: record.reading.source
    )
    assert matched == (committed.with_hint(hint) if matches else None)


def test_of_several_commits_the_one_of_the_named_sha256_is_found(record: CommitRecord) -> None:
    records = [record, record.with_sha256("b" * 64), record.with_sha256("a" * 64)]
    matched = find_match(TASK._replace(sha256="a" * 64), records, hint=HINT, default_mpp=None)
    assert matched is records[2]


def test_an_equal_hint_settles_it_without_reading_the_source(record: CommitRecord) -> None:
    def never(_: SlideTask) -> SourceIdentity:
        raise AssertionError("the source was read")

    assert find_match(TASK, [record], hint=HINT, default_mpp=None, identity=never) is record


def test_a_moved_or_touched_source_is_the_same_and_a_rescanned_one_is_new(record: CommitRecord) -> None:
    moved = SourceHint("/archive/s1.svs", 1000, "2")
    matched = find_match(TASK, [record], hint=moved, default_mpp=None, identity=lambda _: record.reading.source)
    assert matched == record.with_hint(moved)
    rescanned = SourceIdentity(1000, "other bytes")
    assert find_match(TASK, [record], hint=moved, default_mpp=None, identity=lambda _: rescanned) is None


def test_a_changed_hint_without_a_way_to_read_the_source_is_no_match(record: CommitRecord) -> None:
    moved = SourceHint("/archive/s1.svs", 1000, "2")
    assert find_match(TASK, [record], hint=moved, default_mpp=None) is None
    assert find_match(TASK, [record], hint=moved, default_mpp=None, identity=lambda _: None) is None


def test_a_source_that_is_gone_matches_nothing(record: CommitRecord) -> None:
    assert find_match(TASK, [record], hint=None, default_mpp=None, identity=lambda _: record.reading.source) is None


def test_a_stricter_policy_refuses_without_work_and_says_what_to_set(record: CommitRecord) -> None:
    enlarged = replace(record, reading=replace(record.reading, upsample=2.0))
    assert refusal(enlarged, Policy(max_upsample=2.0)) is None
    row = refusal(enlarged, Policy(max_upsample=1.1))
    assert row is not None
    assert (row.status, row.reason, row.attempts) == (Status.FAILED, FailureReason.UPSAMPLE, 0)
    assert "max_upsample" in row.message
    assert "s1" in row.message
