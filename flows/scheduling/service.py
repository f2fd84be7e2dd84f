"""mhim schedule serve registry=…: runs schedules when they are due, one after the other, until stopped.

Inputs: the schedules in the registry (`flows.scheduling.records`) and those that are allowed on this machine
(`flows.scheduling.allowed`), read every `look_every_s`; of the former only the latter run. Outputs: records and logs
of their runs. Each flow runs in its own process, so that its crash does not end the service. Cost: one LIST per look.
Exit code: 143 when it is stopped by SIGTERM, 130 by Ctrl-C; the running flow is ended first (SIGTERM), and resumed when
a service is started again. 2, 6 at the start; later, the service waits for a store that does not answer.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from cluster.storage import open_storage
from flows.config.schedules import ScheduleServeConfig
from flows.engine.result import FlowResult
from flows.engine.signals import interruption_code
from flows.engine.state_folder import open_private, private_folder
from flows.scheduling.allowed import AllowList, check_schedule
from flows.scheduling.records import Book, Planned, Schedule, Slot
from mhim_core.errors import ConfigError, MhimError, StorageError
from mhim_core.printable import one_line
from mhim_core.registry.clock import store_time_s
from mhim_core.storage import Storage
from mhim_core.types import ExitCode

_BEAT_S = 30.0
_GRACE_S = 15.0
"""Time that an interrupted flow has to end before it is killed; the service has `flows.engine.signals.GRACE_S`."""
_LOG_BYTES = 8 * 2**20
"""Bytes of a log's end that are kept in the store."""
_CLOCK_S = 900.0
"""For how long the two clocks are assumed to run alike before the store's is read again."""


class Launch(Protocol):
    """Runs a schedule's flow to its end, calling `beat` every now and then; its exit code.

    A KeyboardInterrupt is handed to the flow, waited for, and raised again.
    """

    def __call__(self, schedule: Schedule, log: Path, beat: Callable[[], None]) -> int: ...


def run(config: ScheduleServeConfig) -> FlowResult:
    """Raises ConfigError (2), StorageError (6) where the registry does not answer at the start."""
    storage = open_storage(config.registry)
    clock = StoreClock(storage)
    clock()
    allowed = AllowList(config.allowing.allow)
    allowed.entries()
    service = Service(Book(storage), clock, allowed)
    print(
        f"schedules of {storage.uri} that {allowed.path} allows, looked at every {config.look_every_s:g} s; "
        "stop with Ctrl-C or SIGTERM",
        flush=True,
    )
    try:
        while True:
            if not service.look():
                time.sleep(config.look_every_s)
    except KeyboardInterrupt as interruption:
        print("stopped; what was running goes on when a service is started again", flush=True)
        code = interruption_code(interruption)
    return FlowResult(exit_code=code, outputs={"schedules": storage.locate("schedules")})


