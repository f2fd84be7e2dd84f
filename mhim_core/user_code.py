"""What to say of a user's own file of Python that failed. Standard library only."""

import traceback

from mhim_core.errors import InputError

MAX_BYTES = 2**24
"""Of a file of Python."""


def failing_line(error: BaseException, file_name: str) -> str:
    """`, line 12` where the error arose in, or was called from, that file; else nothing."""
    if isinstance(error, SyntaxError) and error.filename == file_name:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file_name]
    return f", line {lines[-1]}" if lines else ""


def failing_words(error: BaseException) -> str:
    """The error in words."""
    if isinstance(error, InputError):
        return str(error)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}"
