"""Strata: groups of patients alike in what is predicted, so that every part of a split gets its share of each.

Classification: the label, of several the one that fewest patients have. Survival: event × time bin. Regression: the
quartile of the target. Bins that hold too few patients are merged with a neighbour.

The bins of time are not those that a model predicts (`task.fit_task`), though both are quantiles. These are of all
patients, before there is a training part, and a split can do with fewer: repeated times merge them. Those are of one
fit's training bags, and each is an output of the model: too few distinct times are refused.
"""

import bisect
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.types import PatientId

NUM_VALUE_BINS = 4
"""Regression: quartiles."""

Targets = Mapping[PatientId, Sequence[Target]]
"""Per patient, the targets of the patient's slides, at least one."""


def strata_of(targets: Targets, task: Task, least: int) -> dict[PatientId, str]:
    """The name of each patient's stratum.

    `least`: how many patients a bin of times or values must hold; classes are never merged. One of several times counts
    as the earliest, several values as their mean.
    """
    if task.kind is TaskKind.classification:
        return _by_label(targets, task.classes)
    if task.kind is TaskKind.survival:
        return _by_event_and_time(targets, task.time_bins, least)
    return _by_value(targets, least)


def labels_of(targets: Sequence[Target], classes: Sequence[str]) -> frozenset[str]:
    """The classes among a patient's targets; none in other tasks."""
    return frozenset(classes[target.class_index] for target in targets if isinstance(target, ClassTarget))


def _by_label(targets: Targets, classes: Sequence[str]) -> dict[PatientId, str]:
    labels = {patient: labels_of(own_targets, classes) for patient, own_targets in targets.items()}
    num_with = Counter(label for own_labels in labels.values() for label in own_labels)
    return {
        patient: min(own_labels, key=lambda label: (num_with[label], label)) for patient, own_labels in labels.items()
    }


def _by_event_and_time(targets: Targets, num_bins: int, least: int) -> dict[PatientId, str]:
    """The bins are cut at quantiles of the times of events, and hold for the censored too."""
    first = {
        patient: min(target for target in own_targets if isinstance(target, SurvivalTarget))
        for patient, own_targets in targets.items()
    }
    edges = _edges((target.time for target in first.values() if target.event), num_bins)
    strata: dict[PatientId, str] = {}
    for event in (True, False):
        bins = {
            patient: bisect.bisect_right(edges, target.time)
            for patient, target in first.items()
            if target.event is event
        }
        strata |= _merged(bins, least, "event" if event else "censored")
    return strata


def _by_value(targets: Targets, least: int) -> dict[PatientId, str]:
    values = {
        patient: statistics.fmean(target.value for target in own_targets if isinstance(target, ValueTarget))
        for patient, own_targets in targets.items()
    }
    edges = _edges(values.values(), NUM_VALUE_BINS)
    return _merged({patient: bisect.bisect_right(edges, value) for patient, value in values.items()}, least, "value")


def _edges(values: Iterable[float], num_bins: int) -> list[float]:
    """The inner edges of bins of equal counts, by linear interpolation; fewer where values repeat."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return []
    return sorted(set(statistics.quantiles(ordered, n=num_bins, method="inclusive")))


def _merged(bins: Mapping[PatientId, int], least: int, name: str) -> dict[PatientId, str]:
    """Name the bins; the smallest is merged with its smaller neighbour until every one holds `least` patients."""
    groups = [[index] for index in sorted(set(bins.values()))]
    count = Counter(bins.values())

    def size(place: int) -> int:
        return sum(count[index] for index in groups[place])

    while len(groups) > 1:
        smallest = min(range(len(groups)), key=size)
        if size(smallest) >= least:
            break
        neighbours = [place for place in (smallest - 1, smallest + 1) if 0 <= place < len(groups)]
        low = min(smallest, min(neighbours, key=size))
        groups[low : low + 2] = [groups[low] + groups[low + 1]]
    name_of = {index: f"{name} {group[0]}" for group in groups for index in group}
    return {patient: name_of[index] for patient, index in bins.items()}
