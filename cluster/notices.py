"""What a training worker gets to know about its end: from the driver, from Ray, from whoever sends it SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mhim_core.train.context import Notice
from mhim_core.types import ExitCode

_ASK_S = 0.5
"""Seconds between questions to the relay."""
GRACE_S = 20.0
"""How long a worker may go on after SIGTERM. Kubernetes and Slurm kill after 30 s."""

_terminated = threading.Event()
"""This process got SIGTERM."""


def hold_sigterm() -> None:
    """In a worker's main thread: SIGTERM lets the step under way end and be saved, where Ray would end the process.

    After GRACE_S it ends all the same.
    """

    def terminate(number: int, frame: Any) -> None:
        if not _terminated.is_set():
            _terminated.set()
            last_call = threading.Timer(GRACE_S, end_as_told)
            last_call.daemon = True
            last_call.start()

    signal.signal(signal.SIGTERM, terminate)


def is_terminated() -> bool:
    """Whether this process got SIGTERM."""
    return _terminated.is_set()


def end_as_told() -> None:
    """End this process, as SIGTERM asks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.TERMINATED)


@contextmanager
def notices(relay: Any, is_preempted: Callable[[], bool]) -> Iterator[Callable[[], Notice]]:
    """A function that says, at once, what this worker has been told; a thread asks the relay while the block runs."""
    import ray

    done, stopping = threading.Event(), threading.Event()

    def ask() -> None:
        while not done.wait(_ASK_S):
            try:
                if ray.get(relay.is_stopping.remote()):
                    stopping.set()
                    return
            except ray.exceptions.RayError:  # the driver is gone, or the relay's node: the group ends by itself
                return

    def notice() -> Notice:
        if stopping.is_set() or _terminated.is_set():
            return Notice.stop
        return Notice.save if is_preempted() else Notice.none

    threading.Thread(target=ask, daemon=True, name="mhim-notices").start()
    try:
        yield notice
    finally:
        done.set()
