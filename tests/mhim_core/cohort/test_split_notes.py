"""The table's own splits are taken as they are; what they leave out or do not test is said."""

import pytest

from mhim_core.cohort.split_notes import split_notes
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.errors import SplitError
from mhim_core.task import Task, TaskKind

CLASSES = Task(kind=TaskKind.classification, classes=("n", "p"))
PARTS = {"n0": "train", "p0": "train", "n1": "val", "p1": "val", "n2": "test", "p2": "test"}
FOLDS = {f"{label}{index}": index % 3 for label in "np" for index in range(9)}


def rows_of(*patients: str, **columns: dict[str, object]) -> list[CohortRow]:
    """The label is the patient's first letter; `split={"n0": "train"}` gives a column's values by patient."""
    return [
        CohortRow(patient, "/x", patient, patient[0], **{name: values.get(patient) for name, values in columns.items()})
        for patient in patients
    ]


def notes_of(rows, task=CLASSES, **options):
    """Of splits that can be made, which is a part of the promise."""
    make_splits(rows, task, SplitOptions(**options), 0)
    return split_notes(rows, task, SplitOptions(**options))


def test_of_a_full_split_or_fold_column_and_of_drawn_folds_there_is_nothing_to_say():
    assert notes_of(rows_of(*PARTS, split=PARTS)) == ()
    assert notes_of(rows_of(*FOLDS, fold=FOLDS)) == ()
    assert notes_of(rows_of(*FOLDS)) == ()
    assert notes_of(rows_of(*FOLDS, fold={"n0": 1}), scheme=SplitScheme.folds) == ()
    assert notes_of(rows_of(*FOLDS), scheme=SplitScheme.final) == ()


@pytest.mark.parametrize(("column", "values"), [("split", PARTS), ("fold", FOLDS)])
def test_slides_without_a_value_in_the_column_that_is_used_are_counted_and_named(column, values):
    rows = [*rows_of(*values, "n10", "n9x", **{column: values}), CohortRow("bare", "/x", "n0", None)]
    assert notes_of(rows) == (
        f"2 of {len(values) + 2} slides have no value in the {column} column and take no part: 'n9x', 'n10'",
    )


def test_a_split_column_without_val_says_where_validation_comes_from():
    split = {
        patient: "test" if index == 8 else "train"
        for patient, index in ((patient, int(patient[1:])) for patient in FOLDS)
    }
    assert notes_of(rows_of(*split, split=split), val_fraction=0.3) == (
        "the split column has no val: validation is taken from its train, 0.3 of it",
    )


def test_a_split_column_without_test_makes_a_fold_without_test():
    split = {patient: part for patient, part in PARTS.items() if part != "test"}
    rows = rows_of(*split, split=split)
    (made,) = make_splits(rows, CLASSES, SplitOptions(), 0)
    assert made == (0, ("n0", "p0"), ("n1", "p1"), ())
    assert notes_of(rows) == ("the split column has no test: nothing is held out to evaluate the models on",)


def test_a_test_part_of_the_split_column_may_lack_a_class_and_a_note_names_it():
    split = {patient: part for patient, part in PARTS.items() if patient != "p2"}
    rows = rows_of(*split, split=split)
    (made,) = make_splits(rows, CLASSES, SplitOptions(), 0)
    assert made.test == ("n2",)
    assert notes_of(rows) == ("the split column tests no slide of class 'p': metrics that need one are null there",)


def test_a_fold_of_the_fold_column_may_lack_a_class_and_a_note_names_fold_and_class():
    fold = FOLDS | {"p2": 0, "p5": 1, "p8": 0}
    rows = rows_of(*fold, fold=fold)
    assert [split.test for split in make_splits(rows, CLASSES, SplitOptions(), 0)][2] == ("n2", "n5", "n8")
    assert notes_of(rows) == (
        "fold 2 of the fold column tests no slide of class 'p': metrics that need one are null there",
    )


@pytest.mark.parametrize("missing", ["p0", "n1"])
def test_training_and_validation_still_need_every_class(missing):
    split = {patient: part for patient, part in PARTS.items() if patient != missing}
    with pytest.raises(
        SplitError, match=f"class '{missing[0]}' has no patient in the (train|validation) part of fold 0"
    ):
        make_splits(rows_of(*split, split=split), CLASSES, SplitOptions(), 0)


def test_of_survival_and_regression_a_missing_test_is_said_and_no_class_is():
    survival = [
        CohortRow(f"s{i}", "/x", f"p{i}", time=float(i), event=i % 2 == 0, split=("train", "val")[i % 2 and i > 4])
        for i in range(12)
    ]
    survival = [*survival, CohortRow("v", "/x", "v", time=0.5, event=True, split="val")]
    (note,) = notes_of(survival, Task(kind=TaskKind.survival))
    assert "has no test" in note
    numbers = [CohortRow(f"s{i}", "/x", f"p{i}", f"{i}.5", fold=i % 2) for i in range(12)]
    assert notes_of(numbers, Task(kind=TaskKind.regression)) == ()


def test_both_columns_filled_are_refused_as_by_the_splits():
    with pytest.raises(SplitError, match="both filled"):
        split_notes(rows_of("n0", "p0", split={"n0": "train"}, fold={"p0": 1}), CLASSES, SplitOptions())
