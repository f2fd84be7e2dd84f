"""What happens at the end of a step: a look at the workers' weights, and checkpoints within an epoch.

Collective: all ranks are at the same step, and what one of them wants all do.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from mhim_core.errors import StoppedError
from mhim_core.train.checks import check_drift, check_losses
from mhim_core.train.context import Notice, TrainContext, from_rank_zero
from mhim_core.train.fit_checkpoints import FitCheckpoints
from mhim_core.train.fit_options import FitExecution
from mhim_core.train.plan import FitSpec
from mhim_core.train.state import TrainState

NOTICE_EVERY_S = 15.0
"""Seconds between checkpoints while a machine is about to be taken away: what may be lost then."""


class StepEnd:
    """Called after every step of a fit, on every rank."""

    def __init__(
        self,
        spec: FitSpec,
        execution: FitExecution,
        checkpoints: FitCheckpoints,
        context: TrainContext,
        on_saved: Callable[[str], None],
    ) -> None:
        """`on_saved` is told of a checkpoint that a notice led to."""
        self._spec, self._execution, self._checkpoints, self._context = spec, execution, checkpoints, context
        self._on_saved = on_saved
        self._saved_s = time.monotonic()
        self._told_s = -math.inf

    def saved(self) -> None:
        """A checkpoint was written after an epoch: the minutes count from here."""
        self._saved_s = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        """Raises IntegrityError if the ranks drifted apart, StoppedError on every rank if one of them is to end."""
        wishes = self._of_all(self._own())
        by_steps, drift_every = self._execution.checkpoint_every_steps, self._execution.drift_every
        if wishes.is_due or wishes.is_told or (by_steps and state.step % by_steps == 0):
            self._save(state)
        elif drift_every and state.step % drift_every == 0:
            check_drift(state, self._spec, self._context)
        if wishes.is_told:
            self._told_s = time.monotonic()
            self._on_saved(f"step {state.step_in_epoch} of {state.setup.steps_per_epoch} in epoch {state.epoch + 1}")
        if wishes.is_to_stop:
            raise StoppedError(f"fit {self._spec.name}: stopped after step {state.step}, which is saved")

    def _own(self) -> "_Wishes":
        notice, now_s, every_s = self._context.notice(), time.monotonic(), 60 * self._execution.checkpoint_every_min
        is_told = notice is Notice.stop or (notice is Notice.save and now_s - self._told_s >= NOTICE_EVERY_S)
        # rank 0's clock counts
        is_due = self._context.rank == 0 and 0 < every_s <= now_s - self._saved_s
        return _Wishes(is_due, is_told, notice is Notice.stop)

    def _of_all(self, own: "_Wishes") -> "_Wishes":
        """What one rank wishes, all do."""
        if self._context.world_size == 1:
            return own
        counts = torch.tensor(own, dtype=torch.float32, device=self._context.device)
        self._context.all_reduce([counts])
        return _Wishes(*(count > 0 for count in counts.tolist()))

    def _save(self, state: TrainState) -> None:
        assert state.losses_2T is not None
        losses_2T = state.losses_2T.clone()
        self._context.all_reduce([losses_2T])
        check_losses(losses_2T, state, self._spec)
        check_drift(state, self._spec, self._context)
        from_rank_zero(
            self._context,
            lambda: self._checkpoints.save(state.epoch, state.to_bytes(losses_2T), state.step).encode(),
        )
        self.saved()


class _Wishes(NamedTuple):
    """What is to follow a step."""

    is_due: bool
    """The minutes between two checkpoints are over."""
    is_told: bool
    """A worker may end, or is to end."""
    is_to_stop: bool
