"""The ledger: only what is not committed is done again; failures explain but never block."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import InputError, StorageError
from mhim_core.features import MppUsed, SlideFeatures, SourceHint, SourceIdentity
from mhim_core.outcome import ENCODER_DIED, ENCODER_STOOD_STILL, LOST
from mhim_core.storage import LocalStorage
from mhim_core.store import layout
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.ledger import Ledger, Pending
from mhim_core.store.manifest import newest_version, read_manifest, write_manifest
from mhim_core.store.record import skipped_row
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow


@dataclass
class Policy:
    max_upsample: float = 1.1
    default_mpp: float | None = None
    max_mpp_factor: float = 4.0


ROOT = Path(__file__).parents[3]


class CountingStorage(LocalStorage):
    """Knows what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gets: list[str] = []

    def get(self, key: str) -> bytes:
        self.gets.append(key)
        return super().get(key)


class Bench:
    """A store, a feature set, and sources that can be touched, changed and removed."""

    def __init__(self, root: Path, feature_set: FeatureSet, make: Callable[..., SlideFeatures]) -> None:
        self.storage = CountingStorage(root / "store")
        self.feature_set = feature_set
        self.make = make
        self.versions: dict[str, str] = {}
        self.identities: dict[str, str] = {}
        self.gone: set[str] = set()
        self.read: list[str] = []

    def hint(self, task: SlideTask) -> SourceHint | None:
        if task.slide_id in self.gone:
            return None
        return SourceHint(task.uri, 1000, self.versions.get(task.slide_id, "1"))

    def identity(self, task: SlideTask) -> SourceIdentity:
        self.read.append(task.slide_id)
        return SourceIdentity(1000, self.identities.get(task.slide_id, f"digest-of-{task.slide_id}"))

    def pending(self, tasks: Sequence[SlideTask], policy: Policy | None = None, **options: Any) -> Pending:
        options = {"hints": self.hint, "identity": self.identity, **options}
        return Ledger(self.storage, self.feature_set).pending(tasks, policy=policy or Policy(), **options)

    def commit(self, slide_id: str, **changes: Any) -> StatusRow:
        changes.setdefault("hint", self.hint(task(slide_id)))
        record = commit(self.storage, self.feature_set, self.make(slide_id, **changes)).record
        return StatusRow(record.slide_id, record.status, commit_key=record.commit_key)

    def finish(self, pending: Pending, rows: Sequence[StatusRow] = ()) -> None:
        entries = Ledger(self.storage, self.feature_set).cohort_entries(pending, rows)
        write_manifest(self.storage, self.feature_set, entries)

    def manifest(self) -> dict[SlideId, Any]:
        return read_manifest(self.storage, self.feature_set.fingerprint).entries


@pytest.fixture
def bench(tmp_path: Path, feature_set: FeatureSet, make_features: Callable[..., SlideFeatures]) -> Bench:
    return Bench(tmp_path, feature_set, make_features)


def task(slide_id: str, **fields: Any) -> SlideTask:
    return SlideTask(SlideId(slide_id), f"/slides/{slide_id}.svs", **fields)


def ids(tasks: Sequence[SlideTask]) -> list[str]:
    return [slide_task.slide_id for slide_task in tasks]


def failed(slide_id: str, reason: FailureReason) -> StatusRow:
    return StatusRow(SlideId(slide_id), Status.FAILED, reason, stage="open", error_type="SlideError", message="why")


def test_an_empty_store_leaves_everything_to_do_in_the_cohort_s_order(bench: Bench) -> None:
    pending = bench.pending([task("b"), task("a")])
    assert (ids(pending.todo), pending.done, pending.given_up) == (["b", "a"], {}, [])


def test_a_stopped_run_is_resumed_from_its_commits_without_a_manifest(bench: Bench) -> None:
    bench.commit("a")
    bench.commit("b", num_tiles=0)
    pending = bench.pending([task("a"), task("b"), task("c")])
    assert ids(pending.todo) == ["c"]
    assert [record.status for record in pending.done.values()] == [Status.OK, Status.EMPTY]
    assert bench.read == []


def test_an_unchanged_cohort_is_settled_by_the_manifest_alone(bench: Bench) -> None:
    tasks = [task("a"), task("b")]
    pending = bench.pending(tasks)
    bench.finish(pending, [bench.commit("a"), bench.commit("b")])
    bench.storage.gets.clear()
    assert set(bench.pending(tasks).done) == {"a", "b"}
    assert [key.split("/")[0] for key in bench.storage.gets] == ["manifests"]


