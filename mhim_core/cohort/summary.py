"""The targets of a cohort, in sentences."""

from collections import defaultdict
from collections.abc import Sequence

from mhim_core.cohort.findings import listed, quote
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import TaskOptions
from mhim_core.cohort.tasks import infer_task, targets_of
from mhim_core.errors import CohortError
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget
from mhim_core.types import PatientId

_MAX_CLASSES = 20


def summarise(rows: Sequence[CohortRow], options: TaskOptions) -> tuple[str, ...]:
    """The task, and the counts of its targets; or why there is nothing to train on (embedding needs no targets)."""
    try:
        inferred = infer_task(rows, options)
        return (*inferred.notes, describe_targets(rows, inferred.task))
    except CohortError as error:
        return tuple(f"cannot be trained on: {line}" if not index else line for index, line in enumerate(_lines(error)))


def describe_targets(rows: Sequence[CohortRow], task: Task) -> str:
    """Slides and patients per class, events and times, or the range of the target; and how many slides have none."""
    targets = targets_of(rows, task)
    known = [(row, targets[row.slide_id]) for row in rows if row.slide_id in targets]
    num_patients = len({row.patient_id for row, _ in known})
    rest = f"; {len(rows) - len(known)} slides without" if len(known) < len(rows) else ""
    if task.kind is TaskKind.classification:
        pairs = [(row, target) for row, target in known if isinstance(target, ClassTarget)]
        return _classes(pairs, task.classes) + rest
    size = f"{len(known)} slides of {num_patients} patients"
    if task.kind is TaskKind.survival:
        survival = {row.patient_id: target for row, target in known if isinstance(target, SurvivalTarget)}
        times = [target.time for target in survival.values()]
        num_events = sum(target.event for target in survival.values())
        return (
            f"{size}: {num_events} patients with the event, {len(survival) - num_events} censored; "
            f"times {min(times):g} to {max(times):g}{rest}"
        )
    values = [target.value for _, target in known if isinstance(target, ValueTarget)]
    return f"{size}: target {min(values):g} to {max(values):g}, mean {sum(values) / len(values):g}{rest}"


def _classes(known: Sequence[tuple[CohortRow, ClassTarget]], classes: Sequence[str]) -> str:
    slides = [0] * len(classes)
    patients: dict[int, set[PatientId]] = defaultdict(set)
    for row, target in known:
        slides[target.class_index] += 1
        patients[target.class_index].add(row.patient_id)
    parts = [
        f"{quote(label)} {slides[index]} slides of {len(patients[index])} patients"
        for index, label in enumerate(classes)
    ]
    return ", ".join(listed(parts, _MAX_CLASSES))


def _lines(error: CohortError) -> list[str]:
    return [line.strip() for line in str(error).splitlines()]
