"""How far an embedding has come, beside its store's reports, for whoever asks from another terminal or machine.

`reports/<time>-<random>/progress.json` is put again and again while the work goes on. Nothing is decided by it.
"""

import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from mhim_core.errors import IntegrityError, StorageError
from mhim_core.fingerprint import canonical_json
from mhim_core.records import parse_object, read_record
from mhim_core.storage import Storage
from mhim_core.types import Status, StatusRow

SCHEMA = 1
REPORTS = "reports"
_NAME = "progress.json"
EVERY_S = 30.0
"""How often progress is put."""
_MOST = 10**11
"""More than any count of tiles, and than the seconds of this millennium."""
_LAST_PUT_S = 5.0
"""How long the end waits for a put that is under way."""
MAX_FAILURES = 20
"""The last that are told."""


class Work(StrEnum):
    """What became of the work."""

    running = "running"
    ended = "ended"
    stopped = "stopped"
    """By an error or a signal, which the process still saw."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of one pass over a cohort's slides."""

    work: Work
    host: str
    pid: int
    started_s: float
    """Unix time by that host's clock."""
    updated_s: float
    num_todo: int
    """Slides that this pass has to do."""
    counts: dict[str, int]
    """Slides done, by status."""
    num_tiles: int
    left_s: float | None
    """Seconds until the end, as far as can be told."""
    waited_s: float
    """Of all encoders: without a tile to encode."""
    encoded_s: float
    stored_s: float
    failures: tuple[str, ...] = ()
    """`slide: reason: message`, the newest last."""
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        """Raises IntegrityError for numbers that cannot be, in a record that was read."""
        numbers = [self.num_todo, self.num_tiles, self.pid, *self.counts.values()]
        seconds = [self.started_s, self.updated_s, self.left_s or 0.0, self.waited_s, self.encoded_s, self.stored_s]
        if not all(isinstance(number, int) and 0 <= number <= _MOST for number in numbers):
            raise IntegrityError(f"progress counts {numbers}")
        if not all(isinstance(value, int | float) and 0 <= value <= _MOST for value in seconds):
            raise IntegrityError(f"progress has seconds of {seconds}")

    @property
    def num_done(self) -> int:
        return sum(self.counts.values())

    def shares(self) -> str:
        """`encoders: 71 % encoding, 24 % waiting for tiles, 5 % storing`; empty before anything was done.

        With advice where they wait for most of the time.
        """
        total_s = self.waited_s + self.encoded_s + self.stored_s
        if not total_s:
            return ""
        parts = (("encoding", self.encoded_s), ("waiting for tiles", self.waited_s), ("storing", self.stored_s))
        shares = ", ".join(f"{100 * seconds / total_s:.0f} % {work}" for work, seconds in parts)
        return f"encoders: {shares}{_advice(self.waited_s / total_s, self.stored_s / total_s)}"


_STARVED, _HELD_UP = 0.5, 0.3
"""Shares of the encoders' time from which something is said."""


def _advice(waiting: float, storing: float) -> str:
    if waiting > _STARVED:
        return " (tiles come too slowly: more cores for decoding, decoders_per_actor=, or slides on a nearer disk)"
    return " (the store is slow to take features)" if storing > _HELD_UP else ""


class ToldProgress(NamedTuple):
    """A progress record in a store."""

    key: str
    progress: Progress | str
    """Or why it cannot be read."""
    modified_s: float
    """By the store's clock."""


class ProgressTeller:
    """Counts rows, and puts the record every half minute from a thread of its own, while the block runs.

    Work that ends sooner leaves none. A store that does not answer is left alone until the next time.
    """

    def __init__(self, storage: Storage, folder: str, num_todo: int, host: str, pid: int) -> None:
        """`folder`: a key below `reports/`, of this work alone."""
        self._storage, self._key = storage, f"{folder}/{_NAME}"
        self._num_todo, self._host, self._pid = num_todo, host, pid
        self._started_s = time.time()
        self._counts = dict.fromkeys((status.value for status in Status), 0)
        self._num_tiles, self._spent_s = 0, (0.0, 0.0, 0.0)
        self._failures: tuple[str, ...] = ()
        self._left_s: float | None = None
        self._is_over = threading.Event()
        self._was_put = False
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join(_LAST_PUT_S)
        if self._was_put and not self._thread.is_alive():
            self.put(Work.ended if error is None else Work.stopped)

    def update(self, row: StatusRow, left_s: float | None) -> None:
        """Count a finished slide."""
        self._counts[row.status.value] += 1
        self._num_tiles += row.num_tiles
        waited_s, encoded_s, stored_s = self._spent_s
        self._spent_s = (waited_s + row.waited_s, encoded_s + row.encoded_s, stored_s + row.stored_s)
        self._left_s = left_s
        if row.status is Status.FAILED:
            text = f"{row.slide_id}: {row.reason}: {row.message}"
            self._failures = (*self._failures, text)[-MAX_FAILURES:]

    def progress(self, work: Work) -> Progress:
        """The state now."""
        waited_s, encoded_s, stored_s = self._spent_s
        return Progress(
            work=work,
            host=self._host,
            pid=self._pid,
            started_s=self._started_s,
            updated_s=time.time(),
            num_todo=self._num_todo,
            counts=dict(self._counts),
            num_tiles=self._num_tiles,
            left_s=self._left_s if work is Work.running else None,
            waited_s=round(waited_s, 3),
            encoded_s=round(encoded_s, 3),
            stored_s=round(stored_s, 3),
            failures=self._failures,
        )

    def put(self, work: Work) -> None:
        """Put the record now."""
        try:
            self._storage.put(self._key, canonical_json(self.progress(work)))
            self._was_put = True
        except StorageError:
            return  # where the store takes nothing, commits say so

    def _tell(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self.put(Work.running)


def read_progress(storage: Storage, last: int) -> list[ToldProgress]:
    """The newest records of a store, the newest first; one that cannot be read says why. Raises StorageError."""
    entries = [entry for entry in storage.list(REPORTS) if entry.key.endswith(f"/{_NAME}")]
    newest = sorted(entries, key=lambda entry: entry.key, reverse=True)[:last]
    return [ToldProgress(entry.key, _read(storage, entry.key), entry.modified_s) for entry in newest]


def _read(storage: Storage, key: str) -> Progress | str:
    try:
        return read_record(Progress, parse_object(storage.get(key), key), key)
    except IntegrityError as error:
        return str(error)