def test_a_rerun_with_nothing_to_do_reads_no_commit_from_beginning_to_end(bench: Bench) -> None:
    tasks = [task("a"), task("b")]
    bench.finish(bench.pending(tasks), [bench.commit("a"), bench.commit("b")])
    bench.storage.gets.clear()
    pending = bench.pending(tasks)
    bench.finish(pending, [skipped_row(record) for record in pending.done.values()])
    assert {key.split("/")[0] for key in bench.storage.gets} == {"manifests"}
    assert set(bench.manifest()) == {"a", "b"}


def test_only_commits_missing_from_the_manifest_are_read(bench: Bench) -> None:
    bench.finish(bench.pending([task("a")]), [bench.commit("a")])
    bench.commit("b")
    bench.commit("stranger")
    bench.storage.gets.clear()
    assert set(bench.pending([task("a"), task("b")]).done) == {"a", "b"}
    read = [key for key in bench.storage.gets if key.startswith("commits/")]
    assert [place.slide_id for key in read if (place := layout.parse_commit_key(key))] == ["b"]


def test_known_is_every_commit(bench: Bench) -> None:
    bench.finish(bench.pending([task("a")]), [bench.commit("a")])
    bench.commit("b")
    bench.commit("b", mpp=MppUsed(0.3, 0.3, "override"))
    assert sorted(record.slide_id for record in Ledger(bench.storage, bench.feature_set).known()) == ["a", "b", "b"]


def test_a_touched_slide_is_read_once_and_then_known_by_its_new_hint(bench: Bench) -> None:
    bench.commit("a")
    bench.versions["a"] = "2"
    pending = bench.pending([task("a")])
    assert (set(pending.done), bench.read) == ({"a"}, ["a"])
    bench.finish(pending)
    bench.pending([task("a")])
    assert bench.read == ["a"]


def test_a_changed_slide_is_done_again_and_replaces_its_entry(bench: Bench) -> None:
    bench.finish(bench.pending([task("a")]), [bench.commit("a")])
    bench.versions["a"], bench.identities["a"] = "2", "rescanned"
    pending = bench.pending([task("a")])
    assert ids(pending.todo) == ["a"]
    bench.finish(pending, [bench.commit("a", source=SourceIdentity(1000, "rescanned"))])
    assert bench.manifest()[SlideId("a")].reading.source.digest == "rescanned"


def test_a_worker_that_finds_the_commit_of_a_moved_slide_renews_its_hint(bench: Bench) -> None:
    row = bench.commit("a")
    bench.versions["a"] = "2"
    pending = bench.pending([task("a")], identity=None)
    assert ids(pending.todo) == ["a"]
    bench.finish(pending, [row])
    assert ids(bench.pending([task("a")], identity=None).todo) == []


def test_a_changed_slide_that_fails_loses_its_stale_entry(bench: Bench) -> None:
    bench.finish(bench.pending([task("a"), task("b")]), [bench.commit("a"), bench.commit("b")])
    bench.versions["a"], bench.identities["a"] = "2", "rescanned"
    bench.finish(bench.pending([task("a"), task("b")]), [failed("a", FailureReason.READ)])
    assert set(bench.manifest()) == {"b"}


def test_a_slide_that_cannot_be_seen_is_to_do_and_keeps_its_entry(bench: Bench) -> None:
    bench.finish(bench.pending([task("a")]), [bench.commit("a")])
    bench.gone.add("a")
    pending = bench.pending([task("a")])
    assert ids(pending.todo) == ["a"]
    bench.finish(pending, [failed("a", FailureReason.NOT_FOUND)])
    assert set(bench.manifest()) == {"a"}


def test_removing_an_override_opens_the_slide_once_and_not_for_ever(bench: Bench) -> None:
    bench.commit("a", mpp=MppUsed(0.25, 0.25, "override"))
    assert ids(bench.pending([task("a", mpp_override=0.25)]).todo) == []
    assert ids(bench.pending([task("a")]).todo) == ["a"]
    bench.commit("a", mpp=MppUsed(0.25, 0.25, "slide"))
    assert ids(bench.pending([task("a")]).todo) == []
    assert ids(bench.pending([task("a", mpp_override=0.25)]).todo) == []


