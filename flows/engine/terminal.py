"""What a command prints: every text is made printable once, on its way to the terminal, whoever wrote it."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from mhim_core.printable import printable


class PrintableStream:
    """A text stream that shows control characters of what is written to it, except line feeds and tabs.

    `rich_proxied_file` is the stream itself, so that a bar of rich can move the cursor; rich calls it so.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        return innermost(self.stream)

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # not made yet
            raise AttributeError(name)
        return getattr(self.stream, name)


def innermost(stream: Any) -> Any:
    """The stream below all that are wrapped around it, by this module or by rich: where a bar is drawn, whose control
    characters must not be shown as text. rich itself looks below one wrapper only."""
    while (inner := getattr(stream, "rich_proxied_file", stream)) is not stream:
        stream = inner
    return stream


@contextmanager
def printable_output() -> Iterator[None]:
    """In the block, standard output and error are printable, whatever they are now."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_wrapped(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _wrapped(stream: Any) -> Any:
    """A stream that is printable already, or is none (a service without one), is left alone."""
    return stream if stream is None or isinstance(stream, PrintableStream) else PrintableStream(stream)
