"""Progress events of a fit. No result depends on them."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from mhim_core.train.epochs import EpochRecord


class FitEventKind(StrEnum):
    """What has happened."""

    started = "started"
    resumed = "resumed"
    epoch = "epoch"
    finished = "finished"
    adopted = "adopted"
    """An identical fit had already been finished; its result was taken."""
    paused = "paused"
    """It is to be compared with others before it goes on."""
    warning = "warning"
    saved = "saved"
    """A checkpoint was written because a worker may end, or is to end."""


class FitEvent(NamedTuple):
    """Reported by rank 0 only."""

    kind: FitEventKind
    fit: str
    message: str = ""
    num_epochs: int = 0
    """The longest the fit may last."""
    record: EpochRecord | None = None
    """The epoch's numbers, or the chosen epoch's where the fit is finished or adopted."""
    metric_name: str = ""
    """Of the record's validation metric."""
    seconds: float = 0.0
    """Wall time of the epoch, or of the fit."""


OnEvent = Callable[[FitEvent], None]


def ignore_events(event: FitEvent) -> None:
    """For callers that report no progress."""