def test_relaxing_a_policy_embeds_only_the_slides_that_failed(bench: Bench) -> None:
    tasks = [task("a"), task("b"), task("c")]
    bench.commit("a")
    ledger = Ledger(bench.storage, bench.feature_set)
    for slide_id, reason in (("b", FailureReason.NO_MPP), ("c", FailureReason.UPSAMPLE)):
        ledger.record_failure(task(slide_id), failed(slide_id, reason), Policy(), bench.hint(task(slide_id)))
    assert ids(bench.pending(tasks, Policy(max_upsample=3.0, default_mpp=0.5)).todo) == ["b", "c"]
    assert ids(bench.pending(tasks, Policy(default_mpp=0.5), retry_failed=False).todo) == ["b", "c"]
    assert ids(bench.pending(tasks, Policy(max_upsample=3.0), retry_failed=False).todo) == ["c"]


def test_a_doubtful_resolution_is_tried_again_once_it_is_confirmed(bench: Bench) -> None:
    ledger, row = Ledger(bench.storage, bench.feature_set), failed("a", FailureReason.IMPLAUSIBLE_MPP)
    key = ledger.record_failure(task("a"), row, Policy(), bench.hint(task("a")))
    assert ids(bench.pending([task("a")], retry_failed=False).todo) == []
    for confirming in (Policy(max_mpp_factor=0.0), Policy(default_mpp=0.05)):
        assert ids(bench.pending([task("a")], confirming, retry_failed=False).todo) == ["a"]
    recorded = json.loads(bench.storage.get(key))
    assert recorded.pop("max_mpp_factor") == 4.0
    bench.storage.put(key, json.dumps(recorded).encode())  # as 0.1 recorded it
    assert ids(bench.pending([task("a")], retry_failed=False).todo) == ["a"]


def test_a_stricter_policy_refuses_a_commit_until_it_is_relaxed(bench: Bench) -> None:
    row = bench.commit("a", upsample=2.0)
    bench.finish(bench.pending([task("a")], Policy(max_upsample=2.1)), [row])
    strict = bench.pending([task("a")])
    assert (strict.todo, strict.done) == ([], {})
    assert [(row.slide_id, row.reason) for row in strict.given_up] == [("a", FailureReason.UPSAMPLE)]
    bench.finish(strict)
    assert bench.manifest() == {}
    relaxed = bench.pending([task("a")], Policy(max_upsample=2.1))
    assert set(relaxed.done) == {"a"}
    bench.finish(relaxed)
    assert set(bench.manifest()) == {"a"}


def test_a_failure_never_hides_a_success(bench: Bench) -> None:
    ledger = Ledger(bench.storage, bench.feature_set)
    for _ in range(2):
        ledger.record_failure(task("a"), failed("a", FailureReason.TIMEOUT), Policy(), bench.hint(task("a")))
    bench.commit("a")
    for retry_failed in (True, False):
        assert set(bench.pending([task("a")], retry_failed=retry_failed).done) == {"a"}


def test_failed_slides_are_tried_again_unless_asked_not_to(bench: Bench) -> None:
    row = failed("a", FailureReason.DECODER_CRASH)
    Ledger(bench.storage, bench.feature_set).record_failure(task("a"), row, Policy(), bench.hint(task("a")))
    assert ids(bench.pending([task("a"), task("b")]).todo) == ["a", "b"]
    pending = bench.pending([task("a"), task("b")], retry_failed=False)
    assert (ids(pending.todo), pending.given_up) == (["b"], [row])


@pytest.mark.parametrize(
    ("row", "again"),
    [
        (failed("a", FailureReason.NO_SPACE), True),
        (failed("a", FailureReason.STORAGE), True),
        (failed("a", FailureReason.DECODER_CRASH)._replace(error_type=LOST), True),
        (failed("a", FailureReason.NOT_FOUND), True),  # it is seen now, so a worker's node lacked it
        (failed("a", FailureReason.DECODER_CRASH), False),
        (failed("a", FailureReason.READ), False),
        (failed("a", FailureReason.TOO_LARGE), False),
    ],
    ids=lambda value: f"{value.reason}-{value.error_type}" if isinstance(value, StatusRow) else "",
)
def test_what_told_nothing_of_the_slide_is_tried_again_in_any_case(bench: Bench, row: StatusRow, again: bool) -> None:
    ledger = Ledger(bench.storage, bench.feature_set)
    ledger.record_failure(task("a"), row, Policy(), bench.hint(task("a")), 300.0)
    pending = bench.pending([task("a")], retry_failed=False, decode_timeout_s=300.0)
    assert (ids(pending.todo), pending.given_up) == ((["a"], []) if again else ([], [row]))


