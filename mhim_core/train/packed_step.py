"""The training step on packs, top to bottom: teacher → score → mask → recycle → student → losses → backward → update.

It is `step` with a pack of bags in the place of a bag: the same draws, losses and update, equal up to the order of
summation. What is per bag there has a row for each bag here. Shape suffixes: see `mhim_core.mil.packed`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core.mil.aggregator import PackedOutput
from mhim_core.mil.draws import Draws
from mhim_core.mil.layout import Layout
from mhim_core.mil.losses import consistency_loss
from mhim_core.mil.masking import high_ratio_at
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, TeacherMode
from mhim_core.mil.packed import Pack, PackedDraws
from mhim_core.mil.packed_masking import PackedSplit, mask_pack, split_pack
from mhim_core.mil.scoring import score_pack
from mhim_core.task import TaskKind
from mhim_core.train.context import TrainContext
from mhim_core.train.gradients import BagSums
from mhim_core.train.objective import Label, class_of, task_loss
from mhim_core.train.state import TrainState
from mhim_core.train.step import Bag, StepResult, join_views, total_loss, update
from mhim_core.types import BagId

MOST_BAGS = 64
"""Of a pack: attention is computed for every bag and instance of it (`Pack.softmax`)."""


class PackedBags(NamedTuple):
    """Bags one after another."""

    x_NF: Tensor
    pack: Pack
    label_B: Label
    """Each field has a row for each bag."""
    layouts: Sequence[Layout | None]
    """Of each bag."""


class PackedTeacherView(NamedTuple):
    """The teacher's output for the whole bags."""

    feature_BD: Tensor
    score_HN: Tensor


class PackedStudentView(NamedTuple):
    """The student's output for the instances it is shown."""

    output: PackedOutput
    pack: Pack
    """Of what it is shown, the tokens included."""
    tokens: Sequence[Tensor]
    """T of each bag that recycles anything."""
    whole: PackedOutput | None = None
    """Its output for the whole bags; None: not computed (full_view_weight=0)."""


def packed_step(
    state: TrainState,
    share: Sequence[Bag],
    batch_size: int,
    context: TrainContext,
    pack_instances: int,
    make_draws: Callable[[int, int, BagId], Draws] = Draws,
) -> StepResult:
    """`train_step` with the bags in packs of at most `pack_instances` instances; a larger bag is a pack by itself.

    Of the aggregators that do not pack (`Aggregator.packs`) the bags of a pack are computed one after another.
    """
    setup, student, teacher = state.setup, state.student, state.teacher
    mhim, kind = setup.mhim, setup.task.kind
    none_0 = student.embed.weight.new_zeros(0)
    results = [StepResult(none_0, none_0, none_0.new_zeros(0, setup.task.num_outputs))]
    tokens: list[Tensor] = []
    notes: list[Tensor] = []
    state.optimizer.zero_grad(set_to_none=True)
    sums = BagSums(student, context, context.world_size)  # of every rank the sum over its share
    for bags in packs_of(share, pack_instances):
        x_NF, pack, label_B, own_layouts = pack_bags(bags)
        layouts = layouts_of(student, x_NF, pack, own_layouts)
        of_bags = [make_draws(setup.seed, state.epoch, bag.bag_id) for bag in bags]
        draws = PackedDraws(of_bags, pack.lengths)
        if teacher is None:
            view = view_as_student(student, x_NF, pack, None, draws, layouts=layouts)
            consistency_B = none_0.new_zeros(len(bags))
        else:
            target = view_as_teacher(teacher, x_NF, pack, mhim, draws, class_of(kind, label_B), layouts)
            kept = mask_pack(target.score_HN, pack, high_ratio_at(mhim, state.step, setup.total_steps), mhim, of_bags)
            split = split_pack(kept, mhim.random_mask_ratio, of_bags, mhim.token_order)
            both = mhim.full_view_weight > 0
            view = view_as_student(student, x_NF, pack, split, draws, both=both, layouts=layouts)
            consistency_B = consistency_losses(target.feature_BD, view.output.feature_BD, mhim.temperature)
        task_B = task_losses(student, view.output, view.pack, label_B, kind)
        if view.whole is not None:
            task_B = join_views(task_B, task_losses(student, view.whole, pack, label_B, kind), mhim)
        loss_B = total_loss(task_B, consistency_B, label_B, mhim, both=view.whole is not None)
        sums.separate()
        (loss_B.sum() / batch_size).backward()
        results.append(StepResult(task_B.detach(), consistency_B.detach(), view.output.logits_BC.detach()))
        tokens += [tokens_kD.detach() for tokens_kD in view.tokens]
        notes += notes_of(student, view, pack, class_of(kind, label_B))

    sums.add_share(tokens, notes)
    update(state, sums.finish())
    return StepResult(*map(torch.cat, zip(*results, strict=True)))


