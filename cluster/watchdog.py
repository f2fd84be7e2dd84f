"""A watchdog over the encoder actors: one that stands still is replaced, a slide that takes its actor down is named.

An actor tells the watch which slide it begins and, from a thread of its own, how much longer it may be silent. A Python
thread is silent too while foreign code holds the interpreter or the process is stopped, so silence itself is the alarm:
the watch kills the process, Ray starts the actor again and repeats its call, and what began a slide without ending
it counts against that slide alone. A module without torch: Ray starts a process for the watch, which imports this.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mhim_core.types import SlideId, StatusRow

MAX_DEATHS = 2
"""Of its encoder actor at one slide, after which the slide is given up."""
_KEPT_ROWS = 10_000
"""Of slides that ended last, for calls that are repeated: more than all actors together have in hand, 10 MB."""
_BEAT_S = 5.0
_SWEEP_S = 2.0
_KILL_S = 30.0


class Worker(NamedTuple):
    """One process of an encoder actor; the next process of the same actor is another worker."""

    node_id: str
    pid: int
    start: str
    """When the kernel started it, so that no later process with the same id is killed."""


class Verdict(NamedTuple):
    """Why a slide is not begun again."""

    num_deaths: int
    was_still: bool
    """The last of them stood still and was killed for it; else it died by itself."""
    longest_s: float = 0.0
    """The slowest batch of tiles that any worker has encoded so far; 0: none has."""


class Replaced(NamedTuple):
    """A worker that was killed, for the driver to tell."""

    worker: Worker
    slide_id: SlideId | None
    """None: it was killed while it loaded its encoder."""
    seconds: float
    """Since the watch first heard of it."""
    longest_s: float
    """As `Verdict.longest_s`."""


def batch_text(longest_s: float) -> str:
    """The slowest batch of tiles so far, in words; beside it a limit can be judged."""
    return (
        f"the slowest batch of tiles so far took {longest_s:.2g} s" if longest_s else "no batch of tiles was done yet"
    )


class Watch:
    """Which worker has which slide, and until when each may be silent. Knows nothing of Ray.

    `kill`: ends a worker at once; whether it was still there. `is_lost`: whether a node is gone, with which a worker's
    death is none's fault.
    """

    def __init__(
        self,
        kill: Callable[[Worker], bool],
        is_lost: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kill, self._is_lost, self._clock = kill, is_lost, clock
        self._since_s: dict[Worker, float] = {}
        self._until_s: dict[Worker, float] = {}
        self._longest_s = 0.0
        self._loaded: set[Worker] = set()
        self._holder: dict[SlideId, Worker] = {}
        self._deaths: dict[SlideId, Verdict] = {}
        self._killed: set[Worker] = set()
        self._rows: dict[SlideId, StatusRow] = {}

    def take(self, worker: Worker, slide_ids: Sequence[SlideId]) -> dict[SlideId, Verdict | StatusRow]:
        """The worker was called with these slides. Those it must not begin: others died of them, or they are done."""
        settled: dict[SlideId, Verdict | StatusRow] = {}
        self._loaded.add(worker)
        for slide_id in slide_ids:
            former = self._holder.pop(slide_id, None)
            if former is not None and former != worker and not self._is_lost(former.node_id):
                before = self._deaths.get(slide_id, Verdict(0, False))
                self._deaths[slide_id] = Verdict(before.num_deaths + 1, former in self._killed)
            verdict = self._deaths.get(slide_id)
            if slide_id in self._rows:
                settled[slide_id] = self._rows[slide_id]
            elif verdict is not None and verdict.num_deaths >= MAX_DEATHS:
                settled[slide_id] = verdict._replace(longest_s=self._longest_s)
        return settled

    def begin(self, worker: Worker, slide_id: SlideId) -> None:
        """The worker holds this slide from now on: if the worker dies, its death counts against the slide."""
        self._holder[slide_id] = worker

    def end(self, worker: Worker, row: StatusRow) -> None:
        """The slide has its row, whatever that says."""
        if self._holder.get(row.slide_id) == worker:
            del self._holder[row.slide_id]
        self._rows[row.slide_id] = row
        if len(self._rows) > _KEPT_ROWS:
            del self._rows[next(iter(self._rows))]

    def hear(self, worker: Worker, silence_s: float, longest_s: float = 0.0) -> None:
        """The worker lives, and may be silent for so long from now on; so long took the slowest batch that it did."""
        self._since_s.setdefault(worker, self._clock())
        self._until_s[worker] = self._clock() + silence_s
        self._longest_s = max(self._longest_s, longest_s)

    def sweep(self) -> list[Replaced]:
        """Kill the workers that have been silent for too long; those that held a slide, or were loading, are returned.

        A worker that had already ended is only forgotten.
        """
        overdue = [worker for worker, until_s in self._until_s.items() if until_s < self._clock()]
        holders = {worker: slide_id for slide_id, worker in self._holder.items()}
        replaced = []
        for worker in overdue:
            del self._until_s[worker]
            if not self._kill(worker):  # it had ended by itself
                continue
            self._killed.add(worker)
            if worker in holders or worker not in self._loaded:
                seconds = self._clock() - self._since_s[worker]
                replaced.append(Replaced(worker, holders.get(worker), seconds, self._longest_s))
        return replaced


class Pulse(Protocol):
    """What an encoder actor tells of itself."""

    def take(self, slide_ids: Sequence[SlideId]) -> dict[SlideId, Verdict | StatusRow]:
        """What is settled of a call's slides already: see `Watch.take`."""
        ...

    def begin(self, slide_id: SlideId) -> None:
        """The slide is being worked on: returns once the watch knows it."""
        ...

    def end(self, row: StatusRow) -> None:
        """The slide has its row."""
        ...

    def works(self, limit_s: float) -> None:
        """The actor is at work, and is killed if its next step takes longer than this (seconds)."""
        ...

    def waits(self, limit_s: float) -> None:
        """The actor waits for its decoder, for this long at most (seconds); infinite: it has nothing to do."""
        ...

    def took(self, seconds: float) -> None:
        """So long took a batch of tiles."""
        ...


