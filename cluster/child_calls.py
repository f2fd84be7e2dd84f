"""Calls in a child process of this one, for libraries that a damaged file can make loop for ever or crash."""

import atexit
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")


class _Answer(NamedTuple):
    error: Exception | None
    result: Any


class _Child(NamedTuple):
    process: BaseProcess
    pipe: Connection


_LOCK = threading.Lock()
_child: _Child | None = None


def call_in_child(function: Callable[..., Result], *arguments: object, timeout_s: float) -> Result:
    """`function(*arguments)`, one call at a time, in a child that is started once and stays.

    Function, arguments and result are pickled. Raises TimeoutError where there is no result after `timeout_s`,
    ConnectionError where the child died; the next call then starts another. What the function raises is raised here.
    """
    with _LOCK:
        child = _started()
        try:
            child.pipe.send((function, arguments))
            if not child.pipe.poll(timeout_s):
                raise TimeoutError(f"no result after {timeout_s:g} s")
            answer: _Answer = child.pipe.recv()
        except TimeoutError:
            end_child()
            raise
        except (EOFError, OSError) as lost:
            end_child()
            raise ConnectionError("the process that read it died") from lost
    if answer.error is not None:
        raise answer.error
    result: Result = answer.result
    return result


def end_child() -> None:
    """End the child, whatever it does; the next call starts another."""
    global _child
    if _child is not None:
        _child.process.kill()
        _child.process.join()
        _child.process.close()
        _child.pipe.close()
        _child = None


def _started() -> _Child:
    global _child
    if _child is None:
        # not forked: a lock that another thread holds at that moment would stay locked in the child
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        _child = _Child(process, ours)
        atexit.register(end_child)
    return _child


def _serve(pipe: Connection) -> None:
    """Answer calls until the parent is gone. Ctrl-C is for the parent, which ends its child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = _Answer(None, function(*arguments))
        except Exception as error:
            answer = _Answer(error, None)
        try:
            pipe.send(answer)
        except (pickle.PicklingError, TypeError, ValueError, AttributeError) as error:
            pipe.send(_Answer(RuntimeError(f"{type(error).__name__}: {error}"), None))
