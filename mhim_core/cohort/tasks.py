"""From the table to what is predicted: the task, each slide's target, and the bags."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mhim_core.cohort.check import SLIDE_ID
from mhim_core.cohort.findings import listed, quote, quote_all
from mhim_core.cohort.spellings import spelling_groups
from mhim_core.cohort.table import CohortRow, natural_key, sort_labels
from mhim_core.cohort.task_options import BagUnit, TaskName, TaskOptions
from mhim_core.cohort.values import number_of
from mhim_core.errors import CohortError
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.types import BagId, PatientId, SlideId

MAX_NUMERIC_CLASSES = 20
"""More different numbers than this are values, not classes."""


class TaskFound(NamedTuple):
    """The task, and how it was inferred."""

    task: Task
    notes: tuple[str, ...]
    """One sentence each, to be printed."""


class BagMembers(NamedTuple):
    """One bag and the slides whose instances it holds, one slide after another."""

    bag_id: BagId
    patient_id: PatientId
    site: str | None
    """None where the table has none, or the patient's slides come from several."""
    slide_ids: tuple[SlideId, ...]
    """In natural order."""
    target: Target


def infer_task(rows: Sequence[CohortRow], options: TaskOptions) -> TaskFound:
    """The task of the whole table: a class whose slides all failed must not vanish unnoticed.

    auto: a table with labels is of regression if they are numbers of which one is not whole, or more than 20 different
    ones, else of classification; one without labels but with times and events is of survival.
    Raises CohortError if the table lacks what the task needs, and for classes that are one but for their spelling.
    """
    labels = {row.label for row in rows if row.label is not None}
    has_survival = any(row.time is not None and row.event is not None for row in rows)
    kind, notes = _kind(labels, has_survival, options)
    if kind is TaskKind.survival and not has_survival:
        raise CohortError(
            "task=survival: no slide has both a time and an event; the table needs columns time and event"
        )
    if kind is not TaskKind.survival and not labels:
        raise CohortError(f"task={kind}: no slide has a label; fill the label column")
    if kind is TaskKind.classification and len(labels) == 1:
        num_labelled = sum(row.label is not None for row in rows)
        raise CohortError(
            f"every labelled slide ({num_labelled}) is of class {quote(min(labels))}; two classes are needed"
        )
    if kind is TaskKind.classification and (groups := spelling_groups(labels)):
        pairs = "; ".join(" and ".join(quote(label) for label in sorted(group)) for group in groups)
        raise CohortError(
            f"labels in two spellings would be two classes each: {pairs}; write one, or set label_spellings=merge"
        )
    classes = sort_labels(labels) if kind is TaskKind.classification else ()
    return TaskFound(Task(kind=kind, classes=classes, time_bins=options.time_bins), notes)


def _kind(labels: Collection[str], has_survival: bool, options: TaskOptions) -> tuple[TaskKind, tuple[str, ...]]:
    if options.task is not TaskName.auto:
        return TaskKind(options.task.value), ()
    if not labels and not has_survival:
        raise CohortError("no slide has a label, or a time and an event: there is nothing to train on")
    if not labels:
        return TaskKind.survival, ("task: survival, by the columns of time and event",)
    also = "; the table's times and events are not used (task=survival uses them)" if has_survival else ""
    numbers = [number_of(label) for label in labels]
    if numbers and None not in numbers:
        values = {value for value in numbers if value is not None}
        fraction = any(not value.is_integer() for value in values)
        if fraction or len(values) > MAX_NUMERIC_CLASSES:
            detail = "not all of them whole" if fraction else f"{len(values)} different ones"
            advice = "task=classification makes classes of them"
            return TaskKind.regression, (f"task: regression, since the labels are numbers, {detail} ({advice}){also}",)
    return TaskKind.classification, (f"task: classification, {len(labels)} classes{also}",)