def test_a_slide_that_is_still_not_there_is_not_looked_for_again(bench: Bench) -> None:
    row = failed("a", FailureReason.NOT_FOUND)
    bench.gone.add("a")
    Ledger(bench.storage, bench.feature_set).record_failure(task("a"), row, Policy(), None)
    assert bench.pending([task("a")], retry_failed=False).given_up == [row]
    bench.gone.clear()
    assert ids(bench.pending([task("a")], retry_failed=False).todo) == ["a"]


@pytest.mark.parametrize(
    ("limit_then_s", "limit_now_s", "again"),
    [(300.0, 300.0, False), (300.0, 200.0, False), (300.0, 300.5, True), (None, 300.0, True), (300.0, None, True)],
)
def test_a_timeout_is_tried_again_under_a_longer_limit_or_an_unknown_one(
    bench: Bench, limit_then_s: float | None, limit_now_s: float | None, again: bool
) -> None:
    row = failed("a", FailureReason.TIMEOUT)
    ledger = Ledger(bench.storage, bench.feature_set)
    ledger.record_failure(task("a"), row, Policy(), bench.hint(task("a")), limit_then_s)
    pending = bench.pending([task("a")], retry_failed=False, decode_timeout_s=limit_now_s)
    assert bool(pending.todo) == again


def test_a_record_of_before_limits_were_kept_is_read(bench: Bench) -> None:
    row = failed("a", FailureReason.TIMEOUT)
    key = Ledger(bench.storage, bench.feature_set).record_failure(task("a"), row, Policy(), bench.hint(task("a")))
    record = json.loads(bench.storage.get(key))
    assert "decode_timeout_s" not in record, "where the limit is not known"
    assert "is_empty" not in record["row"], "the bytes of 0.1"
    assert ids(bench.pending([task("a")], retry_failed=False, decode_timeout_s=1.0).todo) == ["a"]


@pytest.mark.parametrize("change", ["source", "override", "sha256", "gone"])
def test_a_failure_of_another_source_or_another_question_is_not_held_against_a_slide(bench: Bench, change: str) -> None:
    Ledger(bench.storage, bench.feature_set).record_failure(
        task("a"), failed("a", FailureReason.READ), Policy(), bench.hint(task("a"))
    )
    asked = {"override": task("a", mpp_override=0.5), "sha256": task("a", sha256="0" * 64)}.get(change, task("a"))
    if change == "source":
        bench.versions["a"] = "2"
    if change == "gone":
        bench.gone.add("a")
    assert ids(bench.pending([asked], retry_failed=False).todo) == ["a"]


def test_attempts_are_numbered_and_the_last_one_speaks(bench: Bench) -> None:
    ledger = Ledger(bench.storage, bench.feature_set)
    made = [
        ledger.record_failure(task("a"), failed("a", reason), Policy(), bench.hint(task("a")))
        for reason in (FailureReason.TIMEOUT, FailureReason.READ)
    ]
    assert [key.rpartition("/")[2] for key in made] == ["0001.json", "0002.json"]
    assert [row.reason for row in bench.pending([task("a")], retry_failed=False).given_up] == [FailureReason.READ]
    with pytest.raises(ValueError, match="only failures"):
        ledger.record_failure(task("a"), replace_status(failed("a", FailureReason.READ)), Policy(), None)


def replace_status(row: StatusRow) -> StatusRow:
    return row._replace(status=Status.OK)


def test_a_slide_id_that_occurs_twice_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="more than once: a"):
        bench.pending([task("a"), task("a"), task("b")])


def test_every_task_is_in_exactly_one_heap(bench: Bench) -> None:
    bench.commit("a")
    bench.commit("b", upsample=3.0)
    Ledger(bench.storage, bench.feature_set).record_failure(
        task("c"), failed("c", FailureReason.READ), Policy(), bench.hint(task("c"))
    )
    pending = bench.pending([task(slide_id) for slide_id in "abcd"], retry_failed=False)
    heaps = [ids(pending.todo), list(pending.done), [row.slide_id for row in pending.given_up]]
    assert heaps == [["d"], ["a"], ["b", "c"]]


