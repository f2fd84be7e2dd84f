"""Patient-level, stratified splits: a function of the seed and of which patients there are, not of the rows' order."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mhim_core.cohort.findings import quote
from mhim_core.cohort.options import SplitOptions, SplitScheme
from mhim_core.cohort.parts import Parts, UnusablePartError, as_split, check_parts
from mhim_core.cohort.parts import Split as Split
from mhim_core.cohort.patients import Patient, deal, patients_of, take, without
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.tasks import targets_of
from mhim_core.errors import SplitError
from mhim_core.task import SurvivalTarget, Task, TaskKind
from mhim_core.types import PatientId

_MAX_ATTEMPTS = 20
"""Where one attempt can fail and another succeed: patients of several classes, orders of times."""
_NUM_PARTS = 3


def make_splits(rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int) -> tuple[Split, ...]:
    """Split the slides that have a target for the task. The caller leaves out slides without tiles.

    Every fold can serve, as `parts.check_parts` says (leave-one-patient-out asks nothing of its test parts), else
    SplitError says what is missing where and what to set. Folds are numbered from 0, or as the fold column has them.
    Raises CohortError for rows whose target cannot be read.
    """
    targets = targets_of(rows, task)
    rows = [row for row in rows if row.slide_id in targets]
    if not rows:
        raise SplitError("no slide with a label and tiles: there is nothing to split")
    if task.kind is TaskKind.classification:
        _check_classes(rows, task.classes)
    scheme = _scheme(rows, options.scheme)
    advice = f"set folds lower, or add patients {_of_that_kind(task)}"
    if scheme is SplitScheme.column:
        if any(row.split for row in rows):
            assigned = [row for row in rows if row.split]
            return (split_by_part(assigned, task, options, seed, 0, "change the split column, or set scheme=folds"),)
        rows = [row for row in rows if row.fold is not None]
        advice = "change the fold column, or set scheme=folds"
    patients = patients_of(rows, targets, task, options)
    fold_of = _column_folds(rows)
    if scheme is not SplitScheme.column:
        _check_counts(patients, task, options, scheme)
    failure = ""
    for attempt in range(_num_attempts(patients, task)):
        key = f"{seed}/{attempt}"
        if scheme is SplitScheme.column:
            tests = _tests_by_column(patients, fold_of)
        else:
            tests = _tests(patients, options, scheme, key)
        try:
            with_test = scheme is not SplitScheme.leave_one_patient_out
            return tuple(_fold_splits(patients, tests, task, options, key, with_test=with_test))
        except UnusablePartError as error:
            failure = str(error)
    raise SplitError(f"{failure}; {advice}")


def split_by_part(
    rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int, fold: int, advice: str
) -> Split:
    """The rows' own parts (every row has a `split` and a target); without a val, validation is taken from train.

    Raises SplitError for a patient in two parts and for a part that cannot serve; `advice` ends its sentence.
    """
    part_of: dict[PatientId, str | None] = {}
    for row in rows:
        if part_of.setdefault(row.patient_id, row.split) != row.split:
            parts_found = f"{part_of[row.patient_id]} and {row.split}"
            raise SplitError(f"patient {quote(row.patient_id)} is in {parts_found}: a patient belongs to one split")
    patients = patients_of(rows, targets_of(rows, task), task, options)
    train, validation, test = (
        [patient for patient in patients if part_of[patient.patient_id] == part] for part in ("train", "val", "test")
    )
    failure = ""
    for attempt in range(1 if validation else _num_attempts(patients, task)):
        key = f"{seed}/{fold}/validation" + (f"/{attempt}" if attempt else "")
        taken = validation or take(train, options.val_fraction, key, leave=1)
        parts = Parts(train if validation else without(train, taken), taken, test)
        try:
            check_parts(parts, task, fold, with_test=True)
            return as_split(parts, fold)
        except UnusablePartError as error:
            failure = str(error)
    raise SplitError(f"{failure}; {advice}")


def _scheme(rows: Sequence[CohortRow], scheme: SplitScheme) -> SplitScheme:
    """What auto stands for."""
    if scheme not in (SplitScheme.auto, SplitScheme.column):
        return scheme
    has_split, has_fold = any(row.split for row in rows), any(row.fold is not None for row in rows)
    if has_split and has_fold:
        raise SplitError(
            "the table's split and fold columns are both filled: empty one of them, or set scheme=folds to use neither"
        )
    if has_split or has_fold:
        return SplitScheme.column
    if scheme is SplitScheme.column:
        raise SplitError(
            "scheme=column, and no labelled slide with tiles has a value in the split column or the fold column"
        )
    return SplitScheme.folds


def _num_attempts(patients: Sequence[Patient], task: Task) -> int:
    """One where every attempt would have the same number of each stratum in each part."""
    varies = task.kind is TaskKind.survival or any(len(patient.labels) > 1 for patient in patients)
    return _MAX_ATTEMPTS if varies else 1


def _tests(
    patients: Sequence[Patient], options: SplitOptions, scheme: SplitScheme, key: str
) -> dict[int, list[Patient]]:
    if scheme is SplitScheme.leave_one_patient_out:
        tests = [[patient] for patient in patients]
    elif options.folds == 1:
        tests = [take(patients, options.test_fraction, f"{key}/test", leave=2)]
    else:
        tests = deal(patients, options.folds, f"{key}/folds")
    return dict(enumerate(tests))


def _fold_splits(
    patients: Sequence[Patient],
    tests: Mapping[int, list[Patient]],
    task: Task,
    options: SplitOptions,
    key: str,
    *,
    with_test: bool,
) -> Iterator[Split]:
    for fold, test in tests.items():
        rest = without(patients, test)
        validation = take(rest, options.val_fraction, f"{key}/{fold}/validation", leave=1)
        parts = Parts(without(rest, validation), validation, test)
        check_parts(parts, task, fold, with_test=with_test)
        yield as_split(parts, fold)


def _column_folds(rows: Sequence[CohortRow]) -> dict[PatientId, int]:
    """The fold that tests each patient, by the table; SplitError for a patient in two or a table of one fold."""
    fold_of: dict[PatientId, int] = {}
    for row in rows:
        if row.fold is not None and fold_of.setdefault(row.patient_id, row.fold) != row.fold:
            raise SplitError(
                f"patient {quote(row.patient_id)} is in folds {fold_of[row.patient_id]} and {row.fold}: a patient "
                "belongs to one fold"
            )
    return fold_of


def _tests_by_column(patients: Sequence[Patient], fold_of: Mapping[PatientId, int]) -> dict[int, list[Patient]]:
    folds = sorted(set(fold_of.values()))
    if len(folds) < 2:
        raise SplitError(f"every patient is in fold {folds[0]} of the fold column; two folds are needed")
    return {fold: [patient for patient in patients if fold_of[patient.patient_id] == fold] for fold in folds}


def _check_classes(rows: Sequence[CohortRow], classes: Sequence[str]) -> None:
    counts = Counter(row.label for row in rows)
    for label in classes:
        if not counts[label]:
            raise SplitError(
                f"class {quote(label)} has no slide with tiles; embed its slides, or leave their label cells empty"
            )


def _check_counts(patients: Sequence[Patient], task: Task, options: SplitOptions, scheme: SplitScheme) -> None:
    """Refuse what no assignment can do, with the numbers."""
    one_out = scheme is SplitScheme.leave_one_patient_out
    what = "leave-one-patient-out" if one_out else f"folds={options.folds}"
    # one patient of each class in each part; one fewer need not be tested on where test parts hold one patient
    needed = _NUM_PARTS if one_out else max(_NUM_PARTS, options.folds)
    for label in task.classes:
        found = sum(label in patient.labels for patient in patients)
        if found < needed:
            raise SplitError(
                f"class {quote(label)} has {_patients(found)}, and {what} needs {needed} of each "
                f"(train, validation and test are disjoint in patients){_advice(found, one_out, 'of that class')}"
            )
    if task.kind is TaskKind.classification:
        return
    if len(patients) < needed:
        raise SplitError(
            f"{_patients(len(patients))} with a target, and {what} needs {needed}{_advice(len(patients), one_out, '')}"
        )
    if task.kind is TaskKind.survival:
        num_events = sum(any(_is_event(target) for target in patient.targets) for patient in patients)
        if num_events < _NUM_PARTS:  # one is tested on, one chooses the model, one is learned from
            raise SplitError(
                f"{_patients(num_events)} with an event, and train, validation and test need one each (they are "
                "disjoint in patients); add patients with an event"
            )


def _is_event(target: object) -> bool:
    return isinstance(target, SurvivalTarget) and target.event


def _patients(count: int) -> str:
    return f"{count} patient{'s' * (count != 1)}"


def _advice(found: int, one_out: bool, kind: str) -> str:
    if found < _NUM_PARTS or one_out:
        return f"; add patients {kind}".rstrip()
    return f"; set folds={found} or lower, or scheme=leave_one_patient_out"


def _of_that_kind(task: Task) -> str:
    return {
        TaskKind.classification: "of that class",
        TaskKind.survival: "with an event",
        TaskKind.regression: "with a target",
    }[task.kind]
