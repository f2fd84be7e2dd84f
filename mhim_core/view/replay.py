"""The teacher of any training step: the fit is done again up to there, since nothing but its end was kept.

Training is exact (docs/adr/0025-exact-training.md): on one kind of machine the replay has the weights of then to the
last bit. Whether it has, the losses tell, of which the result keeps every epoch's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from mhim_core.bags import BagSource
from mhim_core.mil.model import MilModel
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.context import SingleProcess
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.feed import BagFeed
from mhim_core.train.model_file import LoadedModel
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import train_step

MOST_TILES = 10_000_000
"""Tiles in all steps of a replay: some minutes on two cores, with features of about a thousand numbers."""


class Replayed(NamedTuple):
    """A fit in the middle of its training."""

    teacher: MilModel
    num_epochs: int
    """Whole epochs that were done."""
    num_equal: int
    """Of them with the very losses, task and consistency, that the fit recorded."""


def tiles_to_replay(setup: FitSetup, lengths: Sequence[int], epoch: int) -> int:
    """Tiles in the steps up to the end of an epoch, from 1 on; `lengths`: of each training bag."""
    most = setup.fit.max_instances
    return epoch * sum(min(length, most) if most else length for length in lengths)


def replay(
    setup: FitSetup,
    stage_one: LoadedModel,
    bags: BagSource,
    history: Sequence[EpochRecord],
    step: int,
    *,
    num_threads: int,
) -> Replayed:
    """The fit from its start to before its `step`-th optimizer step, counted over the fit from 0.

    `num_threads`: torch's, as in training, since the last bits of a sum depend on them.
    """
    context = SingleProcess()
    state = start_state(setup, stage_one, context.device)
    feed = BagFeed(bags, setup, context.device)
    num_equal = 0
    with _threads(num_threads), fixed_arithmetic(context.device):
        while state.step < step:
            means = _epoch(state, feed, context, step)
            if state.step_in_epoch == setup.steps_per_epoch:
                record = history[state.epoch]
                num_equal += means == (record.task_loss, record.consistency_loss)
                state.epoch += 1
    assert state.teacher is not None
    return Replayed(state.teacher, state.epoch, num_equal)


def _epoch(state: TrainState, feed: BagFeed, context: SingleProcess, until: int) -> tuple[float, float]:
    """The epoch's steps up to that one; the mean losses, as an epoch's record has them."""
    setup = state.setup
    for group in state.optimizer.param_groups:
        group["lr"] = setup.learning_rate_at(state.epoch)
    losses_2T = torch.zeros(2, len(setup.train), dtype=torch.float64)
    for number, batch in enumerate(setup.batches(state.epoch)):
        if state.step == until:
            break
        result = train_step(state, [feed.draw(turn, state.epoch) for turn in batch], len(batch), context)
        start = number * setup.fit.global_batch
        losses_2T[:, start : start + len(batch)].copy_(torch.stack([result.task_B, result.consistency_B]))
    task, consistency = (float(loss_T.sum() / len(setup.train)) for loss_T in losses_2T)
    return task, consistency


@contextmanager
def _threads(num: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