class Unwatched:
    """The pulse of an embedder that Ray did not start: every call does nothing."""

    def take(self, slide_ids: Sequence[SlideId]) -> dict[SlideId, Verdict | StatusRow]:
        return {}

    def begin(self, slide_id: SlideId) -> None: ...

    def end(self, row: StatusRow) -> None: ...

    def works(self, limit_s: float) -> None: ...

    def waits(self, limit_s: float) -> None: ...

    def took(self, seconds: float) -> None: ...


class WatchedPulse:
    """The pulse of this process, which a thread reports to a watch every few seconds; methods as in `Pulse`."""

    def __init__(self, watch: Any, node_id: str, silence_s: float) -> None:
        """`watch`: the handle of a `Watch`; `silence_s`: how long to be silent while there is nothing to do."""
        self._watch = watch
        self._worker = Worker(node_id, os.getpid(), _start_of(os.getpid()))
        self._silence_s = silence_s
        self._until_s = math.inf
        self._is_waiting = True
        self._longest_s = 0.0
        threading.Thread(target=self._beat, daemon=True, name="mhim-pulse").start()

    def take(self, slide_ids: Sequence[SlideId]) -> dict[SlideId, Verdict | StatusRow]:
        import ray

        settled: dict[SlideId, Verdict | StatusRow] = ray.get(self._watch.take.remote(self._worker, slide_ids))
        return settled

    def begin(self, slide_id: SlideId) -> None:
        import ray

        ray.get(self._watch.begin.remote(self._worker, slide_id))  # known for certain before anything can end us

    def end(self, row: StatusRow) -> None:
        self._watch.end.remote(self._worker, row)

    def works(self, limit_s: float) -> None:
        self._until_s, self._is_waiting = time.monotonic() + limit_s, False

    def waits(self, limit_s: float) -> None:
        self._until_s, self._is_waiting = time.monotonic() + limit_s, True

    def took(self, seconds: float) -> None:
        self._longest_s = max(self._longest_s, seconds)

    def _beat(self) -> None:
        while True:
            left_s = self._until_s - time.monotonic()
            left_s = min(left_s, self._silence_s) if self._is_waiting else left_s
            self._watch.hear.remote(self._worker, left_s, self._longest_s)
            time.sleep(min(_BEAT_S, self._silence_s / 4))


@contextmanager
def watched(silence_s: float, tell: Callable[[Replaced], None]) -> Iterator[Any]:
    """The handle of a watch on this node while the block runs; a thread reports the workers that were replaced."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # one that was killed begins again and knows of no death: better than no watch
    kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Watch)
    watch: Any = kind.options(scheduling_strategy=this_node).remote(_kill, _is_lost)
    done = threading.Event()

    def sweep() -> None:
        while not done.wait(min(_SWEEP_S, silence_s / 4)):
            try:
                for replaced in ray.get(watch.sweep.remote()):
                    tell(replaced)
            except ray.exceptions.RayError:  # Ray is gone: the pipeline tells the driver
                return

    thread = threading.Thread(target=sweep, daemon=True, name="mhim-watch")
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join(timeout=30)
        ray.kill(watch)


def _kill(worker: Worker) -> bool:
    """By a task on the worker's node: unlike Ray's own ways it needs no answer from a process that stands still."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if _is_lost(worker.node_id):
        return False
    its_node = NodeAffinitySchedulingStrategy(worker.node_id, soft=False)
    killing = ray.remote(num_cpus=0, max_retries=0)(kill_here).options(scheduling_strategy=its_node).remote(worker)
    try:
        return bool(ray.get(killing, timeout=_KILL_S))
    except ray.exceptions.RayError:  # the node went, or is too busy to answer
        return False


def kill_here(worker: Worker) -> bool:
    """End this process of this machine, if it still is that one; whether it was."""
    if _start_of(worker.pid) != worker.start:
        return False
    try:
        os.kill(worker.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _start_of(pid: int) -> str:
    """In clock ticks since the machine started; empty: no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_lost(node_id: str) -> bool:
    import ray

    return not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)
