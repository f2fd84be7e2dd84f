"""The frozen holdout of a model's name: patients that none of its models is ever trained on, the same for all.

`holdouts/<name>/holdout.json` is written once, when the name gets its first model. It lists the slides with label,
patient and content at that moment, so that a later change is noticed before two models are compared on it. Each use is
a record in `readings/`: the more often a holdout is used, the less it proves.

It names slides and patients, as the cohort's table does; whoever may read the registry may read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from mhim_core.cohort.parts import has_comparable_pair
from mhim_core.cohort.patients import Patient, patients_of, take
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.table import natural_key
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.cohort.tasks import targets_of
from mhim_core.errors import ConflictError, IntegrityError, NotFoundError, SplitError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.registry.card import TrainedOn
from mhim_core.registry.gate_options import HoldoutOptions
from mhim_core.registry.names import holdout_prefix, number_in, numbered
from mhim_core.storage import Storage
from mhim_core.task import SurvivalTarget, Target, Task, TaskKind
from mhim_core.types import PatientId, SlideId

SCHEMA = 1
_LEAVE = 3
"""Patients of each stratum that stay: for training, validation and test."""


@dataclass(frozen=True, kw_only=True)
class HoldoutSlide:
    """One slide as it was when the holdout was frozen."""

    slide_id: SlideId
    patient_id: PatientId
    label: str | None
    """Classification and regression: the table's label."""
    time: float | None
    """Survival."""
    event: bool | None
    source: SourceIdentity
    """Its content."""


class Known(NamedTuple):
    """How much of a holdout a model was trained on."""

    patients: int
    slides: int


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """A frozen holdout."""

    name: str
    task: Task
    options: HoldoutOptions
    slides: tuple[HoldoutSlide, ...]
    """By id, in natural order."""

    @cached_property
    def by_slide(self) -> dict[SlideId, HoldoutSlide]:
        return {slide.slide_id: slide for slide in self.slides}

    @cached_property
    def patients(self) -> frozenset[PatientId]:
        return frozenset(slide.patient_id for slide in self.slides)

    @cached_property
    def sources(self) -> frozenset[SourceIdentity]:
        return frozenset(slide.source for slide in self.slides)

    def known_to(self, trained_on: TrainedOn) -> Known:
        """How many of its patients and slides a model has learned from."""
        return Known(
            sum(trained_on.knows_patient(patient) for patient in self.patients),
            sum(trained_on.knows_source(source) for source in self.sources),
        )

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def to_bytes(self) -> bytes:
        return canonical_json(to_plain(self) | {"schema": SCHEMA})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Holdout":
        """Raises IntegrityError naming `where` if the bytes are no holdout of this schema."""
        try:
            raw = parse_json(data)
            schema = raw.pop("schema")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{where} is not a holdout: {type(error).__name__}: {error}") from error
        if schema != SCHEMA:
            raise IntegrityError(f"{where} has another schema than {SCHEMA}")
        return read_record(cls, raw, where)


class Divided(NamedTuple):
    """A cohort's slides by what they may be used for."""

    trainable: tuple[CohortRow, ...]
    holdout: tuple[CohortRow, ...]
    """The frozen slides, as the table has them now."""
    ignored: tuple[CohortRow, ...]
    """In neither: later slides of holdout patients, and copies of holdout slides under another id."""


def read_holdout(storage: Storage, name: str) -> Holdout | None:
    """The frozen holdout, None before it is frozen. Raises IntegrityError where it is damaged."""
    key = _key(name)
    try:
        return Holdout.from_bytes(storage.get(key), storage.locate(key))
    except NotFoundError:
        return None


def freeze(
    storage: Storage,
    name: str,
    rows: Sequence[CohortRow],
    task: Task,
    sources: Mapping[SlideId, SourceIdentity],
    options: HoldoutOptions = HoldoutOptions(),  # noqa: B008 - frozen
) -> Holdout:
    """Set patients aside permanently, the same share of every stratum; a holdout that was frozen before stays as it is.

    `rows`: the cohort's slides that have tiles; those without a target are left out. `sources`: the content of each.
    Raises SplitError where the patients are too few for a usable holdout, ConflictError where the
    frozen holdout is of another task.
    """
    present = read_holdout(storage, name)
    if present is None:
        chosen = _choose(rows, task, options)
        slides = tuple(_frozen(row, task.kind, sources[row.slide_id]) for row in chosen)
        storage.put_if_absent(_key(name), Holdout(name=name, task=task, options=options, slides=slides).to_bytes())
        present = read_holdout(storage, name)
        assert present is not None
    if (present.task.kind, present.task.classes) != (task.kind, task.classes):
        raise ConflictError(
            f"the holdout of {name} was frozen for {_task_words(present.task)}, and this is {_task_words(task)}; "
            "choose another name for a model of another task"
        )
    return present