def test_a_sha256_named_later_opens_the_slide_once_and_is_then_known(bench: Bench) -> None:
    bench.finish(bench.pending([task("a")]), [bench.commit("a")])
    asked = task("a", sha256="A" * 64)
    pending = bench.pending([asked])
    assert ids(pending.todo) == ["a"]
    bench.finish(pending, [bench.commit("a", source_sha256="a" * 64)])  # the worker finds the commit, which says none
    assert bench.manifest()[SlideId("a")].reading.source_sha256 == "a" * 64
    for again in (asked, task("a")):
        pending = bench.pending([again])
        assert ids(pending.todo) == []
        bench.finish(pending)
    assert bench.manifest()[SlideId("a")].reading.source_sha256 == "a" * 64


def test_a_moved_slide_keeps_its_verified_sha256(bench: Bench) -> None:
    asked = task("a", sha256="a" * 64)
    bench.finish(bench.pending([asked]), [bench.commit("a", source_sha256="a" * 64)])
    bench.versions["a"] = "2"
    pending = bench.pending([asked])
    assert (ids(pending.todo), bench.read) == ([], ["a"])
    bench.finish(pending)
    assert ids(bench.pending([asked], identity=None).todo) == []


def test_a_table_that_names_another_sha256_takes_the_slide_out_until_it_is_corrected(bench: Bench) -> None:
    right, wrong = task("a", sha256="a" * 64), task("a", sha256="b" * 64)
    bench.finish(bench.pending([right]), [bench.commit("a", source_sha256="a" * 64)])
    pending = bench.pending([wrong])
    assert ids(pending.todo) == ["a"]
    bench.finish(pending, [failed("a", FailureReason.SOURCE_HASH_MISMATCH)])
    assert bench.manifest() == {}
    pending = bench.pending([right])
    assert ids(pending.todo) == []
    bench.finish(pending)
    assert set(bench.manifest()) == {"a"}


def test_records_survive_a_manifest_unchanged(bench: Bench) -> None:
    mpp = MppUsed(0.2501, 0.2507, "slide")
    row = bench.commit("a", mpp=mpp, effective_mpp=(0.499, 0.5013), num_bad_tiles=3, source_sha256="a" * 64)
    (record,) = Ledger(bench.storage, bench.feature_set).read([row.commit_key]).values()
    write_manifest(bench.storage, bench.feature_set, {record.slide_id: record})
    assert bench.manifest() == {record.slide_id: record}
    assert replace(record, reading=replace(record.reading, upsample=2.0)) != record


def test_a_commit_that_is_gone_before_the_manifest_names_it_ends_the_run(bench: Bench) -> None:
    """As in a store that was moved amid the run: its slides are no success."""
    pending = bench.pending([task("a"), task("b")])
    rows = [bench.commit("a"), bench.commit("b")]
    bench.storage.delete(rows[1].commit_key)
    with pytest.raises(StorageError, match=r"1 slides .*: b;"):
        bench.finish(pending, rows)
    assert newest_version(bench.storage, bench.feature_set.fingerprint) is None
    assert ids(bench.pending([task("a"), task("b")]).todo) == ["b"]


@pytest.mark.parametrize("kind", [ENCODER_DIED, ENCODER_STOOD_STILL])
def test_a_slide_whose_encoder_was_lost_is_tried_again_in_any_case(bench: Bench, kind: str) -> None:
    row = failed("a", FailureReason.TIMEOUT)._replace(error_type=kind)
    Ledger(bench.storage, bench.feature_set).record_failure(task("a"), row, Policy(), bench.hint(task("a")), 60.0)
    assert ids(bench.pending([task("a")], retry_failed=False, decode_timeout_s=60.0).todo) == ["a"]


@pytest.mark.thorough
@pytest.mark.fault(40)
def test_what_a_hundred_thousand_slides_leave_to_do_is_known_within_a_minute_and_4_gb(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("large_cohort.py")), str(tmp_path), "100000"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    assert (figures["todo"], figures["done"]) == (40_000, 60_000)
    assert figures["seconds"] < 60
    assert figures["peak_gib"] < 4
