"""Decoding in child processes: a slide that crashes or hangs its decoder takes down a child, never the encoder.

Each child decodes one slide at a time and is ahead of the encoder by a bounded number of messages, so the next slides
are opened while the current one is still being encoded. Messages are bounded by number and by bytes. Large arrays come
through shared memory, everything else through the child's pipe.
"""

import contextlib
import multiprocessing
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, NamedTuple, TypeVar

from cluster.shared_slots import SharedSlots, SlotWriter, Span
from mhim_core.errors import MachineError, SlideError
from mhim_core.types import FailureReason

Job = TypeVar("Job")

MAX_ATTEMPTS = 2
AHEAD = 8
"""Messages (batches of tiles, about 6 MB each) that a child is ahead of the encoder, fewer where they are large."""
AHEAD_BYTES = 64 * 2**20
"""Once as many bytes lie ready, decoding waits."""
_SLOT_BYTES = AHEAD_BYTES // AHEAD
_SHARED_BYTES = 2**20
"""Arrays from this size on are shared rather than sent."""
_IN_PIPE = -1
"""Permission for one message of any size through the pipe, where whoever consumes them holds all slots."""
_POLL_S = 0.05
_LAST_WORDS_S = 5.0


class RetrySlide(Exception):  # noqa: N818 - a signal, as StopIteration is
    """The decoder died amid a slide; what it had yielded of it is void, and the slide starts again."""


class AtHand(NamedTuple):
    """What `decode` may yield before anything else: the slide lies here, and from now on silence is short.

    It is not an item of the stream.
    """


class _Room:
    """What a child may be ahead by."""

    def __init__(self) -> None:
        self._free = AHEAD_BYTES
        self._changed = threading.Condition()

    def take(self, num_bytes: int, is_over: threading.Event) -> None:
        """Wait until so many bytes are free, or all of them, or it is over."""
        with self._changed:
            while self._free < min(num_bytes, AHEAD_BYTES) and not is_over.is_set():
                self._changed.wait(_POLL_S)
            self._free -= num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._changed:
            self._free += num_bytes
            self._changed.notify()


class _Message(NamedTuple):
    kind: str
    """item | done | error | retry | closed"""
    value: Any = None
    num_bytes: int = 0
    """Of `room`."""
    room: _Room | None = None


class _Call:
    """One call of `streams` while it runs."""

    def __init__(self, num_jobs: int) -> None:
        self.messages: list[queue.Queue[_Message]] = [queue.Queue() for _ in range(num_jobs)]
        """By job."""
        self.retries = [0] * num_jobs
        """By job: requests that its decoder has had to repeat, as far as it has told."""
        self.unassigned = iter(range(num_jobs))
        """Jobs that no child has begun."""
        self.awaited = -1
        """The job whose next message somebody waits for."""
        self.given_up = threading.Event()
        """Nobody listens any more: the pumps are to end."""
        self.pumps: list[threading.Thread] = []

    def add(self, job: int, message: _Message) -> None:
        if message.room is not None:
            message.room.take(message.num_bytes, self.given_up)
        self.messages[job].put(message)

    def next_of(self, job: int) -> _Message:
        """Waits for it. Raises RuntimeError where the decoder was closed meanwhile."""
        self.awaited = job
        message = self.messages[job].get()
        self.awaited = -1
        if message.room is not None:
            message.room.give_back(message.num_bytes)
        if message.kind == "closed":
            self.messages[job].put(message)  # whoever asks again is told again
            raise RuntimeError("the decoder was closed before its streams were read to the end")
        return message

    def is_starved(self, job: int) -> bool:
        """Does somebody wait for this job's next message?"""
        return self.awaited == job and self.messages[job].empty()


def _no_retries() -> int:
    return 0


