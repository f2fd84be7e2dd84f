"""The service runs what is due once, coalesces what it missed, and goes on where another one fell."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.engine.state_folder import state_folder
from flows.scheduling.allowed import AllowList
from flows.scheduling.records import MAX_ATTEMPTS, SILENT_S, Book, Schedule, Slot
from flows.scheduling.service import Service, launch_process
from mhim_core.errors import StorageError
from mhim_core.storage import Entry, LocalStorage

ADDED = datetime(2026, 11, 24, 12, tzinfo=UTC)
SUNDAY = datetime(2026, 11, 29, 2, tzinfo=UTC)
WEEKLY = Schedule(flow="evaluate", words=("run=x",), cron="0 2 * * 0", timezone="UTC", folder="/")


class ClockedStorage(LocalStorage):
    """A folder whose Last-Modified is the test's clock."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.now = ADDED
        self.modified: dict[str, float] = {}

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.modified[key] = self.now.timestamp()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_new = super().put_if_absent(key, data)
        if is_new:
            self.modified[key] = self.now.timestamp()
        return is_new

    def list(self, prefix: str) -> "list[Entry]":  # type: ignore[override]
        return [entry._replace(modified_s=self.modified[entry.key]) for entry in super().list(prefix)]


@dataclass
class Scene:
    """A registry, a clock, and flows that are only noted."""

    storage: ClockedStorage
    runs: list[str] = field(default_factory=list)
    code: int = 0
    during: Callable[[], None] = lambda: None

    def service(self) -> Service:
        return Service(Book(self.storage), lambda: self.storage.now, AllowList(), self.launch)

    def launch(self, schedule: Schedule, log: Path, beat: Callable[[], None]) -> int:
        log.write_text(f"{schedule.id} at {self.storage.now}\n")
        self.runs.append(schedule.id)
        beat()
        self.during()
        return self.code

    def at(self, moment: datetime) -> "Scene":
        self.storage.now = moment
        return self

    def keys(self, kind: str) -> list[str]:
        return [entry.key.rpartition("/")[2] for entry in self.storage.list("schedules") if f"/{kind}/" in entry.key]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    scene = Scene(ClockedStorage(tmp_path / "registry"))
    Book(scene.storage).add(WEEKLY)
    AllowList().add(WEEKLY)
    return scene


def killed() -> None:
    raise SystemExit("kill -9 of the service")


def interrupted() -> None:
    raise KeyboardInterrupt


def test_nothing_runs_before_its_time_nor_a_time_before_the_schedule_was_added(scene: Scene) -> None:
    service = scene.service()
    for moment in (ADDED, SUNDAY - timedelta(seconds=1)):
        assert not scene.at(moment).service().look()
        assert not service.look()
    assert scene.runs == []


def test_a_slot_runs_once_with_its_record_and_its_log(scene: Scene) -> None:
    scene.code = 3
    service = scene.at(SUNDAY).service()
    assert service.look()
    assert not service.look()
    assert not scene.service().look(), "another service, or this one after a restart, finds it done"
    assert scene.runs == [WEEKLY.id]
    assert scene.keys("runs") == scene.keys("ended") == ["20261129T020000Z.json"]
    ended = json.loads(scene.storage.get(f"schedules/{WEEKLY.id}/ended/20261129T020000Z.json"))
    assert ended["exit_code"] == 3
    assert scene.storage.get(ended["log"]).decode() == f"{WEEKLY.id} at {SUNDAY}\n"
    assert (state_folder() / "schedules" / WEEKLY.id).stat().st_mode & 0o777 == 0o700


@pytest.mark.fault(35)
def test_missed_slots_are_one_run(scene: Scene) -> None:
    service = scene.at(SUNDAY + timedelta(weeks=5, hours=1)).service()
    assert service.look()
    assert not service.look()
    assert scene.keys("runs") == ["20270103T020000Z.json"]
    assert scene.at(SUNDAY + timedelta(weeks=6)).service().look(), "and the next comes at its time"


def test_slots_that_pass_while_a_run_goes_on_are_one_run_after_it(scene: Scene) -> None:
    def takes_three_weeks() -> None:
        scene.at(SUNDAY + timedelta(weeks=3))
        scene.during = lambda: None

    scene.during = takes_three_weeks
    service = scene.at(SUNDAY).service()
    assert service.look()
    assert service.look()
    assert not service.look()
    assert len(scene.runs) == 2


