"""What a person sees of long work: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mhim_core.types import Status, StatusRow

if TYPE_CHECKING:  # the training package imports torch
    from mhim_core.train.events import FitEvent
    from mhim_core.train.state import EpochRecord

_EVERY_S = 5.0


class SlideProgress:
    """Slides done, empty, failed, skipped and left, tiles per second, time left."""

    def __init__(self, num_todo: int) -> None:
        self._num_todo = num_todo
        self._counts = dict.fromkeys(Status, 0)
        self._num_tiles = 0
        self._start_s = time.monotonic()
        self._printed_s = self._start_s
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print(end=True)

    def update(self, row: StatusRow) -> None:
        self._counts[row.status] += 1
        self._num_tiles += row.num_tiles
        if row.status is Status.FAILED:
            self._say(f"{row.slide_id}: failed, {row.reason}: {row.message}")
        now_s = time.monotonic()
        if self._live or now_s - self._printed_s >= _EVERY_S:
            self._printed_s = now_s
            self._print()

    def line(self) -> str:
        num_done = sum(self._counts.values())
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        left = self._num_todo - num_done
        parts = [f"{self._counts[Status.OK]} ok"]
        parts += [f"{self._counts[status]} {status}" for status in Status if status is not Status.OK]
        eta = f", about {_duration(left * elapsed_s / num_done)} left" if num_done and left else ""
        return (
            f"{num_done}/{self._num_todo} slides: {', '.join(parts)}, {left} left, "
            f"{self._num_tiles / elapsed_s:.0f} tiles/s{eta}"
        )

    def _say(self, text: str) -> None:
        clear = "\r\033[K" if self._live else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)

    def _print(self, *, end: bool = False) -> None:
        if self._live:
            print(f"\r\033[K{self.line()}", end="\n" if end else "", file=sys.stderr, flush=True)
        else:
            print(self.line(), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class FitProgress:
    """Epochs with losses and the validation metric, a line each; of fast epochs one line a second."""

    def __init__(self, num_fits: int) -> None:
        self._num_fits = num_fits
        self._num_done = 0
        self._printed_s = 0.0

    def update(self, event: "FitEvent") -> None:
        record = event.record
        numbers = "" if record is None else _numbers(record)
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
            text = f"{event.kind}: {event.message}"
        print(f"{event.fit}: {text}", file=sys.stderr, flush=True)


def _numbers(record: "EpochRecord") -> str:
    auroc = "undefined" if record.validation_auroc is None else f"{record.validation_auroc:.3f}"
    consistency = f", consistency {record.consistency_loss:.3f}" if record.consistency_loss else ""
    return f"loss {record.task_loss:.4f}{consistency}, validation loss {record.validation_loss:.4f}, AUROC {auroc}"
