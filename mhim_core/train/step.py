"""THE training step, top to bottom: teacher → score → mask → recycle → student → losses → backward → update.

Stage 1 is the same step without teacher, masks and recycling. Shape suffixes: see `mhim_core.mil`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.draws import Draws
from mhim_core.mil.ema import follow, momentum_at
from mhim_core.mil.embedding import place_tokens, split_rows
from mhim_core.mil.layout import Layout
from mhim_core.mil.losses import consistency_loss
from mhim_core.mil.masking import RecycleSplit, high_ratio_at, mask_instances, split_recycled
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, TeacherMode
from mhim_core.mil.scoring import score_instances
from mhim_core.task import TaskKind
from mhim_core.train.context import TrainContext
from mhim_core.train.gradients import BagSums, StepSums
from mhim_core.train.objective import Label, class_of, task_loss
from mhim_core.train.state import TrainState
from mhim_core.types import BagId


class Bag(NamedTuple):
    """One bag, on this worker's device, in the fit's precision or, where it is large, as it is stored."""

    bag_id: BagId
    """Names its random numbers, together with seed and epoch."""
    label: Label
    x_NF: Tensor
    """Tile features, N × d_in."""
    layout: Layout | None = None
    """Where an aggregator asks for it, how its instances lie to each other; None: in stored order."""


class TeacherView(NamedTuple):
    """The teacher's output for the whole bag."""

    feature_D: Tensor
    """F_t, the target of the consistency loss."""
    score_HN: Tensor


class StudentView(NamedTuple):
    """The student's output for the instances it is shown."""

    output: BagOutput
    tokens_kD: Tensor | None
    """T; None where nothing was recycled."""
    whole: BagOutput | None = None
    """Its output for the whole bag, from the same embedded instances; None: not computed (full_view_weight=0)."""


class StepResult(NamedTuple):
    """Losses of this rank's share (B bags, possibly 0) of the global batch, on the device, not weighted."""

    task_B: Tensor
    consistency_B: Tensor
    logits_BC: Tensor
    """The student's training-mode logits."""


class _BagResult(NamedTuple):
    task: Tensor
    consistency: Tensor
    logits_C: Tensor


def train_step(
    state: TrainState,
    share: Sequence[Bag],
    batch_size: int,
    context: TrainContext,
    make_draws: Callable[[int, int, BagId], Draws] = Draws,
) -> StepResult:
    """One optimizer step on a global batch of `batch_size` bags, of which this rank holds `share`.

    Collective: every rank calls it, with an empty share too. Afterwards student, teacher and queries are the same
    on all ranks, and those that one rank with the whole batch has. `make_draws` is (seed, epoch, bag) → the bag's
    randomness.
    """
    setup, student, teacher = state.setup, state.student, state.teacher
    results: list[_BagResult] = []
    state.optimizer.zero_grad(set_to_none=True)
    sums = BagSums(student, context, batch_size)
    for bag in share:
        draws = make_draws(setup.seed, state.epoch, bag.bag_id)
        if teacher is None:
            student_view = view_as_student(student, bag.x_NF, None, draws, layout=bag.layout)
            consistency = bag.x_NF.new_zeros(())
        else:
            high_ratio = high_ratio_at(setup.mhim, state.step, setup.total_steps)
            label_index = class_of(setup.task.kind, bag.label)
            target = view_as_teacher(teacher, bag.x_NF, setup.mhim, draws, label_index, bag.layout)
            kept = mask_instances(target.score_HN, high_ratio, setup.mhim, draws).kept
            split = split_recycled(kept, setup.mhim.random_mask_ratio, draws, setup.mhim.token_order)
            both = setup.mhim.full_view_weight > 0
            student_view = view_as_student(student, bag.x_NF, split, draws, both=both, layout=bag.layout)
            consistency = consistency_loss(target.feature_D, student_view.output.feature_D, setup.mhim.temperature)
        task = _task_of(student, student_view.output, bag.label, setup.task.kind)
        if student_view.whole is not None:
            whole_task = _task_of(student, student_view.whole, bag.label, setup.task.kind)
            task = join_views(task, whole_task, setup.mhim)
        loss = total_loss(task, consistency, bag.label, setup.mhim, both=student_view.whole is not None)
        (loss / batch_size).backward()
        sums.add(student_view.tokens_kD, _notes_of(student, student_view, class_of(setup.task.kind, bag.label)))
        results.append(_BagResult(task.detach(), consistency.detach(), student_view.output.logits_C.detach()))

    update(state, sums.finish())
    return _stack(results, student.embed.weight.new_zeros(0, setup.task.num_outputs))


