"""The sentences say what was done, in words that fit the task, the bags and the seeds."""

import pytest

from mhim_core.report.wording import intended_use, protocol_of, title_of, what_is_predicted
from mhim_core.task import Task, TaskKind

CLASSES = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
SURVIVAL, REGRESSION = Task(kind=TaskKind.survival, time_bins=6), Task(kind=TaskKind.regression)


def protocol(**changes) -> str:
    common = {"unit": "slide", "num_folds": 5, "seeds": (2021,), "replicates": 2000, "selected_by": "AUROC"}
    return protocol_of(**common | changes)


def test_the_task_is_told_in_its_own_words():
    assert title_of("c.csv", CLASSES) == "c.csv: normal, tumour"
    assert title_of("c.csv", SURVIVAL) == "c.csv: survival"
    assert what_is_predicted(CLASSES, "slide") == "Telling normal, tumour apart from whole slides"
    assert "6 time bins, from all whole slides of a patient" in what_is_predicted(SURVIVAL, "patient")
    assert "number" in what_is_predicted(REGRESSION, "slide")


@pytest.mark.parametrize("kind", TaskKind)
def test_the_intended_use_names_the_kind_of_output(kind):
    words = {"classification": "probabilities", "survival": "risks", "regression": "numbers"}
    assert f"patient-level {words[kind]}" in intended_use(kind, "patient")


def test_one_seed_is_no_mean_and_several_are():
    single, several = protocol(), protocol(seeds=(2021, 2022, 2023))
    assert single.startswith("5 patient-level folds; every slide is judged by a model that saw no slide of its patient")
    assert "seed" not in single
    assert "trained 3 times, with seeds 2021 to 2023: a pooled value is the mean over seeds" in several
    assert "seeds 1, 5" in protocol(seeds=(5, 1))


def test_only_what_was_done_is_claimed():
    assert "bootstrap" not in protocol(replicates=0)
    assert "2000 bootstrap replicates" in protocol()
    assert "chosen by Harrell's C on validation" in protocol(selected_by="Harrell's C")
    assert "last epoch was kept" in protocol(selected_by="")
    assert "before time 36.5" in protocol(uno_tau=36.5)
    assert "none of the patient's slides" in protocol(unit="patient")
    assert protocol(num_folds=1).startswith("One split;")
