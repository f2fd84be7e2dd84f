"""What a decoder's child can do to us. Imported by that child, so a file of its own beside the tests."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cluster.decoding import AtHand
from mhim_core.errors import SlideError
from mhim_core.types import FailureReason


class Job(NamedTuple):
    """`num` items, then the fault; it happens only while `times` is left (a file counts, as the child may die)."""

    num: int = 3
    fault: str = ""
    counter: str = ""
    times: int = 1_000_000
    num_bytes: int = 0
    array_bytes: int = 0
    """Of an array in each item, filled with the item's number."""
    meet: tuple[str, str] = ("", "")
    """A file to make, and one to wait for, before the first item."""
    staging_s: float | None = None
    """Seconds until the job says that it is at hand; None: it never says so."""


_num_items = 0


def count_items() -> int:
    """Of this process so far."""
    return _num_items


def decode(job: Job) -> Iterator[Any]:
    global _num_items
    if job.staging_s is not None:
        time.sleep(job.staging_s)
        yield AtHand()
    mine, other = job.meet
    if mine:
        Path(mine).touch()
    while other and not Path(other).exists():
        time.sleep(0.01)
    for index in range(job.num):
        if job.counter and not job.fault:
            with Path(job.counter).open("a") as file:
                file.write("x")
        _num_items += 1
        yield (
            index,
            os.getpid(),
            np.full(job.array_bytes, index % 251, np.uint8) if job.array_bytes else bytes(job.num_bytes),
        )
    if job.fault and _is_due(job):
        FAULTS[job.fault]()
        yield "unpicklable", lambda: None


def _is_due(job: Job) -> bool:
    if not job.counter:
        return True
    with Path(job.counter).open("a") as file:
        file.write("x")
    return Path(job.counter).stat().st_size <= job.times


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    time.sleep(600)


def _refuse() -> None:
    raise SlideError(FailureReason.NO_MPP, "slide x states no resolution")


def _fail() -> None:
    raise ZeroDivisionError("by naught")


FAULTS = {"crash": _segfault, "hang": _hang, "refuse": _refuse, "fail": _fail, "unpicklable": lambda: None}
