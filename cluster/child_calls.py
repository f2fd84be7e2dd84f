"""Calls in a child process of this one, for libraries that a damaged file can make loop for ever or crash."""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.pool import Pool
from typing import TypeVar

Result = TypeVar("Result")

_LOCK = threading.Lock()
_pool: Pool | None = None


def call_in_child(function: Callable[..., Result], *arguments: object, timeout_s: float) -> Result:
    """`function(*arguments)`, one call at a time, in a child that is started once and stays.

    Function, arguments and result are pickled. Raises TimeoutError where there is no result after `timeout_s`, also of
    a child that died, which is then replaced; and what the function raises.
    """
    with _LOCK:
        try:
            return _child().apply_async(function, arguments).get(timeout_s)
        except multiprocessing.TimeoutError:
            end_child()
            raise TimeoutError(f"no result after {timeout_s:g} s") from None


def end_child() -> None:
    """End the child, whatever it does; the next call starts another."""
    global _pool
    if _pool is not None:
        _pool.terminate()
        _pool.join()
        _pool = None


def _child() -> Pool:
    global _pool
    if _pool is None:
        # not forked: a lock that another thread holds at that moment would stay locked in the child
        _pool = multiprocessing.get_context("spawn").Pool(1, initializer=_begin)
        atexit.register(end_child)
    return _pool


def _begin() -> None:
    """Ctrl-C is for the parent, which ends its child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