@pytest.mark.fault(35)
def test_of_two_services_at_once_one_runs_the_slot(scene: Scene) -> None:
    second = scene.service()
    scene.during = lambda: other_looks.append(second.look())
    other_looks: list[bool] = []
    assert scene.at(SUNDAY).service().look()
    assert other_looks == [False]
    assert len(scene.runs) == 1


def test_a_lost_race_for_the_claim_is_no_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    service = scene.at(SUNDAY).service()
    before = Book(scene.storage).planned()
    Book(scene.storage).claim(WEEKLY, Slot(SUNDAY), "the other")
    monkeypatch.setattr(Book, "planned", lambda self: before)
    assert not service.look()
    assert scene.runs == []


def test_a_run_longer_than_the_period_is_never_joined_by_a_second(scene: Scene) -> None:
    def second_service_looks_for_two_weeks() -> None:
        beat = Book(scene.storage)
        for _ in range(14):
            scene.at(scene.storage.now + timedelta(days=1))
            beat.beat(WEEKLY, Slot(SUNDAY))
            assert not scene.service().look()

    scene.during = second_service_looks_for_two_weeks
    assert scene.at(SUNDAY).service().look()
    assert len(scene.runs) == 1


def test_a_run_whose_service_died_is_gone_on_with_once_it_has_been_silent(scene: Scene) -> None:
    scene.during = killed
    with pytest.raises(SystemExit):
        scene.at(SUNDAY).service().look()
    scene.during = lambda: None
    assert not scene.at(SUNDAY + timedelta(seconds=SILENT_S - 1)).service().look()
    assert scene.at(SUNDAY + timedelta(seconds=SILENT_S)).service().look()
    assert not scene.service().look()
    assert scene.keys("runs") == ["20261129T020000Z-2.json", "20261129T020000Z.json"]
    assert scene.keys("ended") == ["20261129T020000Z-2.json"]


def test_a_run_that_was_stopped_with_its_service_is_gone_on_with_at_once(scene: Scene) -> None:
    scene.during = interrupted
    with pytest.raises(KeyboardInterrupt):
        scene.at(SUNDAY).service().look()
    assert scene.keys("stopped") == ["20261129T020000Z.json"]
    scene.during = lambda: None
    assert scene.service().look()
    assert not scene.service().look()
    assert scene.keys("ended") == ["20261129T020000Z-2.json"]


def test_the_rest_of_a_cut_off_run_gives_way_to_the_next_slot(scene: Scene) -> None:
    scene.during = killed
    with pytest.raises(SystemExit):
        scene.at(SUNDAY).service().look()
    scene.during = lambda: None
    assert scene.at(SUNDAY + timedelta(weeks=1)).service().look()
    assert scene.keys("ended") == ["20261206T020000Z.json"]


def test_a_run_that_takes_its_service_down_is_not_tried_for_ever(scene: Scene) -> None:
    scene.during = killed
    scene.at(SUNDAY)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            scene.service().look()
        scene.at(scene.storage.now + timedelta(seconds=SILENT_S))
    assert not scene.service().look()
    assert len(scene.runs) == MAX_ATTEMPTS


def test_a_flow_that_fails_is_not_run_again_before_its_next_time(scene: Scene) -> None:
    scene.code = 137
    assert scene.at(SUNDAY).service().look()
    assert not scene.at(SUNDAY + timedelta(days=6)).service().look()
    assert scene.at(SUNDAY + timedelta(days=7)).service().look()


@pytest.mark.fault(35)
def test_a_clock_that_jumps_back_runs_nothing_twice(scene: Scene) -> None:
    assert scene.at(SUNDAY).service().look()
    assert not scene.at(SUNDAY - timedelta(days=2)).service().look()
    assert not scene.at(SUNDAY + timedelta(minutes=1)).service().look()


def test_a_store_that_does_not_answer_is_said_once_and_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = scene.at(SUNDAY).service()
    with monkeypatch.context() as patch:
        patch.setattr(scene.storage, "list", raises(StorageError("no route to the store")))
        assert not service.look()
        assert not service.look()
    assert capsys.readouterr().err == "warning: no route to the store\n"
    assert service.look()


