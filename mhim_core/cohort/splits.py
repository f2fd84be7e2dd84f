"""Patient-level, stratified splits: a function of the seed and of which patients there are, not of the rows' order.

Nothing is drawn: patients are ordered by a hash of (seed, role, patient), which is the same on every machine and
leaves the order of the others alone when patients are added.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mhim_core.cohort.findings import quote
from mhim_core.cohort.options import SplitOptions, SplitScheme
from mhim_core.cohort.table import CohortRow, natural_key
from mhim_core.errors import SplitError
from mhim_core.types import PatientId, SlideId

_MAX_ATTEMPTS = 20
"""Only patients with several labels can make one attempt fail and another succeed."""


class Split(NamedTuple):
    """One fold: disjoint, sorted slide ids; no patient in two parts."""

    fold: int
    train: tuple[SlideId, ...]
    validation: tuple[SlideId, ...]
    test: tuple[SlideId, ...]


class _Patient(NamedTuple):
    patient_id: PatientId
    stratum: str
    """The label it is stratified by."""
    labels: frozenset[str]
    slide_ids: tuple[SlideId, ...]


class _Parts(NamedTuple):
    train: list[_Patient]
    validation: list[_Patient]
    test: list[_Patient]


class _MissingClassError(Exception):
    """This attempt leaves a part without a class."""


def make_splits(
    rows: Sequence[CohortRow], classes: Sequence[str], options: SplitOptions, seed: int
) -> tuple[Split, ...]:
    """Split the labelled slides; unlabelled rows are left out. The caller leaves out slides without tiles.

    Every class is in the train, validation and test part of every fold (leave-one-patient-out: train and validation),
    else SplitError says which class is missing where and what to set.
    """
    labelled = [row for row in rows if row.label is not None]
    _check_classes(labelled, classes)
    scheme = options.scheme
    if scheme is SplitScheme.auto:
        scheme = SplitScheme.column if any(row.split for row in labelled) else SplitScheme.folds
    if scheme is SplitScheme.column:
        return (_column_split([row for row in labelled if row.split], classes, options, seed),)
    patients = _patients(labelled)
    _check_counts(patients, classes, options, scheme)
    # one label a patient: every attempt has the same number of each class in each part
    num_attempts = _MAX_ATTEMPTS if any(len(patient.labels) > 1 for patient in patients) else 1
    for attempt in range(num_attempts):
        key = f"{seed}/{attempt}"
        try:
            return tuple(_fold_splits(patients, classes, options, scheme, key))
        except _MissingClassError as error:
            failure = str(error)
    raise SplitError(f"{failure}; set folds lower, or add patients of that class")


def _check_classes(labelled: Sequence[CohortRow], classes: Sequence[str]) -> None:
    counts = Counter(str(row.label) for row in labelled)
    if not labelled:
        raise SplitError("no slide with a label and tiles: there is nothing to split")
    for label in classes:
        if not counts[label]:
            raise SplitError(
                f"class {quote(label)} has no slide with tiles; embed its slides, or leave their label cells empty"
            )
    for label in counts:
        if label not in classes:
            raise SplitError(f"label {quote(label)} is none of the classes {', '.join(map(quote, classes))}")
    if len(classes) < 2:
        raise SplitError(
            f"every labelled slide with tiles ({len(labelled)}) is of class {quote(classes[0])}; two classes are needed"
        )


def _patients(labelled: Sequence[CohortRow]) -> list[_Patient]:
    """The patients, in natural order. One with several labels is stratified by the label that fewest patients have."""
    slides: dict[PatientId, list[CohortRow]] = defaultdict(list)
    for row in labelled:
        slides[row.patient_id].append(row)
    labels = {patient: frozenset(str(row.label) for row in rows) for patient, rows in slides.items()}
    num_with = Counter(label for found in labels.values() for label in found)
    return [
        _Patient(
            patient_id=patient,
            stratum=min(labels[patient], key=lambda label: (num_with[label], label)),
            labels=labels[patient],
            slide_ids=tuple(sorted(row.slide_id for row in slides[patient])),
        )
        for patient in sorted(slides, key=natural_key)
    ]


def _check_counts(
    patients: Sequence[_Patient], classes: Sequence[str], options: SplitOptions, scheme: SplitScheme
) -> None:
    """Refuse what no assignment can do, with the numbers."""
    one_out = scheme is SplitScheme.leave_one_patient_out
    # one patient of each class in each part; one fewer need not be tested on where test parts hold one patient
    needed = 3 if one_out else max(3, options.folds)
    for label in classes:
        found = sum(label in patient.labels for patient in patients)
        if found < needed:
            what = "leave-one-patient-out" if one_out else f"folds={options.folds}"
            raise SplitError(
                f"class {quote(label)} has {found} patient{'s' * (found != 1)}, and {what} needs {needed} of each "
                f"(train, validation and test are disjoint in patients){_advice(found, one_out)}"
            )


def _advice(found: int, one_out: bool) -> str:
    if found < 3 or one_out:
        return "; add patients of that class"
    return f"; set folds={found} or lower, or scheme=leave_one_patient_out"


def _fold_splits(
    patients: Sequence[_Patient], classes: Sequence[str], options: SplitOptions, scheme: SplitScheme, key: str
) -> Iterator[Split]:
    if scheme is SplitScheme.leave_one_patient_out:
        tests = [[patient] for patient in patients]
    elif options.folds == 1:
        tests = [_take(patients, options.test_fraction, f"{key}/test", leave=2)]
    else:
        tests = _deal(patients, options.folds, f"{key}/folds")
    for fold, test in enumerate(tests):
        tested = set(test)
        rest = [patient for patient in patients if patient not in tested]
        validation = _take(rest, options.val_fraction, f"{key}/{fold}/validation", leave=1)
        chosen = set(validation)
        parts = _Parts([patient for patient in rest if patient not in chosen], validation, test)
        _check_parts(parts, classes, fold, with_test=scheme is not SplitScheme.leave_one_patient_out)
        yield _split(parts, fold)


def _column_split(rows: Sequence[CohortRow], classes: Sequence[str], options: SplitOptions, seed: int) -> Split:
    """The table's own parts; where it has no val, validation patients are taken from train."""
    if not rows:
        raise SplitError("scheme=column, and no labelled slide with tiles has a value in the split column")
    part_of: dict[PatientId, str | None] = {}
    for row in rows:
        if part_of.setdefault(row.patient_id, row.split) != row.split:
            parts_found = f"{part_of[row.patient_id]} and {row.split}"
            raise SplitError(f"patient {quote(row.patient_id)} is in {parts_found}: a patient belongs to one split")
    patients = _patients(rows)
    train, validation, test = (
        [patient for patient in patients if part_of[patient.patient_id] == part] for part in ("train", "val", "test")
    )
    if not validation:
        validation = _take(train, options.val_fraction, f"{seed}/0/validation", leave=1)
        chosen = set(validation)
        train = [patient for patient in train if patient not in chosen]
    parts = _Parts(train, validation, test)
    try:
        _check_parts(parts, classes, 0, with_test=True)
    except _MissingClassError as error:
        raise SplitError(f"{error}; change the split column, or set scheme=folds") from None
    return _split(parts, 0)


