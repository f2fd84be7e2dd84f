"""A flow's steps: what is missing is run, what is done is adopted, and the records say how it stands."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.engine.records import Cost, FlowPlace, State, StepOutput, list_flows
from flows.engine.runner import RetryPolicy, Step, StepCall, may_be_retried, run_steps, step_fingerprint
from flows.engine.signals import Terminated
from mhim_core.errors import (
    CohortError,
    ConfigError,
    ConflictError,
    InputError,
    IntegrityError,
    MhimError,
    NotFoundError,
    SplitError,
    StorageError,
)
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.storage import LocalStorage
from mhim_core.types import ExitCode

NAMES = ("embed", "train", "report")
AT_ONCE = RetryPolicy(retries=1, wait_s=0)


class Work:
    """A step's function that counts its calls and does what it is told."""

    def __init__(self, *does: StepOutput | BaseException) -> None:
        self.does = list(does) or [StepOutput(identity={"made": 1}, note="made")]
        self.calls: list[StepCall] = []

    def __call__(self, call: StepCall) -> StepOutput:
        self.calls.append(call)
        outcome = self.does[min(len(self.calls), len(self.does)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def place(tmp_path: Path) -> FlowPlace:
    made = FlowPlace(storage=LocalStorage(tmp_path), flow="retrain", name="lung", fingerprint=fingerprint("a flow"))
    made.begin(NAMES, {"data": "d"})
    return made


def steps_of(*works: Callable[[StepCall], StepOutput], names: Sequence[str] = NAMES) -> list[Step]:
    return [
        Step(name, {"of": name}, work, tuple(names[:index]))
        for index, (name, work) in enumerate(zip(names, works, strict=False))
    ]


def states(place: FlowPlace) -> list[State]:
    return [step.state for step in place.states()]


def test_steps_run_in_order_each_with_the_outputs_of_those_before(place: FlowPlace) -> None:
    works = Work(StepOutput(identity={"sha": "a"}, places={"store": "s3://there/store"})), Work(), Work()
    result = run_steps(place, steps_of(*works))
    assert (result.exit_code, result.recomputed) == (ExitCode.OK, True)
    assert result.outputs == {"flow": place.uri, "store": "s3://there/store"}
    assert works[2].calls[0].before["embed"].identity == {"sha": "a"}
    assert states(place) == [State.done] * 3


def test_places_move_with_the_records_unless_they_stayed_behind(tmp_path: Path) -> None:
    project = tmp_path / "project"
    storage = LocalStorage(project / "registry")
    runs = {name: tmp_path / name for name in ("project/runs/train", "elsewhere/final")}
    for run in runs.values():
        LocalStorage(run).put("run.json", b"{}")
    moving = {"train": f"{project}/runs/train", "page": f"{project}/runs/train/run.json", "bucket": "s3://bucket/store"}
    places = moving | {"final": f"{tmp_path}/elsewhere/final"}
    flow = FlowPlace(storage=storage, flow="pipeline", name="lung", fingerprint=fingerprint("a flow"))
    assert run_steps(flow, steps_of(Work(StepOutput(places=places)))).outputs == {"flow": flow.uri} | places
    (file,) = (project / "registry" / flow.folder / "done").iterdir()
    recorded = json.loads(file.read_bytes())
    assert recorded["output"]["places"]["train"] == "../../../../../runs/train"

    project.rename(tmp_path / "moved")
    moved = replace(flow, storage=LocalStorage(tmp_path / "moved/registry"))
    again = run_steps(moved, steps_of(Work(AssertionError("ran again"))))
    now = {name: place.replace(str(project), f"{tmp_path}/moved") for name, place in places.items()}
    assert (again.outputs, again.recomputed) == ({"flow": moved.uri} | now, False)
    assert {done.output.places["train"] for done in moved.done_steps().values()} == {f"{tmp_path}/moved/runs/train"}
    assert not project.exists()

    (tmp_path / "moved/registry").rename(tmp_path / "registry")  # the runs stay
    alone = replace(flow, storage=LocalStorage(tmp_path / "registry"))
    (tmp_path / "moved").rename(project)
    assert run_steps(alone, steps_of(Work(AssertionError("ran again")))).outputs == {"flow": alone.uri} | places


def test_a_record_of_an_earlier_version_keeps_its_absolute_places(place: FlowPlace) -> None:
    places = {"train": f"{place.storage.uri}/runs/train"}
    run_steps(place, steps_of(Work(StepOutput(places=places))))
    (entry,) = place.storage.list(f"{place.folder}/done")
    record = json.loads(place.storage.get(entry.key))
    assert record.pop("folder") == place.uri
    record["output"]["places"] = places
    place.storage.put(entry.key, canonical_json(record))
    assert run_steps(place, steps_of(Work(AssertionError("ran again")))).outputs["train"] == places["train"]


def test_what_is_done_is_adopted_and_not_run_again(place: FlowPlace) -> None:
    first, again = [Work() for _ in range(3)], [Work(AssertionError("ran again")) for _ in range(3)]
    run_steps(place, steps_of(*first))
    before = {entry.key: entry.modified_s for entry in place.storage.list("")}
    result = run_steps(place, steps_of(*again))
    assert (result.exit_code, result.recomputed) == (ExitCode.OK, False)
    assert {entry.key: entry.modified_s for entry in place.storage.list("")} == before


def test_a_step_runs_again_where_its_inputs_or_what_it_follows_has_changed(place: FlowPlace) -> None:
    run_steps(place, steps_of(Work(), Work(), Work()))
    other_keys = steps_of(Work(), Work(), Work())
    other_keys[1] = other_keys[1]._replace(inputs={"epochs": 3})
    run_steps(place, other_keys)
    assert [len(step.work.calls) for step in other_keys] == [0, 1, 0], "the step made the same of other keys"  # type: ignore[attr-defined]
    works = Work(StepOutput(identity={"made": 2})), Work(), Work()
    changed = steps_of(*works)
    changed[0] = changed[0]._replace(inputs={"of": "more"})
    run_steps(place, changed)
    assert [len(work.calls) for work in works] == [1, 1, 1]


def test_a_step_that_follows_only_some_is_not_moved_by_the_others() -> None:
    step = Step("train", {}, Work(), after=("embed",))
    embed, discover = StepOutput(identity={"sha": "a"}), StepOutput(identity={"champion": 1})
    digest = step_fingerprint(step, {"embed": embed, "discover": discover})
    assert digest == step_fingerprint(step, {"embed": embed, "discover": StepOutput(identity={"champion": 2})})
    assert digest != step_fingerprint(step, {"embed": StepOutput(), "discover": discover})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (ConflictError("x"), 5),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_first_failure_ends_the_flow_and_is_recorded_with_its_exit_code(
    place: FlowPlace, error: BaseException, code: int
) -> None:
    failing, never = Work(error), Work()
    with pytest.raises(type(error)):
        run_steps(place, steps_of(Work(), failing, never), AT_ONCE)
    assert (len(failing.calls), len(never.calls)) == (1, 0)
    done, failed, missing = place.states()
    assert (done.state, failed.state, missing.state) == (State.done, State.failed, State.missing)
    assert (failed.exit_code, failed.num_attempts) == (code, 1)
    assert failed.note.startswith(type(error).__name__)
    assert run_steps(place, steps_of(Work(), Work(), never)).exit_code is ExitCode.OK
    assert [step.num_attempts for step in place.states()] == [1, 2, 1]


def test_too_many_failed_slides_end_the_flow_without_an_exception_and_some_do_not(place: FlowPlace) -> None:
    never = Work()
    over = StepOutput(exit_code=ExitCode.TOO_MANY_FAILED, note="9 of 10 slides failed")
    assert run_steps(place, steps_of(Work(over), never)).exit_code is ExitCode.TOO_MANY_FAILED
    assert not never.calls
    failed = place.states()[0]
    assert (failed.state, failed.exit_code, failed.note) == (State.failed, 4, over.note)
    within = StepOutput(exit_code=ExitCode.PARTIAL, note="1 of 10 slides failed")
    for _ in range(2):
        result = run_steps(place, steps_of(Work(within), never))
        assert result.exit_code is ExitCode.PARTIAL, "the flow goes on, and ends with 3, adopted or not"
    assert len(never.calls) == 1


def ray_error() -> MhimError:
    try:
        cause = type("ActorDiedError", (RuntimeError,), {"__module__": "ray.exceptions"})("gone")
        raise MhimError("embedding ended with ActorDiedError") from cause
    except MhimError as error:
        return error


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (StorageError("503"), True),
        (ray_error(), True),
        (NotFoundError("a key"), False),
        (ConfigError("a key"), False),
        (ConflictError("another run"), False),
        (IntegrityError("a flipped byte"), False),
        (MhimError("a loss is no longer finite"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_storage_and_lost_workers_are_tried_again(place: FlowPlace, error: MhimError, retried: bool) -> None:
    assert may_be_retried(error) == retried
    work = Work(error, StepOutput())
    if retried:
        run_steps(place, steps_of(work), AT_ONCE)
        assert place.states()[0].num_attempts == 2
    else:
        with pytest.raises(type(error)):
            run_steps(place, steps_of(work), AT_ONCE)
    assert len(work.calls) == 1 + retried
    patient = Work(error)
    with pytest.raises(type(error)):
        run_steps(place, steps_of(patient, names=["train"]), RetryPolicy(retries=2, wait_s=0))
    assert len(patient.calls) == 1 + 2 * retried


class Killed(BaseException):
    """Stands for kill -9: nothing that was to be written afterwards is."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """killed("write_done"): the process is gone at that moment, and with it every word it would have written."""

    def at(moment: str) -> None:
        def die(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(FlowPlace, moment, die)
        monkeypatch.setattr(FlowPlace, "end_attempt", die)

    return at


def test_a_process_killed_after_a_start_record_leaves_a_step_started_without_end(
    place: FlowPlace, killed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed("end_attempt")
    with pytest.raises(Killed):
        run_steps(place, steps_of(Work()))
    assert states(place) == [State.done, State.missing, State.missing], "killed after its done record, it is done"
    with pytest.raises(Killed):
        run_steps(place, steps_of(Work(), Work(Killed())))
    assert states(place) == [State.done, State.started, State.missing]
    monkeypatch.undo()
    works = [Work(), Work(), Work()]
    run_steps(place, steps_of(*works))
    assert [len(work.calls) for work in works] == [0, 1, 1]
    assert states(place) == [State.done] * 3


def test_a_process_killed_between_the_work_and_its_record_does_the_work_again_to_the_same_end(
    place: FlowPlace, killed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed("write_done")
    with pytest.raises(Killed):
        run_steps(place, steps_of(Work()))
    assert states(place)[0] is State.started
    monkeypatch.undo()
    work = Work()
    assert run_steps(place, steps_of(work)).exit_code is ExitCode.OK
    assert len(work.calls) == 1


def test_of_two_runners_at_once_the_later_adopts(place: FlowPlace) -> None:
    both_work = threading.Barrier(2)
    followed: list[Any] = []

    def embed_by(maker: str) -> Callable[[StepCall], StepOutput]:
        def embed(call: StepCall) -> StepOutput:
            both_work.wait(timeout=10)
            return StepOutput(identity={"made by": maker})

        return embed

    def follow(call: StepCall) -> StepOutput:
        followed.append(call.before["embed"].identity)
        return StepOutput()

    runners = [threading.Thread(target=run_steps, args=(place, steps_of(embed_by(maker), follow))) for maker in "ab"]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(timeout=30)
    (standing,) = {json.dumps(outputs) for outputs in followed}
    assert place.done_steps()["embed"].output.identity == json.loads(standing)
    assert len(list(place.storage.list(f"{place.folder}/done"))) == 2
    assert place.states()[0].num_attempts == 2


def test_records_that_differ_in_time_and_cost_alone_are_one(place: FlowPlace, capsys: Any) -> None:
    def slow(call: StepCall) -> StepOutput:
        run_steps(place, steps_of(Work(StepOutput(identity={"sha": "a"}, cost=Cost(num_slides=5)))))
        capsys.readouterr()
        return StepOutput(identity={"sha": "a"}, cost=Cost(num_slides=0))

    run_steps(place, steps_of(slow))
    assert "another runner" not in capsys.readouterr().out
    assert place.states()[0].cost.num_slides == 5


def test_a_step_that_finds_nothing_to_do_completes_the_flow(place: FlowPlace) -> None:
    nothing = StepOutput(is_last=True, note="nothing new")
    never = Work()
    for _ in range(2):
        assert run_steps(place, steps_of(Work(nothing), never)).exit_code is ExitCode.OK
    assert not never.calls
    assert states(place) == [State.done, State.not_needed, State.not_needed]


@pytest.mark.parametrize("kind", [InputError, CohortError, SplitError, IntegrityError, MhimError, ValueError])
def test_what_may_quote_the_table_is_told_by_its_kind_alone(
    place: FlowPlace, tmp_path: Path, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        run_steps(place, steps_of(Work(kind("patient CANARY-NAME is in two splits"))))
    assert not [path for path in tmp_path.rglob("*.json") if "CANARY" in path.read_text()]
    assert place.states()[0].note == f"{kind.__name__} (the command's own output has the sentence)"


@pytest.mark.parametrize("kind", [ConfigError, ConflictError, StorageError, NotFoundError])
def test_what_speaks_of_keys_and_places_is_told_in_its_own_sentence(place: FlowPlace, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run_steps(place, steps_of(Work(kind("store=/x is\nread-only"))), RetryPolicy(retries=0))
    assert place.states()[0].note == f"{kind.__name__}: store=/x is read-only"


@pytest.mark.parametrize(
    "error", [StorageError("gone"), IntegrityError("damaged")], ids=lambda value: type(value).__name__
)
def test_a_step_that_is_done_is_not_undone_by_an_end_that_cannot_be_recorded(
    place: FlowPlace, monkeypatch: pytest.MonkeyPatch, capsys: Any, error: MhimError
) -> None:
    monkeypatch.setattr(FlowPlace, "end_attempt", lambda *_: (_ for _ in ()).throw(error))
    works = Work(), Work()
    assert run_steps(place, steps_of(*works), AT_ONCE).exit_code is ExitCode.OK
    assert [len(work.calls) for work in works] == [1, 1]
    assert states(place) == [State.done, State.done, State.missing]
    assert f"embed: the end of attempt 1 is not on record: {error}" in capsys.readouterr().out


def test_a_store_that_is_gone_hides_no_error(place: FlowPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowPlace, "end_attempt", lambda *_: (_ for _ in ()).throw(StorageError("gone too")))
    with pytest.raises(InputError, match="the cause"):
        run_steps(place, steps_of(Work(InputError("the cause"))))


def test_the_record_of_another_step_is_not_taken_for_this_one_s(place: FlowPlace) -> None:
    run_steps(place, steps_of(Work(), Work()))
    first, second = [entry.key for entry in place.storage.list(f"{place.folder}/done")]
    place.storage.put(first, place.storage.get(second))
    with pytest.raises(IntegrityError, match=r"done/.*another step"):
        run_steps(place, steps_of(Work(), Work()))


def test_damaged_records_are_named(place: FlowPlace) -> None:
    run_steps(place, steps_of(Work()))
    (key,) = [entry.key for entry in place.storage.list(f"{place.folder}/done")]
    for damage in (b"{", b"[]", b"{}", b'{"schema": 1}'):
        place.storage.put(key, damage)
        with pytest.raises(IntegrityError, match="done/embed"):
            run_steps(place, steps_of(Work()))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 65, ".hidden"])
def test_a_name_that_is_no_folder_s_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        FlowPlace(storage=LocalStorage(tmp_path), flow="retrain", name=name, fingerprint="0" * 64)


def test_the_newest_flow_of_a_name_comes_first(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(3):
        place = FlowPlace(storage=storage, flow="retrain", name="lung", fingerprint=fingerprint(number))
        place.begin(("embed",), {})
        os.utime(tmp_path / place.folder / "flow.json", (1000 + number, 1000 + number))
    assert [place.fingerprint for place in list_flows(storage, "retrain", "lung")] == [
        fingerprint(n) for n in (2, 1, 0)
    ]
    assert not list(list_flows(storage, "retrain", "liver"))


def test_status_is_read_from_the_records_alone(place: FlowPlace, mhim: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_steps(
            place,
            steps_of(
                Work(StepOutput(note="5 slides embedded", cost=Cost(num_slides=5, num_tiles=3000, device_seconds=7.5))),
                Work(InputError("x")),
            ),
        )
    ended = mhim("flow", "status", "lung", f"registry={tmp_path}")
    assert ended.code == 0
    title, embed, train, report = ended.out.splitlines()
    assert title.startswith("retrain lung")
    assert "done" in embed
    assert "5 slides embedded; 5 slides, 3,000 tiles, 7.5 device-seconds" in embed
    assert "failed, exit code 2" in train
    assert "0 s ago" in train or "1 s ago" in train
    assert report.split() == ["report", "missing"]


def test_a_reader_who_may_not_write_sees_the_status_too(
    place: FlowPlace, mhim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_steps(place, steps_of(Work()))
    monkeypatch.setattr(LocalStorage, "put", lambda *_: (_ for _ in ()).throw(StorageError("denied")))
    ended = mhim("flow", "status", "lung", f"registry={tmp_path}")
    assert ended.code == 0
    assert "done" in ended.out


def test_a_flow_that_was_never_started_is_said_so(refused: Any, tmp_path: Path) -> None:
    assert "no records of a pipeline or retraining named lung" in refused(
        "flow", "status", "lung", f"registry={tmp_path}"
    )