def test_a_damaged_schedule_is_named_and_stops_no_other(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.storage.put("schedules/broken-00000000.json", b"{")
    service = scene.at(SUNDAY).service()
    assert service.look()
    assert not service.look()
    assert "broken-00000000.json is no schedule" in capsys.readouterr().err


def test_a_removed_schedule_runs_no_more(scene: Scene) -> None:
    service = scene.service()
    Book(scene.storage).remove(WEEKLY.id)
    assert not scene.at(SUNDAY).service().look()
    assert not service.look()


def test_what_a_flow_says_and_how_it_ends_is_kept_whatever_becomes_of_it(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "log"
    bad = Schedule(flow="evaluate", words=("run=/nowhere",), cron="0 2 * * 0", timezone="UTC", folder=str(tmp_path))
    beats: list[int] = []
    assert launch_process(bad, log, lambda: beats.append(1)) == 2
    assert "run=/nowhere holds no run" in log.read_text()
    assert beats
    assert log.stat().st_mode & 0o777 == 0o600, "a log holds ids and paths"
    gone = Schedule(flow="evaluate", words=(), cron="0 2 * * 0", timezone="UTC", folder=str(tmp_path / "gone"))
    assert launch_process(gone, log, lambda: None) == 2
    assert "cannot start in" in log.read_text()


def test_a_module_in_the_schedules_folder_is_not_taken_for_the_program(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").write_text("raise SystemExit(77)")
    schedule = Schedule(flow="check", words=(), cron="0 2 * * 0", timezone="UTC", folder=str(tmp_path))
    assert launch_process(schedule, tmp_path / "log", lambda: None) == 2
    assert "check needs cohort" in (tmp_path / "log").read_text()


SERVE = """
import sys
import flows.cli
import flows.scheduling.service as service

real = service.subprocess.Popen

def popen(command, **options):  # a flow that takes long
    return real([sys.executable, "-c", FLOW], **options)

FLOW = '''
import pathlib, time
from flows.engine.signals import Terminated, terminable
try:
    with terminable():
        pathlib.Path("started").touch()
        time.sleep(100)
except Terminated:
    print("ended in order")
    raise SystemExit(143)
'''
service.subprocess.Popen = popen
sys.exit(flows.cli.main(sys.argv[1:]))
"""


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("kind", "sigint", "code"),
    [
        (signal.SIGTERM, signal.SIG_DFL, 143),
        (signal.SIGTERM, signal.SIG_IGN, 143),  # started by nohup's kin: a script's background job, some CI runners
        (signal.SIGINT, signal.SIG_DFL, 130),
    ],
)
def test_a_signal_ends_the_service_and_the_flow_that_it_runs_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals, sigint: signal.Handlers, code: int
) -> None:
    registry = LocalStorage(tmp_path / "registry")
    schedule = Schedule(flow="evaluate", words=(), cron="* * * * *", timezone="UTC", folder=str(tmp_path))
    Book(registry).add(schedule)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    AllowList().add(schedule)
    two_hours_ago = time.time() - 7200
    os.utime(registry.root / f"schedules/{schedule.id}.json", (two_hours_ago, two_hours_ago))
    before = signal.signal(signal.SIGINT, sigint)  # whatever the tests were started with; the service inherits it
    try:
        service = subprocess.Popen(
            [sys.executable, "-c", SERVE, "schedule", "serve", f"registry={registry.uri}", "look_every_s=1"],
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with service:
        deadline_s = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline_s
            assert service.poll() is None
            time.sleep(0.05)
        sent_s = time.monotonic()
        service.send_signal(kind)
        out, _ = service.communicate(timeout=30)
    assert time.monotonic() - sent_s < 10
    assert service.returncode == code
    assert "stopped after" in out
    (planned,) = Book(registry).planned()
    assert planned.is_stopped
    assert not planned.is_over
    (log,) = [entry.key for entry in registry.list("schedules") if entry.key.endswith(".log")]
    assert registry.get(log) == b"ended in order\n", "the flow was told to stop, not killed"


def raises(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call