def _check_parts(parts: _Parts, classes: Sequence[str], fold: int, *, with_test: bool) -> None:
    for name, patients in parts._asdict().items():
        present = {label for patient in patients for label in patient.labels}
        for label in classes:
            if label not in present and (with_test or name != "test"):
                raise _MissingClassError(f"class {quote(label)} has no patient in the {name} part of fold {fold}")


def _split(parts: _Parts, fold: int) -> Split:
    def slides(patients: Iterable[_Patient]) -> tuple[SlideId, ...]:
        return tuple(sorted(slide_id for patient in patients for slide_id in patient.slide_ids))

    return Split(fold, slides(parts.train), slides(parts.validation), slides(parts.test))


def _take(patients: Sequence[_Patient], fraction: float, key: str, *, leave: int) -> list[_Patient]:
    """The share of each stratum, at least one patient of it, as long as `leave` remain."""
    taken = []
    for stratum in _strata(patients, key).values():
        wanted = max(1, int(len(stratum) * fraction + 0.5))
        taken += stratum[: max(0, min(wanted, len(stratum) - leave))]
    return taken


def _deal(patients: Sequence[_Patient], num_folds: int, key: str) -> list[list[_Patient]]:
    """Each stratum in equal numbers (±1) to the folds; patients of many slides first, to the fold of fewest slides."""
    folds: list[list[_Patient]] = [[] for _ in range(num_folds)]
    num_slides = [0] * num_folds
    for stratum in _strata(patients, key).values():
        dealt = [0] * num_folds
        for patient in sorted(stratum, key=lambda patient: -len(patient.slide_ids)):
            fold = min(range(num_folds), key=lambda index: (dealt[index], num_slides[index], index))
            folds[fold].append(patient)
            dealt[fold] += 1
            num_slides[fold] += len(patient.slide_ids)
    return folds


def _strata(patients: Sequence[_Patient], key: str) -> dict[str, list[_Patient]]:
    """Patients by label, rarest label first, each in the order of their hash."""
    strata: dict[str, list[_Patient]] = defaultdict(list)
    for patient in sorted(patients, key=lambda patient: _hash(key, patient.patient_id)):
        strata[patient.stratum].append(patient)
    return dict(sorted(strata.items(), key=lambda item: (len(item[1]), item[0])))


def _hash(key: str, patient_id: PatientId) -> bytes:
    return hashlib.sha256(f"{key}/{patient_id}".encode()).digest()
