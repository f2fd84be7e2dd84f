"""The three parts of one fold, and what each must contain to be usable."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mhim_core.cohort.findings import quote
from mhim_core.cohort.patients import Patient
from mhim_core.task import SurvivalTarget, Task, TaskKind
from mhim_core.types import SlideId


class Split(NamedTuple):
    """One fold: disjoint, sorted slide ids; no patient in two parts."""

    fold: int
    train: tuple[SlideId, ...]
    validation: tuple[SlideId, ...]
    test: tuple[SlideId, ...]


class Parts(NamedTuple):
    """One fold in patients."""

    train: list[Patient]
    validation: list[Patient]
    test: list[Patient]


class UnusablePartError(Exception):
    """A part cannot serve its purpose; the message says which and why. Another assignment may succeed."""


def check_parts(parts: Parts, task: Task, fold: int, *, with_test: bool) -> None:
    """Raise UnusablePartError unless every part can serve its purpose.

    Classification: every class is in training, validation and (`with_test`) test. Survival: training has an event, and
    validation a comparable pair of patients, without which there is no C-index to select by.
    """
    if task.kind is TaskKind.classification:
        _check_classes(parts, task.classes, fold, with_test)
        return
    for name, patients in parts._asdict().items():
        if not patients and (with_test or name != "test"):
            raise UnusablePartError(f"no patient is in the {name} part of fold {fold}")
    if task.kind is TaskKind.survival:
        if not any(target.event for target in _survival(parts.train)):
            raise UnusablePartError(f"no patient of the train part of fold {fold} has an event")
        if not has_comparable_pair(_survival(parts.validation)):
            raise UnusablePartError(
                f"no two patients of the validation part of fold {fold} can be compared (one must have the event "
                "while the other is still followed), so no model could be selected by their order"
            )


def has_comparable_pair(targets: Iterable[SurvivalTarget]) -> bool:
    """Is there an event before another target's time, or at the time of a censored one? Harrell's C needs one."""
    known = list(targets)
    events = [target.time for target in known if target.event]
    if not events:
        return False
    first = min(events)
    return any(target.time > first or (target.time == first and not target.event) for target in known)


def as_split(parts: Parts, fold: int) -> Split:
    """The fold in slides."""

    def slides(patients: Iterable[Patient]) -> tuple[SlideId, ...]:
        return tuple(sorted(slide_id for patient in patients for slide_id in patient.slide_ids))

    return Split(fold, slides(parts.train), slides(parts.validation), slides(parts.test))


def _check_classes(parts: Parts, classes: Sequence[str], fold: int, with_test: bool) -> None:
    for name, patients in parts._asdict().items():
        present = {label for patient in patients for label in patient.labels}
        for label in classes:
            if label not in present and (with_test or name != "test"):
                raise UnusablePartError(f"class {quote(label)} has no patient in the {name} part of fold {fold}")


def _survival(patients: Iterable[Patient]) -> list[SurvivalTarget]:
    return [target for patient in patients for target in patient.targets if isinstance(target, SurvivalTarget)]
