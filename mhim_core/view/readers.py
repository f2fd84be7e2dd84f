"""Open slides, few at a time: the least recently used one is closed when another is needed."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from mhim_core.errors import SlideError
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.reader import SlideReader, open_slide
from mhim_core.view.pyramid import Overview, read_overview

MAX_OPEN = 8
FORGET_FAILURE_S = 20.0
"""After which a slide that could not be opened is tried again; until then it fails at once, tile after tile."""


class LocalSlide(NamedTuple):
    """A slide's file on this disk."""

    path: Path
    ranged: RangedFile | None = None
    """The file, where it is fetched by ranges; None: all of it is there."""


class OpenedSlide:
    """A slide that is open, for one thread at a time."""

    def __init__(self, reader: SlideReader) -> None:
        self.reader = reader
        self._overview: Overview | None = None

    @property
    def size_l0_px(self) -> tuple[int, int]:
        info = self.reader.info()
        return info.width_l0_px, info.height_l0_px

    @property
    def overview(self) -> Overview:
        """Made when first asked for. Raises SlideError."""
        if self._overview is None:
            self._overview = read_overview(self.reader)
        return self._overview

    def thumbnail(self, longest_px: int) -> Overview:
        """A smaller picture: what there is, or one of its own, from a coarser level of the file. Raises SlideError."""
        return self._overview or read_overview(self.reader, longest_px)


class _Place:
    """A slide's place in the pool."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.opened: OpenedSlide | None = None
        self.kept = ExitStack()
        self.failure: SlideError | None = None
        self.failed_at_s = 0.0

    def close(self) -> None:
        self.opened = None
        self.kept.close()


class ReaderPool:
    """At most `most` open slides beside those that are being read. For many threads."""

    def __init__(self, staged: Callable[[str], AbstractContextManager[LocalSlide]], most: int = MAX_OPEN) -> None:
        """`staged`: a slide's uri → its file, for as long as it is open."""
        self._staged, self._most = staged, most
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_open(self) -> int:
        """How many slides are open."""
        with self._lock:
            return sum(place.opened is not None for place in self._places.values())

    def is_open(self, uri: str) -> bool:
        """Whether the slide is open already."""
        with self._lock:
            place = self._places.get(uri)
            return place is not None and place.opened is not None

    @contextmanager
    def slide(self, uri: str) -> Iterator[OpenedSlide]:
        """The slide, opened now or before; other threads wait for it. Raises SlideError, StorageError."""
        with self._lock:
            place = self._places.setdefault(uri, _Place())
            self._places.move_to_end(uri)
            place.users += 1
        try:
            with place.lock:
                yield self._open(uri, place)
        finally:
            with self._lock:
                place.users -= 1
            self._shrink()

    def _open(self, uri: str, place: _Place) -> OpenedSlide:
        if place.opened is not None:
            return place.opened
        if place.failure is not None and time.monotonic() - place.failed_at_s < FORGET_FAILURE_S:
            raise SlideError(place.failure.reason, place.failure.message)
        try:
            local = place.kept.enter_context(self._staged(uri))
            reader = open_slide(local.path, ranged=local.ranged)
        except SlideError as error:
            place.failure, place.failed_at_s = error, time.monotonic()
            place.close()
            raise
        except BaseException:
            place.close()
            raise
        place.kept.callback(reader.close)
        place.failure, place.opened = None, OpenedSlide(reader)
        return place.opened

    def _shrink(self) -> None:
        with self._lock:
            idle = [uri for uri, place in self._places.items() if not place.users]
            surplus = idle[: max(0, len(self._places) - self._most)]
            closed = [self._places.pop(uri) for uri in surplus]
        for place in closed:
            place.close()

    def close(self) -> None:
        """Close all slides; none is being read."""
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
        for place in places:
            place.close()
