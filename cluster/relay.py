"""An actor between driver and workers: their events, the error that ended them early, and that they are to end.

A module of its own, without torch: Ray starts a process for the relay, which imports this.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_POLL_S = 0.5


class Relay:
    """An actor without resources that keeps events until the driver fetches them, and why the work ended early."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._failure: bytes | None = None
        self._is_stopping = self._is_heard = False

    def put(self, event: Any) -> None:
        """Keep an event until it is taken."""
        self._events.append(event)

    def take(self) -> list[Any]:
        """The events since the last call, oldest first; they are kept no longer."""
        events, self._events = self._events, []
        return events

    def fail(self, failure: bytes) -> None:
        """Record the pickled error that ended the work; only the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> bytes | None:
        """The recorded error, pickled; None: no worker reported one."""
        return self._failure

    def stop(self) -> bool:
        """From now on the workers are to end; whether any of them has asked yet."""
        self._is_stopping = True
        return self._is_heard

    def is_stopping(self) -> bool:
        """Asked by the workers."""
        self._is_heard = True
        return self._is_stopping


@contextmanager
def relay_to(on_event: Callable[[Any], None]) -> Iterator[Any]:
    """A relay whose events are handed to `on_event` in a thread of the driver while the block runs."""
    import ray

    relay = ray.remote(num_cpus=0)(Relay).remote()
    done = threading.Event()

    def fetch() -> None:
        while True:
            last = done.wait(_POLL_S)
            try:
                events = ray.get(relay.take.remote())  # type: ignore[attr-defined]
            except ray.exceptions.RayError:  # its node is gone, or Ray is: the training itself tells the driver
                return
            for event in events:
                on_event(event)
            if last:
                return

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        done.set()
        thread.join(timeout=30)
        ray.kill(relay)  # type: ignore[arg-type]