def join_views(task: Tensor, whole_task: Tensor, options: MhimOptions) -> Tensor:
    """The task loss of a student (of one bag, or of several) that sees the masked and the whole bag."""
    return (1 - options.full_view_weight) * task + options.full_view_weight * whole_task


def total_loss(task: Tensor, consistency: Tensor, label: Label, options: MhimOptions, *, both: bool) -> Tensor:
    """What is minimised. `both`: the student sees the whole bag as well, which has no consistency loss."""
    masked_share = 1 - options.full_view_weight if both else 1.0
    return label.weight * task + masked_share * options.consistency_weight * consistency


def update(state: TrainState, sums: StepSums) -> None:
    """Optimizer, then queries and the aggregator's own buffers, then teacher, once the gradients are summed."""
    setup, student, teacher = state.setup, state.student, state.teacher
    state.optimizer.step()
    if student.recycle is not None and sums.mean_token_kD is not None:
        student.recycle.move_queries(sums.mean_token_kD, setup.mhim.recycle_momentum)
    if sums.notes is not None:
        student.aggregator.learn_notes(sums.notes, state.epoch)
    if teacher is not None:
        follow(teacher, student, momentum_at(setup.mhim, state.step, setup.total_steps))
    state.step += 1


@torch.no_grad()
def view_as_teacher(
    teacher: MilModel,
    x_NF: Tensor,
    options: MhimOptions,
    draws: Draws,
    label_index: Tensor | None = None,
    layout: Layout | None = None,
) -> TeacherView:
    """The teacher sees all instances and recycles nothing. `label_index`: see `score_instances`."""
    dropout = draws.stream("teacher") if options.teacher_mode is TeacherMode.train else None
    h_ND = teacher.embed_instances(x_NF, dropout)
    output = teacher.aggregate(h_ND, dropout, teacher.layout_of(layout, x_NF))
    return TeacherView(output.feature_D, score_instances(teacher, h_ND, output, options.score, label_index))


def view_as_student(
    student: MilModel,
    x_NF: Tensor,
    split: RecycleSplit | None,
    draws: Draws,
    *,
    both: bool = False,
    layout: Layout | None = None,
) -> StudentView:
    """The student sees [entering ; T], where `split` says what enters and what is recycled into T; None: all enters.

    `both`: it sees the whole bag as well, so that it does not forget what the teacher always masks. The two views share
    the embedded instances and their dropout; the second one costs an aggregator pass.
    """
    dropout, layout = draws.stream("student"), student.layout_of(layout, x_NF)
    if split is None:
        return StudentView(student.aggregate(student.embed_instances(x_NF, dropout), dropout, layout), None)
    whole = None
    if both:
        h_ND = student.embed_instances(x_NF, dropout)
        whole = student.aggregate(h_ND, draws.stream("whole"), layout)
        h_KD, h_RD = split_rows(h_ND, student.plan_rows(split))
    else:
        # what is masked is not embedded
        h_KD, h_RD = student.embed_split(x_NF, split, dropout)
    layout = None if layout is None else layout.select(split.rows[: split.num_entering])
    if student.recycle is None or len(h_RD) == 0:
        return StudentView(student.aggregate(h_KD, dropout, layout), None, whole)
    tokens_kD = student.recycle(h_RD, dropout)
    layout = None if layout is None else layout.with_tokens(len(tokens_kD))
    return StudentView(student.aggregate(place_tokens(h_KD, tokens_kD), dropout, layout), tokens_kD, whole)


def _task_of(student: MilModel, output: BagOutput, label: Label, kind: TaskKind) -> Tensor:
    """The task loss of one view of a bag, the aggregator's own part included."""
    return student.aggregator.task_loss(task_loss(kind, output.logits_C, label), output, class_of(kind, label))


@torch.no_grad()
def _notes_of(student: MilModel, view: StudentView, label_index: Tensor | None) -> Tensor | None:
    """What the aggregator notes about a bag: of the whole bag where the student sees it."""
    return student.aggregator.take_notes(view.output if view.whole is None else view.whole, label_index)


def _stack(results: Sequence[_BagResult], none_0C: Tensor) -> StepResult:
    if not results:
        return StepResult(none_0C.new_zeros(0), none_0C.new_zeros(0), none_0C)
    task, consistency, logits = zip(*results, strict=True)
    return StepResult(torch.stack(task), torch.stack(consistency), torch.stack(logits))
