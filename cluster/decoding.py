"""Decoding in a child process: a slide that crashes or hangs its decoder takes down a child, never the encoder.

One child decodes the slides of a call one after the other and is always ahead by a bounded number of messages, so the
next slide is opened while the current one is still being encoded.
"""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, NamedTuple, TypeVar

from mhim_core.errors import SlideError
from mhim_core.types import FailureReason

Job = TypeVar("Job")

MAX_ATTEMPTS = 2
_AHEAD = 8
"""Messages (batches of tiles, about 6 MB each) decoded ahead of the encoder."""


class RetrySlide(Exception):  # noqa: N818 - a signal, as StopIteration is
    """The decoder died amid a slide; what it had yielded of it is void, and the slide starts again."""


class _Message(NamedTuple):
    job: int
    kind: str
    """item | done | error | retry | bug"""
    value: Any = None


class Decoder(Generic[Job]):
    """Runs `decode(job) -> Iterator[item]` in a child process, for a list of jobs, in order.

    `decode` must be importable (a module's function or a partial of one); items must be picklable. `timeout_s` is the
    longest silence of the child before it is killed.
    """

    def __init__(self, decode: Callable[[Job], Iterator[Any]], timeout_s: float) -> None:
        self._decode = decode
        self._timeout_s = timeout_s
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def streams(self, jobs: Sequence[Job]) -> Iterator["JobStream"]:
        """One stream of items per job; consume each (or leave it) before asking for the next."""
        messages: queue.Queue[_Message] = queue.Queue(maxsize=_AHEAD)
        pump = threading.Thread(target=self._pump, args=(list(jobs), messages), daemon=True)
        pump.start()
        for index in range(len(jobs)):
            stream = JobStream(index, messages)
            yield stream
            stream.drain()
        pump.join()

    def close(self) -> None:
        """End the child. Safe to call twice."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
        if self._connection is not None:
            self._connection.close()
        self._child = self._connection = None

    def _pump(self, jobs: list[Job], messages: "queue.Queue[_Message]") -> None:
        for index, job in enumerate(jobs):
            for attempt in range(1, MAX_ATTEMPTS + 1):
                error = self._run_one(index, job, messages)
                crashed = isinstance(error, SlideError) and error.reason is FailureReason.DECODER_CRASH
                if not crashed or attempt == MAX_ATTEMPTS:
                    messages.put(_Message(index, "error" if error else "done", error))
                    break
                messages.put(_Message(index, "retry"))

    def _run_one(self, index: int, job: Job, messages: "queue.Queue[_Message]") -> Exception | None:
        try:
            connection = self._connected()
            connection.send(job)
            while True:
                if not connection.poll(self._timeout_s):
                    self.close()
                    return SlideError(
                        FailureReason.TIMEOUT,
                        f"the decoder showed no progress for {self._timeout_s:g} s and was killed",
                    )
                kind, value = connection.recv()
                if kind == "item":
                    messages.put(_Message(index, "item", value))
                else:
                    return value if kind == "error" else None
        except (EOFError, OSError):
            code = None
            if self._child is not None:
                self._child.join(timeout=5)
                code = self._child.exitcode
            self.close()
            return SlideError(FailureReason.DECODER_CRASH, f"the decoder's process died (exit code {code})")

    def _connected(self) -> Connection:
        if self._connection is None or self._child is None or not self._child.is_alive():
            self.close()
            # spawn, since forking a process that holds Ray's threads or CUDA would deadlock
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self._decode), daemon=True, name="mhim-decoder")
            self._child.start()
            theirs.close()
        return self._connection


class JobStream:
    """The items of one job. Raises SlideError where it failed, RetrySlide where the consumer must begin it again."""

    def __init__(self, index: int, messages: "queue.Queue[_Message]") -> None:
        self._index = index
        self._messages = messages
        self._ended = False
        self.attempts = 1

    def __iter__(self) -> Iterator[Any]:
        while not self._ended:
            message = self._messages.get()
            assert message.job == self._index
            if message.kind == "item":
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
            message = self._messages.get()
            self.attempts += message.kind == "retry"
            self._ended = message.kind in ("done", "error")


def _serve(connection: Connection, decode: Callable[[Any], Iterator[Any]]) -> None:
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            for item in decode(job):
                connection.send(("item", item))
        except SlideError as error:
            connection.send(("error", error))
        except Exception as error:  # a row of the report, never the end of the run: the original type is named
            reason = FailureReason.READ
            connection.send(("error", SlideError(reason, f"unexpected {type(error).__name__}: {error}")))
        else:
            connection.send(("done", None))
