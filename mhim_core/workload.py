"""Many jobs of very different sizes on a few workers: in which order, and how long it still takes.

Sizes and costs are known for nothing else than order and estimate: bytes of a slide's file, seconds of its work.
"""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=str)

_LARGE_SHARE = 0.5
"""Of the work handed out at any time, from the large end."""
_LAST_SHARE = 0.05
"""Of all work, in the smallest jobs, which are kept for the end."""
_MIN_OF_KIND = 3
"""Jobs of a kind before its own rate is taken: a rate of one is mostly chance."""


def spread_order(sizes: Sequence[float]) -> list[int]:
    """Indices in the order in which workers should take the jobs.

    Large and small ones in turn, by equal shares of the work, and the smallest for the end. Largest first would keep
    the end shortest, but a run that is cut off half-way has then done the fewest jobs, and a worker that takes several
    at once takes several giants; smallest first would leave the giants to the end (docs/LOG.md has figures).
    """
    ascending = sorted(range(len(sizes)), key=lambda index: (sizes[index], index))
    num_last, last = 0, 0.0
    while num_last < len(ascending) and last + sizes[ascending[num_last]] <= _LAST_SHARE * sum(sizes):
        last += sizes[ascending[num_last]]
        num_last += 1
    order, large, small = [], 0.0, 0.0
    first, end = num_last, len(ascending) - 1
    while first <= end:
        if large * (1 - _LARGE_SHARE) <= small * _LARGE_SHARE:
            order.append(ascending[end])
            large += sizes[ascending[end]]
            end -= 1
        else:
            order.append(ascending[first])
            small += sizes[ascending[first]]
            first += 1
    return order + ascending[:num_last][::-1]


class _Done:
    """What is known of the jobs that are done."""

    def __init__(self) -> None:
        self.num, self.size, self.seconds = 0, 0.0, 0.0

    def add(self, size: float, seconds: float) -> None:
        self.num += 1
        self.size += size
        self.seconds += seconds


class TimeLeft(Generic[Job]):
    """Seconds until the jobs are done, from the sizes of all and the seconds of those that are.

    A job costs seconds of a worker in proportion to its size, at the rate of its kind once that is known: a byte of one
    file format holds many times the pixels of a byte of another. What workers do before their first job counts for
    nothing: the clock starts with the first job.
    """

    def __init__(self, sizes: Mapping[Job, float], num_workers: int, kinds: Mapping[Job, str] | None = None) -> None:
        """`sizes`: 0 where it is not known, which is taken for the mean. `kinds`: of all jobs, or one of all."""
        known = [size for size in sizes.values() if size > 0]
        mean = sum(known) / len(known) if known else 1.0
        self._left = {job: size or mean for job, size in sizes.items()}
        self._kinds = dict.fromkeys(sizes, "") if kinds is None else kinds
        self._num_workers = max(1, min(num_workers, len(sizes)))
        self._done = _Done()
        self._done_of_kind = {kind: _Done() for kind in self._kinds.values()}
        self._start_s: float | None = None

    def done(self, job: Job, seconds: float, now_s: float) -> None:
        """A job ended now after so many seconds of a worker's time; 0: it took none, and does not count."""
        size = self._left.pop(job, None)
        if self._start_s is None:
            self._start_s = now_s - seconds
        if size is not None and seconds > 0:
            self._done.add(size, seconds)
            self._done_of_kind[self._kinds[job]].add(size, seconds)

    def seconds(self, now_s: float) -> float | None:
        """None: not known yet, before as many jobs as there are workers, and three, have ended; 0: none is left."""
        if not self._left:
            return 0.0
        if self._start_s is None or self._done.num < max(3, self._num_workers):
            return None
        elapsed_s = now_s - self._start_s
        costs = [size * self._rate(self._kinds[job]) for job, size in self._left.items()]
        # workers may have joined: more seconds of work were done than those of the start could do
        num_workers = max(self._num_workers, self._done.seconds / elapsed_s if elapsed_s > 0 else 0.0)
        # what is under way is part of what is left: all work by all workers, less the time that has gone
        left = (self._done.seconds + sum(costs)) / num_workers - elapsed_s
        return max(left, min(costs) / 2)

    def _rate(self, kind: str) -> float:
        """Seconds per size."""
        of_kind = self._done_of_kind[kind]
        done = of_kind if of_kind.num >= _MIN_OF_KIND else self._done
        return done.seconds / done.size
