"""What a page waits for: each job is done once however often it is asked for, and no answer waits for it for ever."""

import asyncio
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Value = TypeVar("Value")

_NUM_THREADS = 12
_MOST_OF_A_LANE = 2
_KEPT = 256


class SlowError(Exception):
    """A job is not done yet; it goes on, and the same question finds it again."""


class Jobs:
    """A pool of threads, and the answers of the most recent jobs.

    Jobs of one lane, such as pictures of one slide, take two threads at most: a slow slide does not hold up the others.
    """

    def __init__(self, answer_within_s: float) -> None:
        self._within_s = answer_within_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="mhim-view")
        self._futures: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._running: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, deque[Callable[[], None]]] = defaultdict(deque)

    async def answer(self, key: Hashable, job: Callable[[], Value], lane: str = "") -> Value:
        """What the job of this key returns, now or when it was done before. Errors are not kept.

        Raises SlowError after `answer_within_s`, and what the job raises.
        """
        future = self._future(key, job, lane)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), self._within_s)
        except TimeoutError:
            if future.done():
                raise  # the job's own
            raise SlowError(f"not answered within {self._within_s:g} s") from None

    async def once(self, job: Callable[[], Value], lane: str = "") -> Value:
        """As `answer`, of a job that is not kept: its result may change."""
        return await self.answer(_Unkept(), job, lane)

    def _future(self, key: Hashable, job: Callable[[], Value], lane: str) -> "Future[Value]":
        with self._lock:
            future = self._futures.get(key)
            if future is not None and not (future.done() and future.exception() is not None):
                self._futures.move_to_end(key)
                return future
            future = self._begun(job, lane)
            if not isinstance(key, _Unkept):
                self._futures[key] = future
            for old in [old for old, kept in self._futures.items() if kept.done()][
                : max(0, len(self._futures) - _KEPT)
            ]:
                del self._futures[old]
            return future

    def _begun(self, job: Callable[[], Value], lane: str) -> "Future[Value]":
        """Handed to the threads, or waiting in its lane. Called with the lock held."""
        future: Future[Value] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            finally:
                self._end(lane)

        if lane and self._running[lane] >= _MOST_OF_A_LANE:
            self._waiting[lane].append(run)
        else:
            self._running[lane] += 1
            self._threads.submit(run)
        return future

    def _end(self, lane: str) -> None:
        with self._lock:
            self._running[lane] -= 1
            waiting = self._waiting[lane]
            if waiting:
                self._running[lane] += 1
                # the last to come is what is looked at now
                self._threads.submit(waiting.pop())
            elif not self._running[lane]:
                del self._running[lane], self._waiting[lane]

    def close(self) -> None:
        """Begin nothing more; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Unkept:
    """The key of a job that nobody asks for again."""
