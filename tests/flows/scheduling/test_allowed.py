"""A file in the registry runs nothing by itself: a person of this machine allowed exactly these words."""

import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.engine.state_folder import private_folder, state_folder
from flows.scheduling.allowed import AllowedLine, AllowList, check_schedule
from flows.scheduling.records import Book, Schedule
from flows.scheduling.service import Service
from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.storage import LocalStorage

Mhim = Callable[..., Any]
MINUTELY = {"cron": "* * * * *", "timezone": "UTC", "folder": "/"}
LATER = datetime(2199, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return state_folder()


@pytest.fixture
def registry(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "registry")


@pytest.fixture
def plant(registry: LocalStorage) -> Callable[..., Schedule]:
    """A schedule as anyone can write it who can write the registry; it is due."""

    def write(flow: str, *words: str) -> Schedule:
        schedule = Schedule(flow=flow, words=words, **MINUTELY)
        Book(registry).add(schedule)
        return schedule

    return write


class Looks:
    """A service, and what it ran."""

    def __init__(self, registry: LocalStorage, allow: str = "") -> None:
        self.ran: list[str] = []
        self.service = Service(Book(registry), lambda: LATER, AllowList(allow), self._launch)

    def _launch(self, schedule: Schedule, log: Path, beat: Callable[[], None]) -> int:
        log.touch()
        self.ran.append(schedule.id)
        return 0

    def all(self) -> list[str]:
        while self.service.look():
            pass
        return self.ran


@pytest.fixture
def looks(registry: LocalStorage) -> Looks:
    return Looks(registry)


class _Guarded(http.server.BaseHTTPRequestHandler):
    """Answers like a dashboard that wants a token, and keeps what it is sent."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_error(401)

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str | None]]]:
    """(address, the Authorization of every request)."""
    handler = type("Handler", (_Guarded,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.seen
        server.shutdown()


@pytest.mark.fault(45)
def test_a_planted_schedule_executes_no_file(
    mhim: Mhim, registry: LocalStorage, plant: Callable[..., Schedule], looks: Looks, tmp_path: Path
) -> None:
    canary, file = tmp_path / "canary", tmp_path / "x.py"
    file.write_text(f"open({str(canary)!r}, 'w')")
    planted = plant("train", "cohort=c.csv", "store=s", "out=o", f"aggregator_file={file}")
    assert looks.all() == []
    ended = mhim("schedule", "run-now", planted.id, f"registry={registry.uri}")
    assert ended.code == 2
    assert f"mhim schedule allow {planted.id} registry={registry.uri}" in ended.err
    assert mhim("schedule", "ls", f"registry={registry.uri}").code == 0
    assert mhim("schedule", "allow", planted.id, f"registry={registry.uri}").code == 0, "words are shown and kept"
    assert not canary.exists()
    assert [entry.key for entry in registry.list("schedules")] == [f"schedules/{planted.id}.json"], (
        "nothing was claimed"
    )


@pytest.mark.parametrize("flow", ["submit", "jobs", "os.system"])
@pytest.mark.fault(45)
def test_what_is_no_flow_of_its_own_is_not_run_nor_allowed_and_no_token_leaves(
    mhim: Mhim,
    registry: LocalStorage,
    plant: Callable[..., Schedule],
    looks: Looks,
    stranger: tuple[str, list[str | None]],
    monkeypatch: pytest.MonkeyPatch,
    flow: str,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary" * 8)
    address, seen = stranger
    planted = plant(flow, "flow=evaluate", "run=r", f"ray_address={address}")
    assert looks.all() == []
    for command in ("run-now", "allow"):
        ended = mhim("schedule", command, f"schedule={planted.id}", f"registry={registry.uri}")
        assert ended.code == 2
        assert "is no flow that a service runs" in ended.err
    assert seen == []
    assert AllowList().entries() == frozenset()


def test_each_that_is_not_allowed_is_named_once_and_stops_no_other(
    registry: LocalStorage, plant: Callable[..., Schedule], looks: Looks, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers = [plant("evaluate", f"run=x{index}") for index in range(3)]
    wanted = plant("evaluate", "run=mine")
    AllowList().add(wanted)
    assert looks.all() == [wanted.id]
    looks.service.look()
    err = capsys.readouterr().err
    assert [err.count(f"{schedule.id} is not allowed") for schedule in strangers] == [1, 1, 1]
    assert wanted.id not in err


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("schedules/broken-00000000.json", b"{"),
        ("schedules/deep-00000000.json", b"[" * 100_000),
        ("schedules/bytes-00000000.json", b"\xff\xfe"),
        ("schedules/large-00000000.json", b" " * (2**20 + 1)),
        ("schedules/evaluate-00000000.json", Schedule(flow="evaluate", words=("run=x",), **MINUTELY).to_bytes()),
        ("schedules/a b.json", b"{}"),
        ("schedules/x/runs/99999999T999999Z.json", b"{}"),
        ("schedules/x/ended/20261129T020000Z-0.json", b"{}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.fault(45)
def test_a_file_that_is_no_schedule_is_named_once_and_stops_no_other(
    registry: LocalStorage,
    plant: Callable[..., Schedule],
    looks: Looks,
    capsys: pytest.CaptureFixture[str],
    key: str,
    data: bytes,
) -> None:
    path = registry.root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    wanted = plant("evaluate", "run=mine")
    AllowList().add(wanted)
    assert looks.all() == [wanted.id]
    looks.service.look()
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1
    assert path.name in err


@pytest.mark.fault(45)
def test_only_the_very_record_that_was_allowed_runs(registry: LocalStorage, looks: Looks) -> None:
    schedule = Schedule(flow="evaluate", words=("run=x",), **MINUTELY)
    allowed = AllowList()
    allowed.add(schedule)
    for change in ({"words": ("run=y",)}, {"folder": "/tmp"}, {"cron": "0 * * * *"}, {"timezone": "Etc/UTC"}):
        assert not allowed.allows(dataclasses.replace(schedule, **change))
    assert allowed.allows(Schedule.from_bytes(schedule.to_bytes(), "here"))
    other = AllowedLine.of(dataclasses.replace(schedule, words=("run=y",)))
    forged = AllowedLine(schedule.id, other.sha256, other.words)  # an id has 32 bits, which can be found by trying
    assert forged not in allowed.entries()


def test_an_id_that_another_record_has_taken_is_not_found_there_already(registry: LocalStorage) -> None:
    schedule = Schedule(flow="evaluate", words=("run=x",), **MINUTELY)
    registry.put(f"schedules/{schedule.id}.json", dataclasses.replace(schedule, words=("run=y",)).to_bytes())
    with pytest.raises(IntegrityError, match=schedule.id):
        Book(registry).add(schedule)


def test_add_allows_here_and_allow_and_rm_say_so_elsewhere(
    mhim: Mhim, registry: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"registry={registry.uri}"
    assert mhim("schedule", "add", "evaluate", "run=r", "cron=* * * * *", at).code == 0
    (planned,) = Book(registry).planned()
    assert "  allowed on this machine" in mhim("schedule", "ls", at).out.splitlines()
    assert Looks(registry).all() == [planned.schedule.id]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    Book(registry).end(planned.schedule, Looks(registry).service._book.planned()[0].last, 0, 1.0, b"")  # type: ignore[arg-type]
    assert "not allowed on this machine" in mhim("schedule", "ls", at).out
    ended = mhim("schedule", "allow", planned.schedule.id, at)
    assert ended.code == 0
    assert "mhim evaluate run=r" in ended.out
    assert AllowList().allows(planned.schedule)
    assert mhim("schedule", "rm", planned.schedule.id, at).code == 0
    assert not AllowList().allows(planned.schedule)


def test_the_file_can_be_another_than_the_users_own(
    mhim: Mhim, registry: LocalStorage, plant: Callable[..., Schedule], tmp_path: Path
) -> None:
    planted, file = plant("evaluate", "run=/nowhere"), tmp_path / "allowed"
    words = (planted.id, f"registry={registry.uri}", f"allow={file}")
    assert mhim("schedule", "allow", *words).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert not AllowList().allows(planted)
    assert Looks(registry, str(file)).all() == [planted.id]


def test_words_that_are_not_the_flow_s_own_are_never_allowed() -> None:
    for words in (("nonsense=1",), ("run",), ("--debug",), ("run=a", "run=b"), ("run=\x1b[2J",), ("run=a\nb",)):
        with pytest.raises(ConfigError):
            check_schedule(Schedule(flow="evaluate", words=words, **MINUTELY))
    check_schedule(Schedule(flow="evaluate", words=("run=a b", "config=x.yaml"), **MINUTELY))


def test_the_list_is_private_and_one_that_others_can_write_is_refused(
    registry: LocalStorage, plant: Callable[..., Schedule], state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = plant("evaluate", "run=x")
    state.mkdir(parents=True, mode=0o777)
    state.chmod(0o775)  # of an earlier version, under umask 002
    allowed = AllowList()
    assert allowed.add(wanted)
    assert not allowed.add(wanted)
    assert (allowed.path.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o700)
    for place, loose in ((allowed.path, 0o620), (allowed.path, 0o602), (state, 0o770)):
        before = place.stat().st_mode & 0o777
        place.chmod(loose)
        assert Looks(registry).all() == []
        assert str(place) in capsys.readouterr().err
        place.chmod(before)
    assert Looks(registry).all() == [wanted.id]


def test_a_line_of_the_list_that_cannot_be_read_is_named_and_nothing_runs(
    mhim: Mhim, registry: LocalStorage, plant: Callable[..., Schedule]
) -> None:
    wanted, allowed = plant("evaluate", "run=x"), AllowList()
    allowed.add(wanted)
    with allowed.path.open("a") as file:
        file.write('{"id": "x"}\n')
    ended = mhim("schedule", "ls", f"registry={registry.uri}")
    assert ended.code == 2
    assert f"{allowed.path}, line 2" in ended.err
    assert Looks(registry).all() == []


def test_two_that_are_allowed_at_the_same_time_are_both_kept() -> None:
    schedules = [Schedule(flow="evaluate", words=(f"run={index}",), **MINUTELY) for index in range(8)]
    threads = [threading.Thread(target=AllowList().add, args=(schedule,)) for schedule in schedules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AllowList().entries() == {AllowedLine.of(schedule) for schedule in schedules}
    lines = AllowList().path.read_text().splitlines()
    assert len(lines) == 8
    assert set(json.loads(lines[0])) == {"id", "sha256", "words"}


def test_a_damaged_end_is_shown_and_hides_no_other(mhim: Mhim, registry: LocalStorage, looks: Looks) -> None:
    first, second = (Schedule(flow="evaluate", words=(f"run={name}",), **MINUTELY) for name in "ab")
    for schedule in (first, second):
        Book(registry).add(schedule)
        AllowList().add(schedule)
    assert looks.all() == [schedule.id for schedule in sorted((first, second), key=lambda schedule: schedule.id)]
    (ended,) = [entry.key for entry in registry.list(f"schedules/{first.id}/ended")]
    registry.put(ended, b'{"exit_code": "\\u001b"}')
    out = mhim("schedule", "ls", f"registry={registry.uri}").out
    assert "is no record of a run's end" in out
    assert "exit code 0" in out


def test_a_private_folder_is_nobody_else_s(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder("schedules", "x")
    assert folder == state / "schedules/x"
    assert {part.stat().st_mode & 0o777 for part in (state, state / "schedules", folder)} == {0o700}
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    with pytest.raises(PermissionError):
        private_folder()