def targets_of(rows: Sequence[CohortRow], task: Task) -> dict[SlideId, Target]:
    """Each slide's target; slides without one are unlabelled for this task and left out.

    Raises CohortError, listing the slides, for a label that is none of the classes or no number, and for a time without
    an event or an event without a time.
    """
    targets: dict[SlideId, Target] = {}
    wrong = []
    index_of = {label: index for index, label in enumerate(task.classes)}
    for row in rows:
        try:
            target = _target(row, task.kind, index_of)
        except _NoTargetError as error:
            wrong.append(f"row {row.row}, slide {quote(row.slide_id)}: {error}")
            continue
        if target is not None:
            targets[row.slide_id] = target
    if wrong:
        head = f"task={task.kind}: {len(wrong)} of the slides have no usable target"
        raise CohortError("\n  ".join([head, *listed(wrong)]))
    return targets


class _NoTargetError(Exception):
    """Why a row's cells give no target although they are filled."""


def _target(row: CohortRow, kind: TaskKind, index_of: dict[str, int]) -> Target | None:
    if kind is TaskKind.survival:
        if row.time is None and row.event is None:
            return None
        if row.time is None or row.event is None:
            present, absent = ("a time", "event") if row.event is None else ("an event", "time")
            raise _NoTargetError(f"it has {present} but no {absent}; fill in both or none")
        return SurvivalTarget(row.time, row.event)
    if row.label is None:
        return None
    if kind is TaskKind.classification:
        if row.label not in index_of:
            raise _NoTargetError(f"label {quote(row.label)} is none of the classes {', '.join(map(quote, index_of))}")
        return ClassTarget(index_of[row.label])
    value = number_of(row.label)
    if value is None:
        raise _NoTargetError(f"label {quote(row.label)} is no number; leave the cell empty if there is none")
    return ValueTarget(value)


def make_bags(rows: Sequence[CohortRow], task: Task, unit: BagUnit) -> tuple[BagMembers, ...]:
    """The bags of the slides that have a target, in natural order of their ids.

    slide: one a slide, under its id. patient: one a patient, under the patient's id, of the slides that have a target.
    The caller leaves out slides without tiles. Raises CohortError, listing the patients, where a patient's slides have
    different targets, and where a patient's id cannot be a bag's (which names files).
    """
    targets = targets_of(rows, task)
    members: dict[str, list[CohortRow]] = defaultdict(list)
    for row in rows:
        if row.slide_id in targets:
            members[row.slide_id if unit is BagUnit.slide else row.patient_id].append(row)
    if unit is BagUnit.patient:
        _check_patient_bags(members, targets)
    return tuple(_bag(bag_id, members[bag_id], targets) for bag_id in sorted(members, key=natural_key))


def bags_in(bags: Sequence[BagMembers], slide_ids: Collection[SlideId]) -> tuple[BagMembers, ...]:
    """The bags of one part of a split. Parts are disjoint in patients, so that a bag is in one part of a fold."""
    wanted = set(slide_ids)
    return tuple(bag for bag in bags if not wanted.isdisjoint(bag.slide_ids))


def _bag(bag_id: str, rows: Sequence[CohortRow], targets: dict[SlideId, Target]) -> BagMembers:
    sites = {row.site for row in rows}
    return BagMembers(
        bag_id=BagId(bag_id),
        patient_id=rows[0].patient_id,
        site=sites.pop() if len(sites) == 1 else None,
        slide_ids=tuple(sorted((row.slide_id for row in rows), key=natural_key)),
        target=targets[rows[0].slide_id],
    )


def _check_patient_bags(members: dict[str, list[CohortRow]], targets: dict[SlideId, Target]) -> None:
    different = [patient for patient, rows in members.items() if len({targets[row.slide_id] for row in rows}) > 1]
    if different:
        raise CohortError(
            f"bags=patient: the slides of {len(different)} patients have different targets: {quote_all(different)}; "
            "a bag has one target: correct the table, or set bags=slide"
        )
    unfit = [patient for patient in members if not SLIDE_ID.fullmatch(patient)]
    if unfit:
        raise CohortError(
            f"bags=patient: patient ids name the bags, and {quote_all(unfit)} cannot: letters, digits and ._- only, "
            "1 to 128, the first a letter or digit"
        )
