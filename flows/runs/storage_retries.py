"""What a command tells of a storage that was slow or failed: how many requests its processes had to repeat.

Counted are those of the driver, of actors and workers, and of decoders. Of a process that is killed, those since it
last told of its work are not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cluster.s3 import process_retries


class Repeated(NamedTuple):
    """An event of a worker: requests that it had to repeat since it last said so."""

    num: int


@contextmanager
def retries_told(tell: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """`tell` for a worker's block, which adds how many requests it had to repeat: after each event, and at the end."""
    reported = process_retries()

    def tell_new() -> None:
        nonlocal reported
        new, reported = process_retries() - reported, process_retries()
        if new:
            tell(Repeated(new))

    def tell_with_retries(event: Any) -> None:
        tell(event)
        tell_new()

    try:
        yield tell_with_retries
    finally:
        tell_new()


def print_retries(num: int) -> None:
    """A line, unless there were none."""
    if num:
        print(f"the storage was slow or failed: {num} requests had to be repeated")