def check_unchanged(
    holdout: Holdout, rows: Sequence[CohortRow], sources: Mapping[SlideId, SourceIdentity]
) -> tuple[str, ...]:
    """The slides that differ from what was frozen (label, patient, content, or gone), a sentence each; empty: none.

    No sentence names a patient or a label, since they go into the gate's reasons. `sources`: the content of the slides
    now; a slide without one counts as gone.
    """
    now = {row.slide_id: row for row in rows}
    differing = []
    for slide in holdout.slides:
        row, source = now.get(slide.slide_id), sources.get(slide.slide_id)
        if row is None:
            differing.append(f"{slide.slide_id} is no longer in the table")
        elif source is None:
            differing.append(f"{slide.slide_id} has no features")
        else:
            before, after = slide, _frozen(row, holdout.task.kind, source)
            words = [
                f"its {field} has changed"
                for field in ("label", "time", "event")
                if getattr(before, field) != getattr(after, field)
            ]
            words += ["its patient has changed"] if before.patient_id != after.patient_id else []
            words += ["its file has changed"] if before.source != after.source else []
            if words:
                differing.append(f"{slide.slide_id}: {', '.join(words)}")
    return tuple(differing)


def split_off(
    holdout: Holdout, rows: Sequence[CohortRow], sources: Mapping[SlideId, SourceIdentity] | None = None
) -> Divided:
    """Which slides may be trained on, which are the holdout's, and which are neither.

    `sources`: the contents, where known, so that a copy of a holdout slide under another id and patient is not
    trained on.
    """
    frozen = holdout.by_slide
    # a frozen slide whose patient was renamed since takes the new name's slides out of training too
    patients = holdout.patients | {row.patient_id for row in rows if row.slide_id in frozen}
    own, trainable, ignored = [], [], []
    for row in rows:
        if row.slide_id in frozen:
            own.append(row)
        elif row.patient_id in patients or (sources or {}).get(row.slide_id) in holdout.sources:
            ignored.append(row)
        else:
            trainable.append(row)
    return Divided(tuple(trainable), tuple(own), tuple(ignored))


def record_reading(storage: Storage, name: str, reading: dict[str, Any]) -> int:
    """Record that the holdout was read, by which flow and for what; the reading's number, counted from 1.

    `reading`: plain JSON such as {flow, fingerprint, champion, challenger}; the same reading again, after a crash, is
    the one that is there.
    """
    prefix, data = f"{holdout_prefix(name)}/readings", canonical_json(reading)
    while True:
        entries = list(storage.list(prefix))
        numbers = [number for entry in entries if (number := number_in(entry.key)) is not None]
        for number in numbers:
            if storage.get(numbered(prefix, number)) == data:
                return number
        wanted = max(numbers, default=0) + 1
        if storage.put_if_absent(numbered(prefix, wanted), data):
            return wanted


def count_readings(storage: Storage, name: str) -> int:
    return sum(number_in(entry.key) is not None for entry in storage.list(f"{holdout_prefix(name)}/readings"))


def _key(name: str) -> str:
    return f"{holdout_prefix(name)}/holdout.json"


def _choose(rows: Sequence[CohortRow], task: Task, options: HoldoutOptions) -> list[CohortRow]:
    targets = targets_of(rows, task)
    known = [row for row in rows if row.slide_id in targets]
    patients = patients_of(known, targets, task, SplitOptions(folds=1, val_fraction=options.holdout_fraction))
    chosen = take(patients, options.holdout_fraction, f"{options.holdout_seed}/holdout", leave=_LEAVE)
    _check_judgeable(chosen, task)
    ids = {patient.patient_id for patient in chosen}
    return sorted((row for row in known if row.patient_id in ids), key=lambda row: natural_key(row.slide_id))


def _check_judgeable(chosen: Sequence[Patient], task: Task) -> None:
    """Raises SplitError where no metric could have a value."""
    targets: list[Target] = [target for patient in chosen for target in patient.targets]
    advice = f"add patients: each kind needs {_LEAVE + 1} or more, of which {_LEAVE} stay to train on"
    if task.kind is TaskKind.classification:
        present = {label for patient in chosen for label in patient.labels}
        if absent := [label for label in task.classes if label not in present]:
            raise SplitError(f"no patient of class {', '.join(absent)} could be set aside as holdout; {advice}")
    elif task.kind is TaskKind.survival:
        if not has_comparable_pair(target for target in targets if isinstance(target, SurvivalTarget)):
            raise SplitError(f"the patients set aside as holdout have no two that can be compared; {advice}")
    elif len(set(targets)) < 2:
        raise SplitError(f"fewer than two different values could be set aside as holdout; {advice}")


def _frozen(row: CohortRow, kind: TaskKind, source: SourceIdentity) -> HoldoutSlide:
    """Only what the task uses, so that the rest may change."""
    is_survival = kind is TaskKind.survival
    return HoldoutSlide(
        slide_id=row.slide_id,
        patient_id=row.patient_id,
        label=None if is_survival else row.label,
        time=row.time if is_survival else None,
        event=row.event if is_survival else None,
        source=source,
    )


def _task_words(task: Task) -> str:
    return f"{task.kind} of {', '.join(task.classes)}" if task.classes else str(task.kind)