class StoreClock:
    """The store's time: this machine's clock may be wrong, and two services must agree."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._measured_s = -_CLOCK_S
        self._store_s = 0.0

    def __call__(self) -> datetime:
        """Raises StorageError."""
        now_s = time.monotonic()
        if now_s - self._measured_s >= _CLOCK_S:
            self._store_s, self._measured_s = store_time_s(self._storage), now_s
        return datetime.fromtimestamp(self._store_s + now_s - self._measured_s, UTC)


class Ran(NamedTuple):
    """A run that has ended."""

    exit_code: int
    log: str
    """Where it is."""


class Service:
    """Runs schedules when they are due, if they are allowed here.

    Their state is in the store, so that any other service can take over.
    """

    def __init__(
        self, book: Book, now: Callable[[], datetime], allowed: AllowList, launch: Launch | None = None
    ) -> None:
        self._book = book
        self._now = now
        self._allowed = allowed
        self._launch = launch or launch_process
        self._said: frozenset[str] = frozenset()

    def look(self) -> bool:
        """Run the first allowed schedule that is due; False if none is.

        Errors are printed once, as long as they stay, and tried again later.
        """
        try:
            schedules = self._runnable()
            for planned in schedules:
                slot = planned.due(self._now())
                if slot is not None and self._book.claim(planned.schedule, slot, process_name()):
                    run_claimed(self._book, planned.schedule, slot, self._launch)
                    return True
        except MhimError as error:
            self._say_once(str(error))
        return False

    def _runnable(self) -> list[Planned]:
        """The schedules that may run here; the others are named."""
        schedules = self._book.planned()
        refusals = dict(self._book.damaged)
        runnable = []
        for planned in schedules:
            try:
                require_allowed(planned.schedule, self._allowed, self._book.storage.uri)
            except ConfigError as error:
                refusals[planned.schedule.id] = str(error)
                continue
            runnable.append(planned)
        self._say_once(*refusals.values())
        return runnable

    def _say_once(self, *messages: str) -> None:
        for message in messages:
            if message not in self._said:
                print(f"warning: {one_line(message)}", file=sys.stderr, flush=True)
        self._said = frozenset(messages)


def require_allowed(schedule: Schedule, allowed: AllowList, registry: str) -> None:
    """Raises ConfigError, with the command that would allow it, unless this machine allows exactly this schedule."""
    check_schedule(schedule)
    if not allowed.allows(schedule):
        raise ConfigError(
            f"{schedule.id} is not allowed on this machine and does not run here ({schedule.command}, in "
            f"{schedule.folder}); if you want it to: mhim schedule allow {schedule.id} registry={registry}"
        )


def run_claimed(book: Book, schedule: Schedule, slot: Slot, launch: Launch, *, goes_on: bool = True) -> Ran:
    """Run a claimed slot and keep how it ended. A KeyboardInterrupt stops the flow, is recorded, and raised again.

    `goes_on`: the next service resumes an interrupted run; False: an interruption ends the run.
    """
    log = _log_folder(schedule) / f"{slot.run}.log"
    print(f"{schedule.id}: run {slot.run} started: {schedule.command}; log: {log}", flush=True)

    def beat() -> None:
        with contextlib.suppress(StorageError):  # the flow itself will notice
            book.beat(schedule, slot)

    start_s = time.monotonic()
    try:
        code = launch(schedule, log, beat)
    except KeyboardInterrupt as interruption:
        seconds = time.monotonic() - start_s
        if goes_on:
            book.stop(schedule, slot, _tail(log))
        else:
            book.end(schedule, slot, interruption_code(interruption), seconds, _tail(log))
        print(f"{schedule.id}: run {slot.run} stopped after {seconds:.0f} s; log: {log}", flush=True)
        raise
    seconds = time.monotonic() - start_s
    kept = book.end(schedule, slot, code, seconds, _tail(log))
    print(f"{schedule.id}: run {slot.run} ended with exit code {code} after {seconds:.0f} s; log: {kept}", flush=True)
    return Ran(code, kept)


def _log_folder(schedule: Schedule) -> Path:
    try:
        return private_folder("schedules", schedule.id)
    except OSError as error:
        raise StorageError(
            f"no log can be written to {error.filename}: {error.strerror}; set XDG_STATE_HOME"
        ) from error


def launch_process(schedule: Schedule, log: Path, beat: Callable[[], None]) -> int:
    """As `Launch`: a process of its own session, so that a Ctrl-C does not reach it, and it ends through us."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-P", "-m", "flows.cli", schedule.flow, *schedule.words]
    with os.fdopen(open_private(log, os.O_WRONLY | os.O_TRUNC), "wb") as output:
        try:
            child = subprocess.Popen(
                command,
                cwd=schedule.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:  # the folder is not on this machine, or no process can be had
            output.write(f"mhim: cannot start in {schedule.folder}: {error.strerror}\n".encode())
            return ExitCode.BAD_INPUT
        try:
            return _wait(child, beat)
        except KeyboardInterrupt:
            _interrupt(child)
            raise


def _wait(child: subprocess.Popen[bytes], beat: Callable[[], None]) -> int:
    """Its exit code; 137 for one that was killed, as shells say it."""
    while True:
        beat()
        try:
            code = child.wait(_BEAT_S)
        except subprocess.TimeoutExpired:
            continue
        return code if code >= 0 else 128 - code


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM for the flow; what does not end in time is killed, with all it started.

    Not SIGINT: a flow inherits that it is ignored where this service was started so (a script's background job).
    """
    with _ignoring_interrupts():
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore further Ctrl-C in the block."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, signal.SIG_IGN) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _tail(log: Path) -> bytes:
    """The log's end, from a line's start."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        data = file.read()
    return data if size <= _LOG_BYTES else data.partition(b"\n")[2]


def process_name() -> str:
    """host:pid of this service, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"
