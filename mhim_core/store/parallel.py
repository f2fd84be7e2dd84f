"""Many small requests at once: a request to an object store is mostly waiting."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mhim_core.errors import NotFoundError
from mhim_core.storage import Storage

NUM_THREADS = 16
"""More brings little: the requests' own CPU time is then the limit."""

T = TypeVar("T")
R = TypeVar("R")


def map_all(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item, in order, on a small pool of threads; the first error ends it."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    step = -(-len(items) // (NUM_THREADS * 8))  # a future per item would cost more than a quick `function`
    slices = [items[start : start + step] for start in range(0, len(items), step)]
    with ThreadPoolExecutor(min(NUM_THREADS, len(slices)), thread_name_prefix="mhim-store") as pool:
        try:
            results = pool.map(lambda some: [function(item) for item in some], slices)
            return [result for some in results for result in some]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # denied once is denied 10⁵ times: do not ask again
            raise


def map_in_order(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """`function` of every item, in order, as it comes; never more items and results at a time than threads.

    For items that take much memory, where `map_all` is for small ones. The first error ends it.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="mhim-files") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_all(storage: Storage, keys: Iterable[str]) -> dict[str, bytes]:
    """The bytes of every key that is there."""

    def read(key: str) -> bytes | None:
        try:
            return storage.get(key)
        except NotFoundError:
            return None

    keys = list(keys)
    contents = zip(keys, map_all(read, keys), strict=True)
    return {key: data for key, data in contents if data is not None}
