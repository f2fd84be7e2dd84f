"""A local file of a remote slide's size into which its bytes are fetched before they are read.

What was not fetched is a hole, which the kernel reads as zeros. So whoever reads the file says first what it is about
to read (`ensure`), and where that cannot be told the whole file is fetched (`complete`).
"""

import bisect
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.types import FailureReason

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""EFBIG: a file system whose files end at 4 GB, or the process's own limit."""
NUM_REQUESTS_AT_ONCE = 8
MAX_SPAN_BYTES = 4 * 2**20
"""A longer span is fetched in parts, side by side."""
MAX_WASTE = 0.04
"""Bytes between wanted ranges that are fetched with them, as a share of those wanted: fewer requests."""
_MAX_GAP_BYTES = 2**20


class Span(NamedTuple):
    """Bytes of a file, `stop` excluded."""

    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


Fetch = Callable[[int, int], bytes]
"""fetch(offset, num_bytes): all of them, of one version of the file. Its errors pass."""


class RangedFile:
    """The file at `path`, made here, filled by `fetch`, which is called in threads. One reader; close it at the end."""

    def __init__(self, path: Path, num_bytes: int, fetch: Fetch) -> None:
        """Raises OSError."""
        self.path = path
        self.num_bytes = num_bytes
        self.num_fetched = 0
        """Bytes fetched so far."""
        self._fetch = fetch
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(self._descriptor, num_bytes)
        self._ahead = ThreadPoolExecutor(NUM_REQUESTS_AT_ONCE, thread_name_prefix="mhim-ranges-ahead")
        self._now = ThreadPoolExecutor(NUM_REQUESTS_AT_ONCE, thread_name_prefix="mhim-ranges-now")
        """Of their own, since what is waited for must not queue behind what will be needed later."""
        self._lock = threading.Lock()
        self._present: list[Span] = []
        """Sorted, apart from each other; replaced, never changed."""
        self._expected: list[tuple[Span, Future[None]]] = []
        """Sorted, apart from each other."""

    def ensure(self, spans: Iterable[Span]) -> None:
        """Fetch what is missing of these bytes, which may be read afterwards.

        Raises what `fetch` does, and SlideError(NO_SPACE).
        """
        missing = self._missing(spans)
        if not missing:
            return
        wanted = [*missing, *self._taken_over(missing)]
        begun = [self._now.submit(self._fetch_span, span) for span in _cut(coalesced(self._missing(wanted)))]
        for future in begun:
            future.result()

    def expect(self, spans: Iterable[Span]) -> None:
        """Begin to fetch what will be needed, from the file's start on; what fails is told by `ensure`."""
        coming = merged([*self._present, *(span for span, _ in self._expected)])
        missing = _cut(coalesced(_without(self._missing(spans), coming)))
        self._expected += [(span, self._ahead.submit(self._fetch_span, span)) for span in missing]
        self._expected.sort(key=_start_of_expected)

    def complete(self) -> None:
        """Fetch all that is missing; raises as `ensure`."""
        self.ensure([Span(0, self.num_bytes)])

    def read(self, offset: int, num_bytes: int) -> bytes:
        """As os.pread: fewer bytes at the file's end. Raises as `ensure`, and OSError."""
        stop = min(offset + num_bytes, self.num_bytes)
        if offset >= stop:
            return b""
        self.ensure([Span(offset, stop)])
        return os.pread(self._descriptor, stop - offset, offset)

    def close(self) -> None:
        """Waits for requests under way. Safe to call twice."""
        for pool in (self._ahead, self._now):
            pool.shutdown(cancel_futures=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _taken_over(self, missing: Sequence[Span]) -> list[Span]:
        """Waits for those expected spans that are under way; those that were not begun are the caller's now."""

        concerned = []
        for wanted in missing:
            index = max(0, bisect.bisect_right(self._expected, wanted.start, key=_start_of_expected) - 1)
            while index < len(self._expected) and self._expected[index][0].start < wanted.stop:
                if self._expected[index][0].stop > wanted.start:
                    concerned.append(self._expected.pop(index))
                else:
                    index += 1
        taken = []
        for span, future in concerned:
            if future.cancel():
                taken.append(span)
            else:
                future.result()
        return taken

    def _missing(self, spans: Iterable[Span]) -> list[Span]:
        within = (Span(max(0, span.start), min(span.stop, self.num_bytes)) for span in spans)
        return _without(within, self._present)

    def _fetch_span(self, span: Span) -> None:
        data = self._fetch(span.start, span.num_bytes)
        assert len(data) == span.num_bytes, "fetch promises all of them"
        try:
            write_at(self._descriptor, span.start, data)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            message = "the staging disk filled up while the slide was read"
            raise SlideError(FailureReason.NO_SPACE, message) from error
        with self._lock:
            self.num_fetched += span.num_bytes
            self._present = _with(self._present, span)


def _start(span: Span) -> int:
    return span.start


def _start_of_expected(expected: tuple[Span, Any]) -> int:
    return expected[0].start


def _without(spans: Iterable[Span], known: Sequence[Span]) -> list[Span]:
    """What is left of the spans; `known` are sorted and apart from each other."""
    left = []
    for start, stop in spans:
        index = max(0, bisect.bisect_right(known, start, key=_start) - 1)
        while start < stop:
            nearest = known[index] if index < len(known) else Span(stop, stop)
            if nearest.start > start:
                left.append(Span(start, min(nearest.start, stop)))
            start, index = max(start, min(nearest.start, stop), nearest.stop), index + 1
    return left


def _with(present: list[Span], span: Span) -> list[Span]:
    first = bisect.bisect_left(present, span.start, key=lambda known: known.stop)
    last = bisect.bisect_right(present, span.stop, key=_start)
    touched = [*present[first:last], span]
    joined = Span(min(each.start for each in touched), max(each.stop for each in touched))
    return [*present[:first], joined, *present[last:]]


def merged(spans: Iterable[Span], max_gap_bytes: int = 0) -> list[Span]:
    """Sorted, those that touch or are so close to each other in one."""
    joined: list[Span] = []
    for span in sorted(span for span in spans if span.stop > span.start):
        if joined and span.start - joined[-1].stop <= max_gap_bytes:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return joined


def coalesced(spans: Iterable[Span]) -> list[Span]:
    """Fewer, longer spans: the smallest gaps are fetched too, up to MAX_WASTE of the bytes that are wanted."""
    apart = merged(spans)
    gaps = np.array([after.start - before.stop for before, after in itertools.pairwise(apart)], np.int64)
    gaps = np.sort(gaps[gaps <= _MAX_GAP_BYTES])
    affordable = np.cumsum(gaps) <= MAX_WASTE * sum(span.num_bytes for span in apart)
    num = int(affordable.sum())
    if not num:
        return apart
    # of several gaps of one length all are closed, or none: which ones would be chance
    largest = int(gaps[num - 1])
    if num < len(gaps) and gaps[num] == largest:
        largest -= 1
    return merged(apart, largest)


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """All of it. Raises OSError."""
    view = memoryview(data)
    while view:
        num = os.pwrite(descriptor, view, offset)
        view, offset = view[num:], offset + num


def _cut(spans: Iterable[Span]) -> list[Span]:
    return [
        Span(start, min(start + MAX_SPAN_BYTES, span.stop))
        for span in spans
        for start in range(span.start, span.stop, MAX_SPAN_BYTES)
    ]