class Decoder(Generic[Job]):
    """Runs `decode(job) -> Iterator[item]` in child processes, for a list of jobs; their items come in order.

    `decode` must be importable (a module's function or a partial of one); items must be picklable, and their arrays lie
    in shared memory. `timeout_s` is the longest silence of a child before it is killed; `first_timeout_s`, where given,
    the longest before its first message of a job, for a `decode` that yields `AtHand` first. `num_children` jobs are
    decoded at once. Children stay for the next call, until `close`. `sweep(pid)` removes what a child that is dead by
    now has left. `count_retries`, a function of the child's, says how many requests that process has had to repeat:
    each message brings its job's home.
    """

    def __init__(
        self,
        decode: Callable[[Job], Iterator[Any]],
        timeout_s: float,
        first_timeout_s: float | None = None,
        sweep: Callable[[int], object] = lambda _: None,
        count_retries: Callable[[], int] = _no_retries,
        num_children: int = 1,
    ) -> None:
        first_timeout_s = timeout_s if first_timeout_s is None else first_timeout_s
        self._children = [_Child(decode, timeout_s, first_timeout_s, sweep, count_retries) for _ in range(num_children)]
        self._running: _Call | None = None

    def start(self) -> None:
        """Start the children now, so that they import their libraries while the caller loads an encoder."""
        for child in self._children:
            with contextlib.suppress(MachineError):  # the first job says so
                child.connected()

    def streams(self, jobs: Sequence[Job]) -> Iterator["JobStream"]:
        """One stream of items per job; consume each (or leave it) before asking for the next.

        The iterator may be abandoned: the children are then ended. One call at a time.
        """
        if self._running is not None:  # abandoned, and not collected yet
            self.close()
        call = self._running = _Call(len(jobs))
        for child in self._children[: len(jobs)]:
            child.room = _Room()
            arguments = (child, list(jobs), call)
            call.pumps.append(threading.Thread(target=_pump, args=arguments, daemon=True, name="mhim-decoder-pump"))
        for pump in call.pumps:
            pump.start()
        finished = False
        try:
            for index in range(len(jobs)):
                stream = JobStream(index, call)
                yield stream
                stream.drain()
            finished = True
            for pump in call.pumps:
                pump.join()
            self._running = None
        finally:
            # one that is abandoned may be collected amid a `close`, or once another call runs, which it leaves alone
            if not finished and self._running is call:
                self.close()

    def close(self) -> None:
        """End the children, and a call that is still running. Safe to call twice; the next call starts new children."""
        call, self._running = self._running, None
        if call is not None:
            call.given_up.set()
            for child, pump in zip(self._children, call.pumps, strict=False):
                while pump.is_alive():  # it waits for its child, or for room
                    child.kill()
                    pump.join(_POLL_S)
            for messages in call.messages:
                messages.put(_Message("closed"))
        for child in self._children:
            child.end(kill=True)


class _Child(Generic[Job]):
    """A decoding process, started anew when it has died, and the slots that it writes to. One thread's at a time."""

    def __init__(
        self,
        decode: Callable[[Job], Iterator[Any]],
        timeout_s: float,
        first_timeout_s: float,
        sweep: Callable[[int], object],
        count_retries: Callable[[], int],
    ) -> None:
        self._decode = decode
        self._timeout_s = timeout_s
        self._first_timeout_s = first_timeout_s
        self._sweep = sweep
        self._count_retries = count_retries
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._slots: SharedSlots | None = None
        self._granted: list[int] = []
        """Slots that the process may write to, and messages that it may send through the pipe."""
        self.room = _Room()

    def connected(self) -> Connection:
        """Raises MachineError where no process can be started, which is none of a slide's doing."""
        if self._connection is None or self._process is None or not self._process.is_alive():
            self.end()
            with contextlib.suppress(OSError):  # without such memory everything comes through the pipe
                self._slots = SharedSlots(AHEAD, _SLOT_BYTES)
            # spawn, since forking a process that holds Ray's threads or CUDA would deadlock
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            writer = self._slots.writer() if self._slots is not None else None
            arguments = (theirs, writer, self._decode, self._count_retries)
            process = context.Process(target=_serve, args=arguments, daemon=True, name="mhim-decoder")
            try:
                process.start()
            except OSError as error:
                raise MachineError(f"no decoding process can be started ({error}); run again to go on") from error
            theirs.close()
            self._connection, self._process = ours, process
        return self._connection

    def kill(self) -> None:
        """From another thread: the one that waits for the process sees that it is gone."""
        if (process := self._process) is not None:
            process.kill()

    def end(self, kill: bool = False) -> int | None:
        """The process's exit code. While a call runs its pump alone may do this: it waits on the connection."""
        process, connection, slots = self._process, self._connection, self._slots
        self._process = self._connection = self._slots = None
        self._granted = []
        if connection is not None:
            connection.close()
        if slots is not None:
            slots.close()
        if process is None:
            return None
        if not kill:
            process.join(timeout=_LAST_WORDS_S)  # one that died tells how
        process.kill()
        process.join()
        assert process.pid is not None
        self._sweep(process.pid)
        return process.exitcode

    def run(self, index: int, job: Job, call: _Call) -> Exception | None:
        """Decode a job once, its items added to the call; the error that ended it."""
        limit_s, counted = self._first_timeout_s, 0
        connection = self.connected()
        try:
            connection.send(("job", job))
            while True:
                self._wait_for_room(connection, index, call)
                if not connection.poll(limit_s):
                    break
                limit_s = self._timeout_s
                kind, payload, num_retries, permission, spans = pickle.loads(connection.recv_bytes())
                call.retries[index] += num_retries - counted
                counted = num_retries
                value = self._read(payload, permission, spans)
                if kind != "item":
                    return value if kind == "error" else None
                if not isinstance(value, AtHand):
                    num_bytes = max(len(payload) + sum(stop - start for start, stop in spans), _SLOT_BYTES)
                    call.add(index, _Message("item", value, num_bytes, self.room))
                del value  # the last reference to its slot may be the consumer's
        except (EOFError, OSError):
            code = self.end()
            return SlideError(FailureReason.DECODER_CRASH, f"the decoder's process died (exit code {code})")
        self.end(kill=True)
        return SlideError(FailureReason.TIMEOUT, f"the decoder showed no progress for {limit_s:g} s and was killed")

    def _wait_for_room(self, connection: Connection, index: int, call: _Call) -> None:
        """Wait until the process may send a message, or has sent one: from then on its silence is its own."""
        while not self._granted:
            self._granted = self._slots.take_all() if self._slots is not None else [_IN_PIPE]
            if not self._granted and call.is_starved(index):
                self._granted = [_IN_PIPE]
            if self._granted:
                connection.send(("may", self._granted))
            elif connection.poll(_POLL_S) or call.given_up.is_set():
                return

    def _read(self, payload: bytes, permission: int | None, spans: Sequence[Span]) -> Any:
        if permission is None:
            return pickle.loads(payload)
        self._granted.remove(permission)
        if permission == _IN_PIPE or self._slots is None:
            return pickle.loads(payload)
        return pickle.loads(payload, buffers=self._slots.read(permission, spans))


