"""Strata are large enough for the folds, and as fine as that allows."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mhim_core.cohort.strata import strata_of
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget

survival = st.lists(st.tuples(st.integers(0, 50).map(float), st.booleans()), min_size=1, max_size=80)


@given(survival, st.integers(1, 10), st.integers(2, 6))
def test_bins_of_time_hold_enough_patients_or_are_all_there_is_of_the_event(cells, least, num_bins):
    targets = {f"p{index}": [SurvivalTarget(*cell)] for index, cell in enumerate(cells)}
    strata = strata_of(targets, Task(kind=TaskKind.survival, time_bins=num_bins), least)
    assert set(strata) == set(targets)
    for name in ("event", "censored"):
        patients = [patient for patient in targets if targets[patient][0].event is (name == "event")]
        sizes = Counter(strata[patient] for patient in patients)
        assert all(stratum.startswith(name) for stratum in sizes)
        assert len(sizes) <= 1 or min(sizes.values()) >= least
        by_time = sorted(patients, key=lambda patient: targets[patient][0].time)
        runs = [strata[patient] for patient in by_time]
        assert len(sizes) == sum(a != b for a, b in zip(["", *runs], runs, strict=False)), "bins are intervals"


def test_bins_are_quantiles_of_the_times_of_events_and_hold_for_the_censored():
    events = {f"e{time}": [SurvivalTarget(float(time), True)] for time in range(8)}
    censored = {f"c{time}": [SurvivalTarget(float(time), False)] for time in (0, 1, 100, 101)}
    strata = strata_of(events | censored, Task(kind=TaskKind.survival), 1)
    assert [strata[f"e{time}"] for time in range(8)] == [f"event {time // 2}" for time in range(8)]
    assert [strata[f"c{time}"] for time in (0, 1, 100, 101)] == ["censored 0"] * 2 + ["censored 3"] * 2


def test_without_events_there_is_one_stratum():
    targets = {f"p{time}": [SurvivalTarget(float(time), False)] for time in range(9)}
    assert len(set(strata_of(targets, Task(kind=TaskKind.survival), 1).values())) == 1


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60), st.integers(1, 10))
def test_quartiles_of_a_value_are_merged_where_values_repeat(values, least):
    targets = {f"p{index}": [ValueTarget(value)] for index, value in enumerate(values)}
    strata = strata_of(targets, Task(kind=TaskKind.regression), least)
    sizes = Counter(strata.values())
    assert len(sizes) <= 4
    assert len(sizes) == 1 or min(sizes.values()) >= least
    for value in set(values):
        assert (
            len({strata[patient] for patient, patient_targets in targets.items() if patient_targets[0].value == value})
            == 1
        )


def test_a_patient_of_several_classes_is_of_the_rarest():
    task = Task(kind=TaskKind.classification, classes=("a", "b"))
    targets = {"p": [ClassTarget(0), ClassTarget(1)], "q": [ClassTarget(0)], "r": [ClassTarget(0)]}
    assert strata_of(targets, task, 5) == {"p": "b", "q": "a", "r": "a"}
