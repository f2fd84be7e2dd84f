"""The state of schedules: what is due, has run or is running, in small files below `schedules/` in the registry.

schedules/<id>.json              the flow, its words, cron and time zone (put-if-absent; the id is a digest of them)
schedules/<id>/runs/<run>.json   a claim, put-if-absent: of two services one gets the slot
schedules/<id>/beat.json         rewritten while a run is going on
schedules/<id>/ended/<run>.json  its exit code, seconds and log
schedules/<id>/stopped/<run>.json  instead: its service was stopped, and the next one resumes the run
schedules/<id>/logs/<run>.log    the end of its output

Whoever can write the registry can write these: a service runs only what is allowed on its machine
(`flows.scheduling.allowed`), and a file that is no schedule, or not the one that its name says, stops no other.

A slot is a time of the schedule, a run `<slot>` or, on later attempts, `<slot>-2`. Ages are measured by the store's
own clock, so that a machine whose clock is days off starts nothing twice.
"""

import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flows.scheduling.cron import Cron
from mhim_core.errors import ConfigError, InputError, IntegrityError, MhimError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.storage import Storage

SCHEMA = 1
PREFIX = "schedules"
SILENT_S = 180.0
"""A run whose service has written nothing for this long is considered dead."""
MAX_ATTEMPTS = 5
"""Attempts at one slot: a run that kills its service every time is not tried for ever."""
_MAX_BYTES = 2**20
"""Of a schedule's file: its words came from a command line."""
_SLOT = "%Y%m%dT%H%M%SZ"
_KEY = re.compile(
    rf"{PREFIX}/(?P<id>[^/]+)(?:\.json|/beat\.json|/(?P<kind>runs|ended|stopped)/(?P<run>\d{{8}}T\d{{6}}Z(?:-\d+)?)\.json)"
)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One flow and when it runs."""

    flow: str
    words: tuple[str, ...]
    """The flow's own `key=value`s."""
    cron: str
    timezone: str
    folder: str
    """The working directory when it was added; relative paths in the words are relative to it."""

    @property
    def id(self) -> str:
        """The flow and eight digits of the schedule's fingerprint, such as retrain-1a2b3c4d."""
        return f"{self.flow}-{fingerprint(self)[:8]}"

    @property
    def times(self) -> Cron:
        """When it is due."""
        return Cron(self.cron, self.timezone)

    @property
    def command(self) -> str:
        """As a person would type it."""
        return shlex.join(["mhim", self.flow, *self.words])

    def to_bytes(self) -> bytes:
        """As JSON; equal schedules give equal bytes."""
        return canonical_json(to_plain(self) | {"schema": SCHEMA})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Schedule":
        """Raises IntegrityError naming `where` if the bytes are no schedule of this schema."""
        try:
            raw = parse_json(data)
            if raw.pop("schema") != SCHEMA:
                raise IntegrityError(f"{where} has another schema than {SCHEMA}; another version of mhim wrote it")
            schedule = read_record(cls, raw, where)
            Cron(schedule.cron, schedule.timezone)
            return schedule
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{where} is no schedule: {type(error).__name__}: {error}") from error


class Slot(NamedTuple):
    """A time and the number of the attempt at it, which a service claims."""

    time: datetime
    attempt: int = 1

    @property
    def run(self) -> str:
        """Its name in keys; later slots and attempts do not sort by it."""
        return f"{self.time:{_SLOT}}" + (f"-{self.attempt}" if self.attempt > 1 else "")

    @classmethod
    def of(cls, run: str) -> "Slot":
        """Raises ValueError for a name that is no time, such as one of a 13th month."""
        text, _, attempt = run.partition("-")
        return cls(datetime.strptime(text, _SLOT).replace(tzinfo=UTC), int(attempt or 1))


class Planned(NamedTuple):
    """A schedule and the state of its runs, from one listing."""

    schedule: Schedule
    added_s: float
    """By the store's clock, like every time here."""
    last: Slot | None
    """The newest claim."""
    is_over: bool
    """Its end was recorded. False: it is running, was stopped, or died."""
    is_stopped: bool
    sign_s: float
    """The last sign of life of the newest run."""
    ended_s: float = 0.0
    """When its end, or that it was stopped, was recorded; 0 for neither."""

    def is_running(self, now: datetime) -> bool:
        """Claimed without an end, and its service is alive."""
        is_open = self.last is not None and not self.is_over and not self.is_stopped
        return is_open and now.timestamp() - self.sign_s < SILENT_S

    def due(self, now: datetime) -> Slot | None:
        """What to claim now: the newest slot that was missed, or the rest of a run that was cut off."""
        if self.is_running(now):
            return None
        since = datetime.fromtimestamp(self.added_s, UTC)
        newest = self.schedule.times.latest(since if self.last is None else max(since, self.last.time), now)
        if newest is not None:
            return Slot(newest)
        if self.last is None or self.is_over or self.last.attempt >= MAX_ATTEMPTS or self.last.time > now:
            return None
        return self.last._replace(attempt=self.last.attempt + 1)


