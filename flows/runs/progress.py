"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows.engine.terminal import printable_output
from flows.runs.storage_retries import Repeated
from mhim_core.bags import BagReads
from mhim_core.printable import one_line
from mhim_core.store.progress import ProgressTeller, Work
from mhim_core.types import SlideId, Status, StatusRow
from mhim_core.workload import TimeLeft

if TYPE_CHECKING:  # the training package imports torch
    from mhim_core.train.epochs import EpochRecord
    from mhim_core.train.events import FitEvent

_EVERY_S = 5.0
"""Seconds between plain lines."""


class SlideProgress:
    """Slides done, empty, failed, skipped and left, tiles per second, time left."""

    def __init__(
        self,
        sizes: Mapping[SlideId, float],
        num_actors: int,
        kinds: Mapping[SlideId, str] | None = None,
        teller: ProgressTeller | None = None,
        max_failures: int | None = None,
    ) -> None:
        """`sizes`: bytes of every slide to do, 0 if unknown; the time left is estimated from them.

        `kinds`: the file format of every slide, since a byte of one format takes longer than one of another.
        `teller`: tells the store too, for `mhim status`.
        `max_failures`: slides that are named as they fail, the others being counted; None: all.
        """
        self._max_failures = max_failures
        self._teller = teller
        self._num_todo = len(sizes)
        self._left = TimeLeft(sizes, num_actors, kinds)
        self._counts = dict.fromkeys(Status, 0)
        self._num_tiles = 0
        self._start_s = self._printed_s = time.monotonic()
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._streams = ExitStack()
        self._task = self._bar.add_task(self.line(), total=self._num_todo)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._teller is not None:
            self._streams.enter_context(self._teller)
        if self._console.is_terminal:  # what is written to the streams now goes through the bar
            self._streams.enter_context(printable_output())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.__exit__(kind, error, trace)
        self._bar.stop()
        if self._max_failures is not None and self._counts[Status.FAILED] > self._max_failures:
            self._console.print(f"and {self._counts[Status.FAILED] - self._max_failures:,} more failed")
        self._plain(f"{self.line()}, {duration(time.monotonic() - self._start_s)}")
        if self._teller is not None and (shares := self._teller.progress(Work.ended).shares()):
            self._console.print(shares, soft_wrap=True)

    def update(self, row: StatusRow) -> None:
        """Count a finished slide; print it if it failed."""
        self._counts[row.status] += 1
        self._num_tiles += row.num_tiles
        if row.status is Status.FAILED and (
            self._max_failures is None or self._counts[Status.FAILED] <= self._max_failures
        ):
            self._console.print(f"{row.slide_id}: failed, {row.reason}: {one_line(row.message)}", soft_wrap=True)
        now_s = time.monotonic()
        self._left.done(row.slide_id, row.seconds, now_s)
        if self._teller is not None:
            self._teller.update(row, self._left.seconds(now_s))
        self._bar.update(self._task, advance=1, description=f"{self.line()}{self._time_left(now_s)}")
        if now_s - self._printed_s >= _EVERY_S:
            self._printed_s = now_s
            self._plain(f"{self.line()}{self._time_left(now_s)}")

    def line(self) -> str:
        """`5/21 slides: 4 ok, 0 empty, 1 failed, 0 skipped, 16 left, 98 tiles/s`."""
        num_done = sum(self._counts.values())
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        counts = ", ".join(f"{self._counts[status]} {status}" for status in Status)
        left = self._num_todo - num_done
        return f"{num_done}/{self._num_todo} slides: {counts}, {left} left, {self._num_tiles / elapsed_s:.0f} tiles/s"

    def _time_left(self, now_s: float) -> str:
        """Empty before it is known."""
        seconds = self._left.seconds(now_s)
        return f", about {duration(seconds)} left" if seconds else ""

    def _plain(self, text: str) -> None:
        if not self._console.is_terminal:
            print(text, file=sys.stderr, flush=True)


class FitProgress:
    """One line per epoch, with losses and the validation metric; at most one line per second."""

    def __init__(self, num_fits: int) -> None:
        self._num_fits = num_fits
        self._num_done = 0
        self._printed_s = 0.0

        self._said: set[str] = set()
        self.num_repeated = 0
        """Requests to the storage that workers had to repeat so far."""
        self.reads = BagReads()
        """What all workers have read, told when they end."""

    def update(self, event: "FitEvent | Repeated | BagReads") -> None:
        """Print an event of a fit, epochs at most once a second, and what several workers of a node say only once."""
        if isinstance(event, Repeated):
            self.num_repeated += event.num
            return
        if isinstance(event, BagReads):
            self.reads += event
            return
        record = event.record
        numbers = "" if record is None else _numbers(record, event.metric_name)
        if event.kind == "epoch":
            assert record is not None
            now_s = time.monotonic()
            if now_s - self._printed_s < 1.0 and record.epoch != event.num_epochs:
                return
            self._printed_s = now_s
            text = f"epoch {record.epoch}/{event.num_epochs}: {numbers}, {event.seconds:.1f} s"
        elif event.kind in ("finished", "adopted"):
            self._num_done += 1
            chosen = f"epoch {record.epoch}, {numbers}" if record is not None else ""
            text = f"{event.kind} ({self._num_done}/{self._num_fits} fits): {chosen}"
        else:
            text = f"{event.kind}: {one_line(event.message)}"
            if event.kind == "warning" and text in self._said:
                return
            self._said.add(text)
        print(f"{event.fit}: {text}", file=sys.stderr, flush=True)


METRIC_TITLES = {"auroc": "AUROC", "harrell_c": "C-index"}
"""Titles of the metrics that may choose the epoch instead of the loss."""


def _numbers(record: "EpochRecord", metric_name: str) -> str:
    value = "undefined" if record.validation_metric is None else f"{record.validation_metric:.3f}"
    metric = f", {METRIC_TITLES[metric_name]} {value}" if metric_name in METRIC_TITLES else ""
    consistency = f", consistency {record.consistency_loss:.3f}" if record.consistency_loss else ""
    return f"loss {record.task_loss:.4f}{consistency}, validation loss {record.validation_loss:.4f}{metric}"


def duration(seconds: float) -> str:
    """`2 h 5 min`, `1 min 3 s`, `12 s`."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
