"""Patient-level, stratified splits: a function of the seed and the set of patients, not of the order of rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mhim_core.cohort.findings import quote
from mhim_core.cohort.parts import Parts, UnusablePartError, as_split, check_parts
from mhim_core.cohort.parts import Split as Split
from mhim_core.cohort.patients import Patient, deal, patients_of, take, without
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.cohort.tasks import targets_of
from mhim_core.errors import SplitError
from mhim_core.task import SurvivalTarget, Task, TaskKind
from mhim_core.types import PatientId

_MAX_ATTEMPTS = 20
"""For patients of several classes and for times, where one assignment can fail and another succeed."""
_NUM_PARTS = 3
_MAX_FOLDS = 10
"""Up to which other numbers of folds are tried where the one that was asked for cannot be had."""
_WITHOUT_TEST = (SplitScheme.leave_one_patient_out, SplitScheme.final)
"""Their test parts are not checked."""


def make_splits(rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int) -> tuple[Split, ...]:
    """Split the slides that have a target for the task. The caller leaves out slides without tiles.

    Every fold is usable (`parts.check_parts`), or SplitError says what is missing where and what to set. The test parts
    of leave-one-patient-out and of the table's own splits are not checked; scheme=final has none, and neither has a
    split column without test. Folds are numbered from 0, or as in the fold column. Notes on the table's own splits:
    `split_notes`. Raises CohortError for rows whose target cannot be read.
    """
    targets = targets_of(rows, task)
    rows = [row for row in rows if row.slide_id in targets]
    if not rows:
        raise SplitError("no slide with a label and tiles: there is nothing to split")
    if task.kind is TaskKind.classification:
        _check_classes(rows, task.classes)
    scheme = resolve_scheme(rows, options.scheme)
    if scheme is SplitScheme.column:
        return _column_splits(rows, task, options, seed)
    patients = patients_of(rows, targets, task, options)
    _check_counts(patients, task, options, scheme)
    try:
        return _usable_splits(patients, task, options, scheme, seed)
    except UnusablePartError as error:
        workable = _workable(patients, task, options, scheme, seed)
        advice = f"set {workable}, or " if workable else ""
        raise SplitError(f"{error}; {advice}add patients {_of_that_kind(task)}") from None


def _usable_splits(
    patients: Sequence[Patient], task: Task, options: SplitOptions, scheme: SplitScheme, seed: int
) -> tuple[Split, ...]:
    """Every fold of the first assignment whose parts are all usable. Raises UnusablePartError of the last one tried."""
    failure = UnusablePartError()
    # patients of one class each: every attempt has the same number of each class in each part
    varies = task.kind is TaskKind.survival or any(len(patient.labels) > 1 for patient in patients)
    for attempt in range(_MAX_ATTEMPTS if varies else 1):
        key = f"{seed}/{attempt}"
        tests = _tests(patients, options, scheme, key)
        try:
            with_test = scheme not in _WITHOUT_TEST
            return tuple(_fold_splits(patients, tests, task, options, key, with_test=with_test))
        except UnusablePartError as error:
            failure = error
    raise failure


def _workable(patients: Sequence[Patient], task: Task, options: SplitOptions, scheme: SplitScheme, seed: int) -> str:
    """Keys with which these patients can be split, found by trying; empty: none of those tried.

    Fewer folds first, then more, whose test parts leave more patients for the other two; a single split last.
    """
    if scheme is SplitScheme.final:
        return ""
    one_out = SplitScheme.leave_one_patient_out
    tried: list[SplitOptions] = []
    if scheme is not one_out:
        others = [*range(options.folds - 1, 1, -1), *range(options.folds + 1, min(len(patients), _MAX_FOLDS) + 1), 1]
        tried = [replace(options, folds=folds) for folds in others if folds != options.folds]
        tried.insert(-1, replace(options, scheme=one_out))
    for choice in tried:
        chosen = one_out if choice.scheme is one_out else scheme
        try:
            _usable_splits(patients, task, choice, chosen, seed)
            return f"scheme={one_out}" if chosen is one_out else f"folds={choice.folds}"
        except UnusablePartError:
            continue
    return ""


def split_by_part(
    rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int, fold: int, advice: str
) -> Split:
    """The rows' own parts (every row has a `split` and a target); without a val, validation is taken from train.

    The test part is not checked and may be empty. Raises SplitError for a patient in two parts and for an unusable
    training or validation part; `advice` ends its sentence.
    """
    part_of: dict[PatientId, str | None] = {}
    for row in rows:
        if part_of.setdefault(row.patient_id, row.split) != row.split:
            both_parts = f"{part_of[row.patient_id]} and {row.split}"
            raise SplitError(f"patient {quote(row.patient_id)} is in {both_parts}: a patient belongs to one split")
    patients = patients_of(rows, targets_of(rows, task), task, options)
    train, validation, test = (
        [patient for patient in patients if part_of[patient.patient_id] == part] for part in ("train", "val", "test")
    )
    try:
        if validation:
            parts = Parts(train, validation, test)
            check_parts(parts, task, fold, with_test=False)
        else:
            parts = _with_validation(train, test, task, options, fold, f"{seed}/{fold}/validation", with_test=False)
    except UnusablePartError as error:
        raise SplitError(f"{error}; {advice}") from None
    return as_split(parts, fold)


def resolve_scheme(rows: Sequence[CohortRow], scheme: SplitScheme) -> SplitScheme:
    """What auto means: column where the table's split or fold column is filled, else folds.

    Raises SplitError where both are filled, or none and the scheme is column.
    """
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


def _tests(
    patients: Sequence[Patient], options: SplitOptions, scheme: SplitScheme, key: str
) -> dict[int, list[Patient]]:
    if scheme is SplitScheme.final:
        tests: list[list[Patient]] = [[]]
    elif scheme is SplitScheme.leave_one_patient_out:
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
    with_test: bool = True,
) -> Iterator[Split]:
    for fold, test in tests.items():
        rest, role = without(patients, test), f"{key}/{fold}/validation"
        yield as_split(_with_validation(rest, test, task, options, fold, role, with_test=with_test), fold)


def _with_validation(
    rest: Sequence[Patient],
    test: list[Patient],
    task: Task,
    options: SplitOptions,
    fold: int,
    key: str,
    *,
    with_test: bool = True,
) -> Parts:
    """Take validation from the rest. In survival, other patients are tried if the first ones cannot be compared."""
    failure = UnusablePartError()
    num_attempts, fraction = 1, options.val_fraction
    if task.kind is TaskKind.survival:
        num_attempts, fraction = _MAX_ATTEMPTS, max(fraction, 2 / max(2, len(rest)))  # a pair needs two
    for attempt in range(num_attempts):
        validation = take(rest, fraction, f"{key}/{attempt}" if attempt else key, leave=1)
        parts = Parts(without(rest, validation), validation, test)
        try:
            check_parts(parts, task, fold, with_test=with_test)
            return parts
        except UnusablePartError as error:
            failure = error
    raise failure


def _column_splits(rows: Sequence[CohortRow], task: Task, options: SplitOptions, seed: int) -> tuple[Split, ...]:
    """By the split or the fold column, whichever is filled; slides without a value in it take no part."""
    assigned = [row for row in rows if row.split]
    if assigned:
        return (split_by_part(assigned, task, options, seed, 0, "change the split column, or set scheme=folds"),)
    assigned = [row for row in rows if row.fold is not None]
    patients = patients_of(assigned, targets_of(assigned, task), task, options)
    try:
        return tuple(
            _fold_splits(patients, _tests_of_column(assigned, patients), task, options, f"{seed}/0", with_test=False)
        )
    except UnusablePartError as error:
        raise SplitError(f"{error}; change the fold column, or set scheme=folds") from None


def _tests_of_column(rows: Sequence[CohortRow], patients: Sequence[Patient]) -> dict[int, list[Patient]]:
    """Fold → the patients that the fold column has in it."""
    fold_of: dict[PatientId, int | None] = {}
    for row in rows:
        if fold_of.setdefault(row.patient_id, row.fold) != row.fold:
            both_folds = f"{fold_of[row.patient_id]} and {row.fold}"
            raise SplitError(f"patient {quote(row.patient_id)} is in folds {both_folds}: a patient belongs to one fold")
    folds = sorted({fold for fold in fold_of.values() if fold is not None})
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
    """Raises SplitError, with the numbers, where no assignment could succeed."""
    if scheme is SplitScheme.final:
        return  # only training and validation have to be usable, which each split checks
    one_out = scheme is SplitScheme.leave_one_patient_out
    setting = "leave-one-patient-out" if one_out else f"folds={options.folds}"
    # one patient of each class in each part; one fewer need not be tested on where test parts hold one patient
    needed = _NUM_PARTS if one_out else max(_NUM_PARTS, options.folds)
    for label in task.classes:
        num_patients = sum(label in patient.labels for patient in patients)
        if num_patients < needed:
            raise SplitError(
                f"class {quote(label)} has {_patients(num_patients)}, and {setting} needs {needed} of each "
                "(train, validation and test are disjoint in patients)"
                f"{_advice(num_patients, one_out, 'of that class')}"
            )
    if task.kind is TaskKind.classification:
        return
    if len(patients) < needed:
        advice = _advice(len(patients), one_out, "")
        raise SplitError(f"{_patients(len(patients))} with a target, and {setting} needs {needed}{advice}")
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


def _advice(num_patients: int, one_out: bool, kind: str) -> str:
    if num_patients < _NUM_PARTS or one_out:
        return f"; add patients {kind}".rstrip()
    return f"; set folds={num_patients} or lower, or scheme=leave_one_patient_out"


def _of_that_kind(task: Task) -> str:
    return {
        TaskKind.classification: "of that class",
        TaskKind.survival: "with an event",
        TaskKind.regression: "with a target",
    }[task.kind]