class Book:
    """The schedules of a registry."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._schedules: dict[tuple[str, float], Schedule] = {}
        self.damaged: dict[str, str] = {}
        """By id, what is wrong with a schedule that cannot be read or its records; as of the last listing. A schedule
        that cannot be read does not run."""

    def add(self, schedule: Schedule) -> bool:
        """Returns False if the same schedule exists already. Raises IntegrityError if the id is taken by another."""
        if self.storage.put_if_absent(_key(schedule.id), schedule.to_bytes()):
            return True
        if self._read(schedule.id) != schedule:
            raise IntegrityError(
                f"{self.storage.locate(_key(schedule.id))} is not the schedule that its name says; delete that file"
            )
        return False

    def remove(self, schedule_id: str) -> None:
        """Records of past runs are kept. Raises InputError if there is no such schedule."""
        self.find(schedule_id)
        self.storage.delete(_key(schedule_id))

    def find(self, schedule_id: str) -> Planned:
        """Raises InputError where there is no such schedule."""
        planned = self.planned()
        for candidate in planned:
            if candidate.schedule.id == schedule_id:
                return candidate
        known = ", ".join(candidate.schedule.id for candidate in planned)
        raise InputError(
            f"{self.storage.uri} has no schedule {schedule_id!r}; " + (f"it has {known}" if known else "it has none")
        )

    def planned(self) -> list[Planned]:
        """Every schedule, by id. One LIST; a schedule's own file is read once.

        One that is damaged is left out and noted; StorageError is for the listing alone.
        """
        self.damaged = {}
        added: dict[str, float] = {}
        signs: dict[str, float] = {}
        runs: dict[tuple[str, str], dict[str, float]] = {}
        for entry in self.storage.list(PREFIX):
            match = _KEY.fullmatch(entry.key)
            if match is None:
                continue
            if match["kind"]:
                if _is_run(match["run"]):
                    runs.setdefault((match["id"], match["kind"]), {})[match["run"]] = entry.modified_s
                else:
                    self.damaged[match["id"]] = f"{self.storage.locate(entry.key)} names no time; it is ignored"
            elif entry.key == _key(match["id"]) and entry.num_bytes <= _MAX_BYTES:
                added[match["id"]] = entry.modified_s
            elif entry.key == _key(match["id"]):
                self.damaged[match["id"]] = f"{self.storage.locate(entry.key)} is too large for a schedule"
            else:
                signs[match["id"]] = entry.modified_s
        listed = []
        for schedule_id, added_s in sorted(added.items()):
            try:
                schedule = self._read_once(schedule_id, added_s)
            except NotFoundError:  # removed since it was listed
                continue
            except MhimError as error:
                self.damaged[schedule_id] = str(error)
                continue
            claims = runs.get((schedule_id, "runs"), {})
            last = max((Slot.of(run) for run in claims), default=None)
            name = "" if last is None else last.run
            ended, stopped = (runs.get((schedule_id, kind), {}) for kind in ("ended", "stopped"))
            ended_s = ended.get(name, stopped.get(name, 0.0))
            sign_s = max(claims.get(name, 0.0), signs.get(schedule_id, 0.0))
            listed.append(Planned(schedule, added_s, last, name in ended, name in stopped, sign_s, ended_s))
        return listed

    def claim(self, schedule: Schedule, slot: Slot, by: str) -> bool:
        """Returns False if another service has claimed it."""
        return self._put_if_absent(schedule, "runs", slot, {"by": by})

    def beat(self, schedule: Schedule, slot: Slot) -> None:
        """A sign of life; the time is the store's own."""
        self.storage.put(f"{PREFIX}/{schedule.id}/beat.json", canonical_json({"run": slot.run}))

    def end(self, schedule: Schedule, slot: Slot, code: int, seconds: float, log: bytes) -> str:
        """Keep how a run ended; where its log is."""
        key = _log_key(schedule, slot)
        self.storage.put(key, log)
        self._put_if_absent(schedule, "ended", slot, {"exit_code": code, "seconds": round(seconds, 1), "log": key})
        return self.storage.locate(key)

    def stop(self, schedule: Schedule, slot: Slot, log: bytes) -> None:
        """Record that the run was stopped together with its service, so that the next service resumes it at once."""
        self.storage.put(_log_key(schedule, slot), log)
        self._put_if_absent(schedule, "stopped", slot, {})

    def exit_code(self, schedule: Schedule, slot: Slot) -> int | None:
        """Of a run that ended; None: it has not. Raises IntegrityError for a damaged record."""
        key = _run_key(schedule, "ended", slot)
        try:
            return int(parse_json(self.storage.get(key))["exit_code"])
        except NotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{self.storage.locate(key)} is no record of a run's end") from error

    def _put_if_absent(self, schedule: Schedule, kind: str, slot: Slot, record: dict[str, Any]) -> bool:
        return self.storage.put_if_absent(_run_key(schedule, kind, slot), canonical_json(record | {"schema": SCHEMA}))

    def _read_once(self, schedule_id: str, added_s: float) -> Schedule:
        known = self._schedules.get((schedule_id, added_s))
        if known is None:
            known = self._schedules[schedule_id, added_s] = self._read(schedule_id)
        return known

    def _read(self, schedule_id: str) -> Schedule:
        """Raises IntegrityError if the file is damaged or holds another schedule than its name says."""
        key = _key(schedule_id)
        try:
            data = self.storage.get(key)
        except ConfigError as error:  # no name that we would give
            raise IntegrityError(str(error)) from error
        schedule = Schedule.from_bytes(data, self.storage.locate(key))
        if schedule.id != schedule_id:
            raise IntegrityError(f"{self.storage.locate(key)} holds another schedule, {schedule.id}")
        return schedule


def _is_run(run: str) -> bool:
    try:
        return Slot.of(run).run == run
    except ValueError:
        return False


def _key(schedule_id: str) -> str:
    return f"{PREFIX}/{schedule_id}.json"


def _log_key(schedule: Schedule, slot: Slot) -> str:
    return f"{PREFIX}/{schedule.id}/logs/{slot.run}.log"


def _run_key(schedule: Schedule, kind: str, slot: Slot) -> str:
    return f"{PREFIX}/{schedule.id}/{kind}/{slot.run}.json"
