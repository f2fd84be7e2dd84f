"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows.engine.terminal import innermost, printable_output
from flows.runs.storage_retries import Repeated
from mhim_core.bags import BagReads
from mhim_core.printable import one_line
from mhim_core.report.numbers import format_duration as duration
from mhim_core.store.progress import ProgressTeller, Work
from mhim_core.types import SlideId, Status, StatusRow
from mhim_core.workload import TimeLeft

if TYPE_CHECKING:  # the training package imports torch
    from mhim_core.train.epochs import EpochRecord
    from mhim_core.train.events import FitEvent

_EVERY_S = 5.0
"""Seconds between plain lines."""
_NUM_RECENT = 20
"""Epochs whose time says how long those to come take."""


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
        self._slowest: StatusRow | None = None
        self._start_s = self._printed_s = time.monotonic()
        self._console = Console(file=innermost(sys.stderr), highlight=False, markup=False)
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
        self._plain(f"{self.line()}, {duration(time.monotonic() - self._start_s)}{self._slowest_slide()}")
        if self._teller is not None and (shares := self._teller.progress(Work.ended).shares()):
            self._console.print(shares, soft_wrap=True)

    def update(self, row: StatusRow) -> None:
        """Count a finished slide; print it if it failed."""
        self._counts[row.status] += 1
        self._num_tiles += row.num_tiles
        if row.status is not Status.SKIPPED and row.seconds > (self._slowest.seconds if self._slowest else 0.0):
            self._slowest = row
        if row.status is Status.FAILED and (
            self._max_failures is None or self._counts[Status.FAILED] <= self._max_failures
        ):
            self._console.print(f"{row.slide_id}: failed, {row.reason}: {one_line(row.message)}", soft_wrap=True)
        now_s = time.monotonic()
        self._left.done(row.slide_id, row.seconds, now_s)
        if self._teller is not None:
            self._teller.update(row, self._left.seconds(now_s))
        self._bar.update(
            self._task, advance=1, description=f"{self.line()}{self._time_left(now_s)}{self._slowest_slide()}"
        )
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

    def _slowest_slide(self) -> str:
        """The slide that took longest so far; empty for less than a second, which is not worth a word."""
        if self._slowest is None or self._slowest.seconds < 1:
            return ""
        return f", slowest {one_line(self._slowest.slide_id)} with {duration(self._slowest.seconds)}"

    def _plain(self, text: str) -> None:
        if not self._console.is_terminal:
            print(text, file=sys.stderr, flush=True)


class FitProgress:
    """Epochs with losses and the validation metric: a live bar on a terminal, which keeps a line per fit; elsewhere one
    line per epoch, at most one per second. Both with the time left, once an epoch has been timed."""

    def __init__(self, num_fits: int) -> None:
        self._num_fits = num_fits
        self._num_done = 0
        self._printed_s = 0.0
        self._epochs_s: defaultdict[str, list[float]] = defaultdict(list)
        """By stage: an epoch of the student takes as long as several of the plain aggregator."""
        self._said: set[str] = set()
        self.num_repeated = 0
        """Requests to the storage that workers had to repeat so far."""
        self.reads = BagReads()
        """What all workers have read, told when they end."""
        self._console = Console(file=innermost(sys.stderr), highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(f"0/{num_fits} fits", total=num_fits)
        self._streams = ExitStack()

    def __enter__(self) -> Self:
        self._bar.start()
        if self._console.is_terminal:  # what is written to the streams now goes through the bar
            self._streams.enter_context(printable_output())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.__exit__(kind, error, trace)
        self._bar.stop()

    def update(self, event: "FitEvent | Repeated | BagReads") -> None:
        """Tell an event of a fit, and what several workers of a node say only once."""
        if isinstance(event, Repeated):
            self.num_repeated += event.num
        elif isinstance(event, BagReads):
            self.reads += event
        elif event.kind == "epoch":
            self._epoch(event)
        elif event.kind in ("finished", "adopted"):
            self._num_done += 1
            record = event.record
            chosen = f"epoch {record.epoch}, {_numbers(record, event.metric_name)}" if record is not None else ""
            done = f"{self._num_done}/{self._num_fits} fits"
            self._bar.update(self._task, completed=self._num_done, description=done)
            self._say(f"{event.fit}: {event.kind} ({done}): {chosen}")
        else:
            text = f"{event.kind}: {one_line(event.message)}"
            if event.kind == "warning" and text in self._said:
                return
            self._said.add(text)
            self._say(f"{event.fit}: {text}")

    def _epoch(self, event: "FitEvent") -> None:
        record = event.record
        assert record is not None
        epochs_s = self._epochs_s[event.fit.rpartition("/")[2]]
        epochs_s.append(event.seconds)
        numbers = _numbers(record, event.metric_name)
        left = self._time_left(epochs_s, event.num_epochs - record.epoch, event.num_epochs)
        text = f"{event.fit}: epoch {record.epoch}/{event.num_epochs}: {numbers}, {event.seconds:.1f} s{left}"
        done = self._num_done + record.epoch / max(1, event.num_epochs)
        self._bar.update(self._task, completed=done, description=f"{self._num_done}/{self._num_fits} fits, {text}")
        now_s = time.monotonic()
        if not self._console.is_terminal and (now_s - self._printed_s >= 1.0 or record.epoch == event.num_epochs):
            self._printed_s = now_s
            self._say(text)

    def _time_left(self, epochs_s: Sequence[float], num_epochs_of_fit: int, num_epochs: int) -> str:
        """If no fit stops early, and the fits to come are of this stage. The middle of its last epochs' times, of which
        those with a start-up or a checkpoint are no measure."""
        num_left = num_epochs_of_fit + num_epochs * max(0, self._num_fits - self._num_done - 1)
        recent = sorted(epochs_s[-_NUM_RECENT:])
        seconds = num_left * recent[len(recent) // 2]
        return f", about {duration(seconds)} left" if seconds >= 1 else ""

    def _say(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


METRIC_TITLES = {"auroc": "AUROC", "harrell_c": "C-index"}
"""Titles of the metrics that may choose the epoch instead of the loss."""


def _numbers(record: "EpochRecord", metric_name: str) -> str:
    value = "undefined" if record.validation_metric is None else f"{record.validation_metric:.3f}"
    metric = f", {METRIC_TITLES[metric_name]} {value}" if metric_name in METRIC_TITLES else ""
    consistency = f", consistency {record.consistency_loss:.3f}" if record.consistency_loss else ""
    return f"loss {record.task_loss:.4f}{consistency}, validation loss {record.validation_loss:.4f}{metric}"
