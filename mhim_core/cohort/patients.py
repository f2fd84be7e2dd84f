"""Patients, and how splits assign them to parts: by hash, stratum by stratum, without a random generator.

A hash of (seed, role, patient) gives the same order on every machine, and keeps the order of the others when patients
are added.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mhim_core.cohort.strata import labels_of, strata_of
from mhim_core.cohort.table import CohortRow, natural_key
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.task import Target, Task
from mhim_core.types import PatientId, SlideId


class Patient(NamedTuple):
    """One patient of the cohort with the slides that have a target."""

    patient_id: PatientId
    stratum: str
    """What the patient is stratified by."""
    labels: frozenset[str]
    """Classification: the classes of the patient's slides."""
    targets: tuple[Target, ...]
    slide_ids: tuple[SlideId, ...]
    """Sorted; `targets` in their order."""


def patients_of(
    rows: Sequence[CohortRow], targets: Mapping[SlideId, Target], task: Task, options: SplitOptions
) -> list[Patient]:
    """The patients of these rows, all of which have a target, in natural order."""
    slides: dict[PatientId, list[SlideId]] = defaultdict(list)
    for row in rows:
        slides[row.patient_id].append(row.slide_id)
    own_targets = {patient: tuple(targets[slide_id] for slide_id in sorted(ids)) for patient, ids in slides.items()}
    # of a smaller bin, one patient for validation would be more than the share asked for
    least = max(3, options.folds, math.ceil(1 / options.val_fraction))
    strata = strata_of(own_targets, task, least)
    return [
        Patient(
            patient_id=patient,
            stratum=strata[patient],
            labels=labels_of(own_targets[patient], task.classes),
            targets=own_targets[patient],
            slide_ids=tuple(sorted(slides[patient])),
        )
        for patient in sorted(slides, key=natural_key)
    ]


def take(patients: Sequence[Patient], fraction: float, key: str, *, leave: int) -> list[Patient]:
    """The share `fraction` of each stratum, at least one patient, as long as `leave` patients remain in it."""
    taken = []
    for stratum in _strata(patients, key).values():
        wanted = max(1, int(len(stratum) * fraction + 0.5))
        taken += stratum[: max(0, min(wanted, len(stratum) - leave))]
    return taken


def without(patients: Sequence[Patient], taken: Sequence[Patient]) -> list[Patient]:
    """The patients that were not taken, in their order."""
    chosen = set(taken)
    return [patient for patient in patients if patient not in chosen]


def deal(patients: Sequence[Patient], num_folds: int, key: str) -> list[list[Patient]]:
    """Each stratum in equal numbers (±1) to the folds; patients with many slides first, to the fold with fewest."""
    folds: list[list[Patient]] = [[] for _ in range(num_folds)]
    num_slides = [0] * num_folds
    for stratum in _strata(patients, key).values():
        dealt = [0] * num_folds
        for patient in sorted(stratum, key=lambda patient: -len(patient.slide_ids)):
            fold = min(range(num_folds), key=lambda index: (dealt[index], num_slides[index], index))
            folds[fold].append(patient)
            dealt[fold] += 1
            num_slides[fold] += len(patient.slide_ids)
    return folds


def _strata(patients: Sequence[Patient], key: str) -> dict[str, list[Patient]]:
    """Patients by stratum, the smallest first, each in the order of their hash."""
    strata: dict[str, list[Patient]] = defaultdict(list)
    for patient in sorted(patients, key=lambda patient: _hash(key, patient.patient_id)):
        strata[patient.stratum].append(patient)
    return dict(sorted(strata.items(), key=lambda item: (len(item[1]), item[0])))


def _hash(key: str, patient_id: PatientId) -> bytes:
    return hashlib.sha256(f"{key}/{patient_id}".encode()).digest()
