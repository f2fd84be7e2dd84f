"""What is told of a sweep under way, on rank 0. No result depends on it."""

from collections.abc import Callable
from typing import NamedTuple

from mhim_core.train.events import FitEvent
from mhim_core.train.sweep_plan import TrialOutcome


class TrialEvent(NamedTuple):
    """An event of a configuration's fit."""

    trial: str
    event: FitEvent


class TrialCost(NamedTuple):
    """What a fit took since it was last started or gone on with."""

    trial: str
    fit: str
    """Its name in the run."""
    seconds: float


class TrialEnd(NamedTuple):
    """A configuration was cut, or failed."""

    outcome: TrialOutcome


OnSweepEvent = Callable[[TrialEvent | TrialCost | TrialEnd], None]