def packs_of(share: Iterable[Bag], pack_instances: int) -> Iterator[list[Bag]]:
    """The bags in their order, each in a pack: as many as hold `pack_instances` instances together, at least one."""
    bags: list[Bag] = []
    num_instances = 0
    for bag in share:
        if bags and num_instances + len(bag.x_NF) > pack_instances:
            yield bags
            bags, num_instances = [], 0
        bags.append(bag)
        num_instances += len(bag.x_NF)
        if num_instances >= pack_instances or len(bags) == MOST_BAGS:  # before another is read
            yield bags
            bags, num_instances = [], 0
    if bags:
        yield bags


def pack_bags(bags: Sequence[Bag]) -> PackedBags:
    """One bag is not copied, and keeps the precision that it is stored in."""
    x_NF = bags[0].x_NF if len(bags) == 1 else torch.cat([bag.x_NF for bag in bags])
    label_B = Label(*map(torch.stack, zip(*(bag.label for bag in bags), strict=True)))
    pack = Pack([len(bag.x_NF) for bag in bags], x_NF.device)
    return PackedBags(x_NF, pack, label_B, [bag.layout for bag in bags])


def layouts_of(model: MilModel, x_NF: Tensor, pack: Pack, layouts: Sequence[Layout | None]) -> Sequence[Layout] | None:
    """The bags' layouts where the aggregator uses them, else None."""
    bags = zip(layouts, pack.split(x_NF), strict=True)
    of_bags = [model.layout_of(layout, part_NF) for layout, part_NF in bags]
    return [layout for layout in of_bags if layout is not None] or None


def layouts_shown(layouts: Sequence[Layout], pack: Pack, split: PackedSplit, num_tokens: int) -> list[Layout]:
    """Of what enters of each bag, and of the tokens behind it where any is recycled."""
    shown = []
    bags = zip(
        layouts, split.rows.split(split.lengths), split.num_entering, split.num_recycled, pack.starts, strict=True
    )
    for layout, rows, num_in, num_recycled, start in bags:
        kept = layout.select(rows[:num_in] - start)
        shown.append(kept.with_tokens(num_tokens) if num_tokens and num_recycled else kept)
    return shown


@torch.no_grad()
def view_as_teacher(
    teacher: MilModel,
    x_NF: Tensor,
    pack: Pack,
    options: MhimOptions,
    draws: PackedDraws,
    label_index_B: Tensor | None = None,
    layouts: Sequence[Layout] | None = None,
) -> PackedTeacherView:
    """The teacher sees all instances and recycles nothing."""
    dropout = draws.stream("teacher") if options.teacher_mode is TeacherMode.train else None
    h_ND = teacher.embed_instances(x_NF, dropout)
    output = aggregate_pack(teacher, h_ND, pack, dropout, layouts)
    return PackedTeacherView(output.feature_BD, score_pack(teacher, h_ND, output, pack, options.score, label_index_B))


def aggregate_pack(
    model: MilModel, h_ND: Tensor, pack: Pack, draws: PackedDraws | None, layouts: Sequence[Layout] | None
) -> PackedOutput:
    """The aggregator's output for the bags of a pack."""
    if layouts is None:
        return model.aggregator.forward_packed(h_ND, pack, draws)
    of_bags = [None] * len(layouts) if draws is None else draws.of_bags
    bags = zip(pack.split(h_ND), of_bags, layouts, strict=True)
    return PackedOutput.of([model.aggregate(*bag) for bag in bags])


