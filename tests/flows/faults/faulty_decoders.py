"""Decoders for tests of the whole pipeline: importable, since a child process runs them."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from cluster.staging import decode_staged
from mhim_core.types import SlideTask

FAULTS = {"crashes": "s07", "hangs": "s02"}


def decode_with_faults(task: SlideTask, **options: Any) -> Iterator[Any]:
    """As `decode_staged`, but one slide crashes the process each time, after a first batch, and another hangs."""
    items = decode_staged(task, **options)
    for number, item in enumerate(items):
        if number == 2 and task.slide_id == FAULTS["crashes"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 2 and task.slide_id == FAULTS["hangs"]:
            time.sleep(600)
        yield item
