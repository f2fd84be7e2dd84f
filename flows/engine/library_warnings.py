"""What other libraries warn of goes to a log on this machine: on the terminal it would hide the command's own lines."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from flows.engine.state_folder import open_private, private_folder

NAME = "warnings.log"
_MAX_BYTES = 2**20
"""Beyond this the log starts anew."""


class _Log(logging.Handler):
    """Appends to the log; where none can be written, as on a full disk, the line is lost: it is not worth an error."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(f"{record.levelname} {record.name}: {record.getMessage()}")


@contextmanager
def warnings_logged() -> Iterator[None]:
    """In the block, warnings and what is logged without a handler go to the log; not if Python was started with -W."""
    if sys.warnoptions:
        yield
        return
    last_resort, show = logging.lastResort, warnings.showwarning
    logging.lastResort = _Log(logging.WARNING)
    warnings.showwarning = _show
    try:
        yield
    finally:
        logging.lastResort, warnings.showwarning = last_resort, show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _write(f"{filename}:{lineno}: {category.__name__}: {message}")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        path = private_folder() / NAME
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            if file.tell() > _MAX_BYTES:
                file.truncate(0)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.write(f"{stamp} {os.getpid()} {text}\n".encode(errors="backslashreplace"))