def view_as_student(
    student: MilModel,
    x_NF: Tensor,
    pack: Pack,
    split: PackedSplit | None,
    draws: PackedDraws,
    *,
    both: bool = False,
    layouts: Sequence[Layout] | None = None,
) -> PackedStudentView:
    """The student sees [entering ; T] of each bag; `split` None: all enters. `both`: the whole bags as well."""
    dropout = draws.stream("student")
    if split is None:
        h_ND = student.embed_instances(x_NF, dropout)
        return PackedStudentView(aggregate_pack(student, h_ND, pack, dropout, layouts), pack, [])
    whole = None
    if both:
        h_ND = student.embed_instances(x_NF, dropout)
        whole = aggregate_pack(student, h_ND, pack, draws.stream("whole"), layouts)
        h_KD = h_ND.index_select(0, split.rows)
    else:
        h_KD = student.embed_rows(x_NF, split.rows, dropout.over(split.lengths))
    num_tokens = 0 if student.recycle is None else len(student.recycle.queries)
    shown = None if layouts is None else layouts_shown(layouts, pack, split, num_tokens)
    h_KD, pack, tokens = recycle_each(student, h_KD, split, dropout)
    output = aggregate_pack(student, h_KD, pack, dropout.over(pack.lengths), shown)
    return PackedStudentView(output, pack, tokens, whole)


class Shown(NamedTuple):
    """What enters the student's aggregator."""

    h_KD: Tensor
    pack: Pack
    tokens: list[Tensor]
    """T of each bag that recycles anything."""


def recycle_each(student: MilModel, h_KD: Tensor, split: PackedSplit, draws: PackedDraws) -> Shown:
    """[entering ; T] of each bag; of a bag that recycles nothing, [entering]."""
    if student.recycle is None or not any(split.num_recycled):
        return Shown(h_KD, Pack(split.num_entering, h_KD.device), [])
    bags = list(zip(split.num_entering, split.num_recycled, strict=True))
    parts = h_KD.split([num for bag in bags for num in bag])
    entering, recycled = parts[::2], [part for part in parts[1::2] if len(part)]
    of_bags = [of_bag for of_bag, (_, num) in zip(draws.of_bags, bags, strict=True) if num]
    pack = Pack([len(part) for part in recycled], h_KD.device)
    tokens = student.recycle.forward_packed(torch.cat(recycled), pack, PackedDraws(of_bags, pack.lengths)).unbind()
    rest = iter(tokens)
    shown = [[part, next(rest)] if num else [part] for part, (_, num) in zip(entering, bags, strict=True)]
    lengths = [sum(map(len, of_bag)) for of_bag in shown]
    return Shown(torch.cat([part for of_bag in shown for part in of_bag]), Pack(lengths, h_KD.device), list(tokens))


@torch.no_grad()
def notes_of(student: MilModel, view: PackedStudentView, whole: Pack, label_index_B: Tensor | None) -> list[Tensor]:
    """What the aggregator notes about each bag; of the whole bags (`whole`) where the student sees them."""
    if student.aggregator.no_notes() is None:
        return []
    bags = view.output.bags(view.pack) if view.whole is None else view.whole.bags(whole)
    labels = [None] * len(bags) if label_index_B is None else label_index_B
    notes = [student.aggregator.take_notes(bag, label) for bag, label in zip(bags, labels, strict=True)]
    return [of_bag for of_bag in notes if of_bag is not None]


def consistency_losses(teacher_feature_BD: Tensor, student_feature_BD: Tensor, temperature: float) -> Tensor:
    """The consistency loss of each bag."""
    losses: Tensor = torch.vmap(consistency_loss, in_dims=(0, 0, None))(
        teacher_feature_BD, student_feature_BD, temperature
    )
    return losses


def task_losses(student: MilModel, output: PackedOutput, pack: Pack, label_B: Label, kind: TaskKind) -> Tensor:
    """The task loss of one view of each bag, the aggregator's own part included."""
    bag_loss_B = torch.vmap(lambda logits_C, label: task_loss(kind, logits_C, label))(output.logits_BC, label_B)
    return student.aggregator.task_losses(bag_loss_B, output, pack, class_of(kind, label_B))
