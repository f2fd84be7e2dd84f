"""The targets of a cohort, in sentences."""

from mhim_core.cohort.summary import summarise
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import TaskName, TaskOptions


def test_classes_are_counted_in_slides_and_patients():
    rows = [
        CohortRow(f"s{index}", "/x", patient, label)
        for index, (patient, label) in enumerate([("a", "x"), ("a", "x"), ("b", "x"), ("c", "y"), ("d", None)])
    ]
    assert summarise(rows, TaskOptions()) == (
        "task: classification, 2 classes",
        "'x' 3 slides of 2 patients, 'y' 1 slides of 1 patients; 1 slides without",
    )


def test_events_are_counted_in_patients():
    rows = [
        CohortRow(f"s{index}", "/x", patient, time=time, event=event)
        for index, (patient, time, event) in enumerate([("a", 1.5, True), ("a", 1.5, True), ("b", 20.0, False)])
    ]
    assert summarise(rows, TaskOptions())[-1] == (
        "3 slides of 2 patients: 1 patients with the event, 1 censored; times 1.5 to 20"
    )


def test_a_number_has_its_range():
    rows = [CohortRow(f"s{index}", "/x", f"p{index}", label) for index, label in enumerate(["0.5", "2", "3.5"])]
    assert summarise(rows, TaskOptions())[-1] == "3 slides of 3 patients: target 0.5 to 3.5, mean 2"


def test_what_cannot_be_trained_on_is_said_not_raised():
    rows = [CohortRow("s", "/x", "p")]
    (line,) = summarise(rows, TaskOptions())
    assert line.startswith("cannot be trained on: no slide has a label")
    half = [CohortRow("s", "/x", "p", time=1.0), CohortRow("t", "/x", "q", time=1.0, event=True)]
    first, second = summarise(half, TaskOptions(task=TaskName.survival))
    assert first == "cannot be trained on: task=survival: 1 of the slides have no usable target"
    assert "slide 's': it has a time but no event" in second
