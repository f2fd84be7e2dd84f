"""What a command does when it is told to stop: it ends what it started, says how to go on, and exits in time.

SIGTERM (batch systems, Kubernetes, systemd, `mhim jobs stop`) raises Terminated in the main thread, so that every
`finally` between there and the entry runs: actors are ended, Ray is shut down. Ctrl-C (SIGINT) is a KeyboardInterrupt,
unless whoever started the command has it ignore SIGINT, as scripts do with background jobs; SIGTERM works there too.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mhim_core.types import ExitCode

GRACE_S = 20.0
"""How long a command may clean up after SIGTERM before it exits all the same. Kubernetes and Slurm kill after 30 s."""


class Terminated(KeyboardInterrupt):
    """The command got SIGTERM. Whatever ends at Ctrl-C ends at this as well."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated in the block, once; further ones are ignored, so that they do not cut off the cleanup.

    If the block has not ended GRACE_S later, the process exits with 143: the kernel and Ray end what it started.
    Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last_call = threading.Timer(GRACE_S, _exit_without_cleanup)
    last_call.daemon = True

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        last_call.start()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        last_call.cancel()
        signal.signal(signal.SIGTERM, before)


def interruption_code(interruption: KeyboardInterrupt) -> ExitCode:
    """143 for SIGTERM, 130 for Ctrl-C."""
    return ExitCode.TERMINATED if isinstance(interruption, Terminated) else ExitCode.INTERRUPTED


def farewell(interruption: KeyboardInterrupt) -> str:
    """The last line of an interrupted command."""
    ending = "ended by SIGTERM" if isinstance(interruption, Terminated) else "interrupted"
    return f"{ending}; what was committed is kept; run the same command again to resume"


def _exit_without_cleanup() -> None:
    """From another thread, while the main one hangs in its cleanup."""
    with contextlib.suppress(Exception):
        print(f"mhim: {farewell(Terminated())}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(ExitCode.TERMINATED)
