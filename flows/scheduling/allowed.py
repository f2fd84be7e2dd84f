"""The schedules that a person allowed on this machine: a service runs these alone, whoever can write the registry.

One line of JSON each in a file of this machine (`allow=`, by default in the state folder, 0600): a schedule's id, the
sha256 of its whole record (flow, words, times, folder), and its words for a reader. All must match; the id alone is
too short to be a proof.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.commands import config_class, plain_flows
from flows.config.flat import keys_of
from flows.config.own_files import require_own
from flows.config.words import CONFIG, split_words
from flows.engine.state_folder import open_private, private_folder, state_folder
from flows.scheduling.records import Schedule
from mhim_core.errors import ConfigError, IntegrityError, StorageError
from mhim_core.fingerprint import canonical_json, sha256, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.storage import read_file

_NAME = "allowed-schedules.jsonl"
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class AllowedLine(NamedTuple):
    """One line of the file."""

    id: str
    sha256: str
    words: tuple[str, ...]
    """The flow and its words."""

    @classmethod
    def of(cls, schedule: Schedule) -> "AllowedLine":
        return cls(schedule.id, sha256(schedule.to_bytes()), (schedule.flow, *schedule.words))


class AllowList:
    """The file. `path`: empty for the user's own, in the state folder."""

    def __init__(self, path: str = "") -> None:
        self._is_own = not path
        self.path = Path(path).absolute() if path else state_folder() / _NAME

    def entries(self) -> frozenset[AllowedLine]:
        """Raises ConfigError if others can write the file, or a line is none of this version's."""
        try:
            require_own(self.path)
            lines = read_file(self.path).splitlines()
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise ConfigError(f"allow={self.path} cannot be read: {error.strerror}") from error
        return frozenset(_entry(line, f"{self.path}, line {number}") for number, line in enumerate(lines, 1) if line)

    def allows(self, schedule: Schedule) -> bool:
        """Raises ConfigError as `entries` does."""
        return AllowedLine.of(schedule) in self.entries()

    def add(self, schedule: Schedule) -> bool:
        """Returns False if it was allowed before. Raises ConfigError for a schedule that no service would run."""
        check_schedule(schedule)
        with self._locked():
            entries = self.entries()
            entry = AllowedLine.of(schedule)
            if entry not in entries:
                self._write(entries | {entry})
            return entry not in entries

    def remove(self, schedule_id: str) -> bool:
        """Returns False if nothing under that id was allowed."""
        if not self.path.exists():
            return False
        with self._locked():
            entries = self.entries()
            others = frozenset(entry for entry in entries if entry.id != schedule_id)
            if others != entries:
                self._write(others)
            return others != entries

    def _write(self, entries: frozenset[AllowedLine]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.writelines(canonical_json(to_plain(entry)) + b"\n" for entry in sorted(entries))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. Raises StorageError if the file's folder cannot be written."""
        try:
            if self._is_own:
                private_folder()
            lock = open_private(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise StorageError(f"allow={self.path} cannot be written: {error.strerror}") from error


def check_schedule(schedule: Schedule) -> None:
    """Raises ConfigError unless it is a flow that can be run for a person, with keys of that flow alone.

    Values are checked by the flow itself, as its first act, in the schedule's folder. Nothing is run here.
    """
    if schedule.flow not in plain_flows():
        raise ConfigError(f"{schedule.id}: {schedule.flow!r} is no flow that a service runs")
    for text in (schedule.folder, *schedule.words):
        if _UNFIT.search(text):
            raise ConfigError(f"{schedule.id}: {text!r} has control characters or broken UTF-8")
    split_words(schedule.words, [*keys_of(config_class(schedule.flow)), CONFIG.name], schedule.flow)


def _entry(line: bytes, where: str) -> AllowedLine:
    try:
        return read_record(AllowedLine, parse_json(line), where)
    except (ValueError, RecursionError, IntegrityError) as error:
        raise ConfigError(f"{where} allows no schedule ({error}); remove the line") from error
