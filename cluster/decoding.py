"""Decoding in a child process: a slide that crashes or hangs its decoder takes down a child, never the encoder.

One child decodes the slides of a call one after the other and is always ahead by a bounded number of messages, so the
next slide is opened while the current one is still being encoded. Messages are bounded by number and by bytes.
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

from mhim_core.errors import SlideError
from mhim_core.types import FailureReason

Job = TypeVar("Job")

MAX_ATTEMPTS = 2
AHEAD = 8
"""Messages (batches of tiles, about 6 MB each) decoded ahead of the encoder, fewer where they are large:"""
AHEAD_BYTES = 64 * 2**20
"""once as many bytes lie ready, decoding waits."""
_POLL_S = 0.05
_LAST_WORDS_S = 5.0


class RetrySlide(Exception):  # noqa: N818 - a signal, as StopIteration is
    """The decoder died amid a slide; what it had yielded of it is void, and the slide starts again."""


class AtHand(NamedTuple):
    """What `decode` may yield before anything else: the slide lies here, and from now on silence is short.

    It is not an item of the stream.
    """


class _Message(NamedTuple):
    job: int
    kind: str
    """item | done | error | retry | closed"""
    value: Any = None


class _Ahead(queue.Queue[tuple[_Message, int]]):
    """Messages with their weight; full once these weigh AHEAD_BYTES, none weighing less than an AHEADth of that."""

    def __init__(self) -> None:
        super().__init__(maxsize=AHEAD_BYTES)
        self._weight = 0

    def add(self, message: _Message, num_bytes: int = 0) -> None:
        """Wait until there is room."""
        self.put((message, max(num_bytes, AHEAD_BYTES // AHEAD)))

    def take(self, timeout_s: float | None = None) -> _Message:
        """Raises queue.Empty."""
        return self.get(timeout=timeout_s)[0]

    def end(self) -> None:
        """Wake up a thread that still waits for a message; no effect where messages are there."""
        with contextlib.suppress(queue.Full):
            self.put_nowait((_Message(-1, "closed"), 1))

    def _qsize(self) -> int:
        return self._weight

    def _put(self, item: tuple[_Message, int]) -> None:
        super()._put(item)
        self._weight += item[1]

    def _get(self) -> tuple[_Message, int]:
        item: tuple[_Message, int] = super()._get()
        self._weight -= item[1]
        return item


class _Call(NamedTuple):
    """One call of `streams` while it runs."""

    messages: _Ahead
    given_up: threading.Event
    """The stream is abandoned: the pump is to end."""


class Decoder(Generic[Job]):
    """Runs `decode(job) -> Iterator[item]` in a child process, for a list of jobs, in order.

    `decode` must be importable (a module's function or a partial of one); items must be picklable. `timeout_s` is the
    longest silence of the child before it is killed; `first_timeout_s`, where given, the longest before its first
    message of a job, for a `decode` that yields `AtHand` first. The child stays for the next call, until `close`.
    `sweep(pid)` removes what a child that is dead by now has left.
    """

    def __init__(
        self,
        decode: Callable[[Job], Iterator[Any]],
        timeout_s: float,
        first_timeout_s: float | None = None,
        sweep: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._decode = decode
        self._timeout_s = timeout_s
        self._first_timeout_s = timeout_s if first_timeout_s is None else first_timeout_s
        self._sweep = sweep
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._running: tuple[_Call, threading.Thread] | None = None

    def start(self) -> None:
        """Start the child now, so that it imports its libraries while the caller loads an encoder."""
        self._connected()

    def streams(self, jobs: Sequence[Job]) -> Iterator["JobStream"]:
        """One stream of items per job; consume each (or leave it) before asking for the next.

        The iterator may be abandoned: the child is then ended. One call at a time.
        """
        if self._running is not None:  # abandoned, and not collected yet
            self.close()
        call = _Call(_Ahead(), threading.Event())
        pump = threading.Thread(target=self._pump, args=(list(jobs), call), daemon=True, name="mhim-decoder-pump")
        self._running = (call, pump)
        pump.start()
        finished = False
        try:
            for index in range(len(jobs)):
                stream = JobStream(index, call.messages)
                yield stream
                stream.drain()
            finished = True
            pump.join()
            self._running = None
        finally:
            # one that is abandoned may be collected amid a `close`, or once another call runs, which it leaves alone
            if not finished and self._running == (call, pump):
                self.close()

    def close(self) -> None:
        """End the child, and a call that is still running. Safe to call twice; the next call starts a new child."""
        running, self._running = self._running, None
        if running is not None:
            call, pump = running
            call.given_up.set()
            while pump.is_alive():  # it waits for its child, or for room in the queue
                if (child := self._child) is not None:
                    child.kill()
                with contextlib.suppress(queue.Empty):
                    call.messages.take(_POLL_S)
            call.messages.end()
        self._end_child(kill=True)

    def _pump(self, jobs: list[Job], call: _Call) -> None:
        for index, job in enumerate(jobs):
            try:
                error = self._decode_one(index, job, call)
            except Exception as unexpected:  # whatever it is, the consumer must not wait for ever
                self._end_child(kill=True)
                error = unexpected
            if call.given_up.is_set():
                return
            call.messages.add(_Message(index, "error" if error else "done", error))

    def _decode_one(self, index: int, job: Job, call: _Call) -> Exception | None:
        for _ in range(1, MAX_ATTEMPTS):
            error = self._try_one(index, job, call)
            crashed = isinstance(error, SlideError) and error.reason is FailureReason.DECODER_CRASH
            if not crashed or call.given_up.is_set():
                return error
            call.messages.add(_Message(index, "retry"))
        return self._try_one(index, job, call)

    def _try_one(self, index: int, job: Job, call: _Call) -> Exception | None:
        limit_s = self._first_timeout_s
        try:
            connection = self._connected()
            connection.send(job)
            while connection.poll(limit_s):
                limit_s = self._timeout_s
                data = connection.recv_bytes()
                kind, value = pickle.loads(data)
                if kind != "item":
                    return value if kind == "error" else None
                if not isinstance(value, AtHand):
                    call.messages.add(_Message(index, "item", value), len(data))
        except (EOFError, OSError):
            code = self._end_child()
            return SlideError(FailureReason.DECODER_CRASH, f"the decoder's process died (exit code {code})")
        self._end_child(kill=True)
        return SlideError(FailureReason.TIMEOUT, f"the decoder showed no progress for {limit_s:g} s and was killed")

    def _connected(self) -> Connection:
        if self._connection is None or self._child is None or not self._child.is_alive():
            self._end_child()
            # spawn, since forking a process that holds Ray's threads or CUDA would deadlock
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs, self._decode), daemon=True, name="mhim-decoder")
            child.start()
            theirs.close()
            self._connection, self._child = ours, child
        return self._connection

    def _end_child(self, kill: bool = False) -> int | None:
        """Its exit code. While a call runs the pump alone may do this: it waits on the connection."""
        child, connection = self._child, self._connection
        self._child = self._connection = None
        if connection is not None:
            connection.close()
        if child is None:
            return None
        if not kill:
            child.join(timeout=_LAST_WORDS_S)  # one that died tells how
        child.kill()
        child.join()
        assert child.pid is not None
        self._sweep(child.pid)
        return child.exitcode


class JobStream:
    """The items of one job.

    Iterating raises SlideError where it failed, RetrySlide where the consumer must begin it again, and anything else
    where the decoder could not even be asked.
    """

    def __init__(self, index: int, messages: _Ahead) -> None:
        self._index = index
        self._messages = messages
        self._ended = False
        self.attempts = 1
        self.has_begun = False
        """Did any item come?"""

    def __iter__(self) -> Iterator[Any]:
        while not self._ended:
            message = self._next()
            if message.kind == "item":
                self.has_begun = True
                yield message.value
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
            message = self._next()
            self.attempts += message.kind == "retry"
            self._ended = message.kind in ("done", "error")

    def _next(self) -> _Message:
        message = self._messages.take()
        if message.kind == "closed":
            raise RuntimeError("the decoder was closed before its streams were read to the end")
        assert message.job == self._index
        return message


def _serve(connection: Connection, decode: Callable[[Any], Iterator[Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            for item in decode(job):
                _send(connection, "item", item)
        except SlideError as error:
            _send(connection, "error", error)
        except Exception as error:  # a row of the report, never the end of the run: the original type is named
            reason = FailureReason.READ
            _send(connection, "error", SlideError(reason, f"unexpected {type(error).__name__}: {error}"))
        else:
            _send(connection, "done", None)


def _send(connection: Connection, kind: str, value: Any) -> None:
    try:
        connection.send((kind, value))
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone, and with it whoever would read a traceback
        raise SystemExit(0) from None
