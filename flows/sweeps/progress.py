"""The progress of a sweep: the lines of `mhim train`, each with its configuration, and what the fits took."""

from flows.runs.progress import FitProgress
from flows.sweeps.records import Costs
from mhim_core.printable import one_line
from mhim_core.train.sweep_events import TrialCost, TrialEnd, TrialEvent
from mhim_core.train.sweep_plan import TrialStatus


class SweepProgress(FitProgress):
    """Prints the events of a sweep and keeps its costs."""

    def __init__(self, num_fits: int, costs: Costs) -> None:
        super().__init__(num_fits)
        self._costs = costs

    def update(self, event: object) -> None:
        """Print an event, epochs at most once a second."""
        if isinstance(event, TrialCost):
            self._costs.add(event.trial, event.fit, event.seconds)
        elif isinstance(event, TrialEnd):
            outcome = event.outcome
            is_cut = outcome.status is TrialStatus.cut
            text = f"cut after epoch {outcome.rung}" if is_cut else f"failed: {one_line(outcome.reason)}"
            self._say(f"{outcome.name}: {text}")
        elif isinstance(event, TrialEvent):
            super().update(event.event._replace(fit=f"{event.trial}: {event.event.fit}"))
        else:
            super().update(event)  # type: ignore[arg-type]  # of the workers, not of a fit