def _pump(child: _Child[Job], jobs: list[Job], call: _Call) -> None:
    for index in call.unassigned:
        try:
            error = _decoded(child, index, jobs[index], call)
        except Exception as unexpected:  # whatever it is, the consumer must not wait for ever
            child.end(kill=True)
            error = unexpected
        if call.given_up.is_set():
            return
        call.add(index, _Message("error" if error else "done", error))


def _decoded(child: _Child[Job], index: int, job: Job, call: _Call) -> Exception | None:
    for _ in range(1, MAX_ATTEMPTS):
        error = child.run(index, job, call)
        crashed = isinstance(error, SlideError) and error.reason is FailureReason.DECODER_CRASH
        if not crashed or call.given_up.is_set():
            return error
        call.add(index, _Message("retry"))
    return child.run(index, job, call)


class JobStream:
    """The items of one job.

    Iterating raises SlideError where it failed, RetrySlide where the consumer must begin it again, and anything else
    where the decoder could not even be asked.
    """

    def __init__(self, index: int, call: _Call) -> None:
        self._index = index
        self._call = call
        self._ended = False
        self.attempts = 1
        self.has_begun = False
        """Did any item come?"""

    @property
    def retries(self) -> int:
        """Requests that the decoder has had to repeat for this job so far."""
        return self._call.retries[self._index]

    def __iter__(self) -> Iterator[Any]:
        while not self._ended:
            message = self._call.next_of(self._index)
            if message.kind == "item":
                self.has_begun = True
                yield message.value
                del message  # or its arrays would keep their slot while the next is waited for
            elif message.kind == "retry":
                self.attempts += 1
                raise RetrySlide
            else:
                self._ended = True
                if message.kind == "error":
                    raise message.value

    def drain(self) -> None:
        """Throw away what is left of this job."""
        while not self._ended:
            message = self._call.next_of(self._index)
            self.attempts += message.kind == "retry"
            self._ended = message.kind in ("done", "error")


def _serve(
    connection: Connection,
    writer: SlotWriter | None,
    decode: Callable[[Any], Iterator[Any]],
    count_retries: Callable[[], int],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
    sender = _Sender(connection, writer)
    while True:
        try:
            job = sender.next_job()
        except EOFError:
            return
        before = count_retries()
        try:
            for item in decode(job):
                sender.send("item", item, count_retries() - before)
        except SlideError as error:
            sender.send("error", error, count_retries() - before)
        except Exception as error:  # a row of the report, never the end of the run: the original type is named
            known = SlideError(FailureReason.READ, f"unexpected {type(error).__name__}: {error}")
            sender.send("error", known, count_retries() - before)
        else:
            sender.send("done", None, count_retries() - before)


class _Sender:
    """The child's end: messages as `_Child.run` takes them, arrays from _SHARED_BYTES on in a slot."""

    def __init__(self, connection: Connection, writer: SlotWriter | None) -> None:
        self._connection = connection
        self._writer = writer
        self._granted: list[int] = []

    def next_job(self) -> Any:
        """Raises EOFError where the parent is gone."""
        while True:
            kind, value = self._connection.recv()
            if kind == "job":
                return value
            self._granted += value

    def send(self, kind: str, value: Any, num_retries: int) -> None:
        try:
            self._connection.send_bytes(pickle.dumps((kind, *self._packed(value, num_retries))))
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone, and whoever would read of it
            raise SystemExit(0) from None

    def _packed(self, value: Any, num_retries: int) -> tuple[bytes, int, int | None, list[Span]]:
        """(pickled, num_retries, the permission used, where its arrays lie in that slot)."""
        large: list[pickle.PickleBuffer] = []

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            if buffer.raw().nbytes >= _SHARED_BYTES:
                large.append(buffer)
                return False
            return True

        payload = pickle.dumps(value, protocol=5, buffer_callback=is_small)
        if not large:
            return payload, num_retries, None, []
        while not self._granted:
            self._granted += self._connection.recv()[1]
        permission = self._granted.pop(0)
        if permission != _IN_PIPE and self._writer is not None:
            spans = self._writer.write(permission, [buffer.raw() for buffer in large])
            if spans is not None:
                return payload, num_retries, permission, spans
        return pickle.dumps(value, protocol=5), num_retries, permission, []
