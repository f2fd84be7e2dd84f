"""Patient-level, stratified splits: no leak, every class everywhere, the same on every machine."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.cohort.options import SplitOptions, SplitScheme
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.table import CohortRow, read_cohort, sort_labels
from mhim_core.errors import ConfigError, SplitError


def rows_of(labels_of_patients: dict[str, list[str]], splits: dict[str, str] | None = None) -> list[CohortRow]:
    """One row per label, named `<patient>_<index>`."""
    return [
        CohortRow(f"{patient}_{index}", "/x", patient, label, split=(splits or {}).get(patient))
        for patient, labels in labels_of_patients.items()
        for index, label in enumerate(labels)
    ]


def cohort_of(num_negative: int, num_positive: int, slides: int = 1) -> list[CohortRow]:
    patients = {f"n{index}": ["neg"] * slides for index in range(num_negative)}
    return rows_of(patients | {f"p{index}": ["pos"] * slides for index in range(num_positive)})


def make(rows, seed=0, **options):
    classes = sort_labels({row.label for row in rows if row.label is not None})
    return make_splits(rows, classes, SplitOptions(**options), seed)


def check(rows, splits, *, with_test=True):
    """What every split promises."""
    labelled = {row.slide_id: row for row in rows if row.label is not None}
    classes = {row.label for row in labelled.values()}
    for index, split in enumerate(splits):
        assert split.fold == index
        parts = [split.train, split.validation, split.test]
        assert sorted(sum(parts, ())) == sorted(labelled)
        patients = [{labelled[slide].patient_id for slide in part} for part in parts]
        assert len(set().union(*patients)) == sum(map(len, patients))
        for part in parts if with_test else parts[:2]:
            assert {labelled[slide].label for slide in part} == classes
            assert list(part) == sorted(part)


@settings(max_examples=60, deadline=None)
@given(
    num_negative=st.integers(5, 40),
    num_positive=st.integers(5, 40),
    slides=st.integers(1, 3),
    seed=st.integers(0, 99),
    folds=st.integers(1, 5),
)
def test_folds_keep_patients_together_and_hold_every_class(num_negative, num_positive, slides, seed, folds):
    rows = cohort_of(num_negative, num_positive, slides)
    splits = make(rows, seed, folds=folds)
    check(rows, splits)
    assert len(splits) == folds
    if folds > 1:
        tested = Counter(slide for split in splits for slide in split.test)
        assert set(tested.values()) == {1}
        assert len(tested) == len(rows)
        for prefix in "np":
            sizes = [sum(slide.startswith(prefix) for slide in split.test) // slides for split in splits]
            assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cohorts_with_mixed_patients_are_split_or_refused_never_leaked(data):
    patients = data.draw(
        st.dictionaries(
            st.integers(0, 30).map(lambda index: f"p{index}"),
            st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
            min_size=1,
            max_size=30,
        )
    )
    rows = rows_of(patients)
    try:
        splits = make(rows, folds=data.draw(st.integers(1, 4)))
    except SplitError:
        return
    check(rows, splits)


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    rows = cohort_of(20, 12, slides=2)
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    assert make(shuffled) == make(rows)
    assert make(rows, seed=1) != make(rows, seed=0)


def test_splits_are_the_same_for_ever():
    """Frozen: a new release must not move patients between folds of a published run."""
    splits = make(cohort_of(6, 6), seed=2021, folds=2)
    assert splits[0].test == ("n1_0", "n2_0", "n5_0", "p2_0", "p3_0", "p5_0")
    assert splits[0].validation == ("n3_0", "p4_0")


def test_patients_of_many_slides_are_spread_over_the_folds():
    rows = rows_of({f"p{index}": ["ab"[index % 2]] * (10 if index < 8 else 1) for index in range(40)})
    sizes = [len(split.test) for split in make(rows, folds=4)]
    assert max(sizes) - min(sizes) <= 10


def test_leave_one_patient_out_tests_each_patient_once():
    rows = cohort_of(4, 3, slides=2)
    splits = make(rows, scheme=SplitScheme.leave_one_patient_out)
    check(rows, splits, with_test=False)
    assert [{slide.split("_")[0] for slide in split.test} for split in splits] == [
        {patient} for patient in ("n0", "n1", "n2", "n3", "p0", "p1", "p2")
    ]


def test_the_split_column_is_used_and_validation_is_made_where_it_has_none():
    splits = {f"{kind}{index}": "train" if index < 6 else "test" for kind in "np" for index in range(9)}
    labels = {patient: ["neg" if patient[0] == "n" else "pos"] for patient in splits}
    rows = rows_of(labels, splits)
    (split,) = make(rows)
    check(rows, [split])
    assert {slide.split("_")[0] for slide in split.test} == {
        patient for patient, part in splits.items() if part == "test"
    }
    (given,) = make(rows_of(labels, splits | {"n5": "val", "p5": "val"}))
    assert given.validation == ("n5_0", "p5_0")


def test_rows_without_a_split_or_label_take_no_part():
    splits = {f"{kind}{index}": ("train", "val", "test")[index % 3] for kind in "np" for index in range(6)}
    rows = rows_of({patient: [patient[0]] for patient in splits}, splits)
    extra = [CohortRow("none", "/x", "q", "n"), CohortRow("bare", "/x", "n0", None, split="train")]
    assert make(rows + extra) == make(rows)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "nothing to split"),
        (cohort_of(1, 0), {}, "every labelled slide with tiles .1. is of class 'neg'"),
        (cohort_of(9, 0), {}, "every labelled slide with tiles .9. is of class 'neg'"),
        (cohort_of(9, 4), {}, "class 'pos' has 4 patients, and folds=5 needs 5 .* set folds=4 or lower"),
        (cohort_of(9, 2), {"folds": 2}, "class 'pos' has 2 patients.* add patients"),
        (cohort_of(9, 1), {"folds": 1}, "class 'pos' has 1 patient,"),
        (
            cohort_of(9, 2),
            {"scheme": SplitScheme.leave_one_patient_out},
            "class 'pos' has 2 patients, and leave-one-patient-out needs 3",
        ),
        (cohort_of(9, 9), {"scheme": SplitScheme.column}, "no labelled slide with tiles has a value"),
        (
            rows_of({"a": ["x"], "b": ["y"]}, {"a": "train", "b": "train"}),
            {},
            "class 'x' has no patient in the validation part of fold 0; change the split column",
        ),
        (
            rows_of(
                {"a": ["x"], "b": ["y"], "c": ["x"], "d": ["y"], "e": ["x"]},
                {"a": "train", "b": "train", "c": "train", "d": "train", "e": "test"},
            ),
            {},
            "class 'y' has no patient in the test part of fold 0; change the split column",
        ),
    ],
)
def test_impossible_splits_say_which_class_is_missing_and_what_to_set(rows, options, message):
    with pytest.raises(SplitError, match=message):
        make(rows, **options)


def test_a_class_whose_slides_have_no_tiles_and_a_foreign_label_are_named():
    with pytest.raises(SplitError, match="class 'rare' has no slide with tiles"):
        make_splits(cohort_of(9, 9), ("neg", "pos", "rare"), SplitOptions(), 0)
    with pytest.raises(SplitError, match="'pos' is none of the classes"):
        make_splits(cohort_of(9, 9), ("neg",), SplitOptions(), 0)


def test_a_patient_in_two_parts_of_the_column_is_refused():
    rows = rows_of({"a": ["x", "x"]}, {"a": "train"})
    rows[1] = rows[1]._replace(split="test")
    rows += rows_of({"b": ["y"]}, {"b": "train"})
    with pytest.raises(SplitError, match="patient 'a' is in train and test"):
        make(rows)


@pytest.mark.parametrize(
    "values", [{"folds": 0}, {"val_fraction": 0.0}, {"val_fraction": 1.0}, {"test_fraction": -1.0}]
)
def test_options_are_checked(values):
    with pytest.raises(ConfigError, match=f"^{next(iter(values))}="):
        SplitOptions(**values)


@pytest.mark.parametrize("scheme", [SplitScheme.folds, SplitScheme.leave_one_patient_out])
def test_the_shared_cohort_of_thirteen_patients_can_be_split(shared_data, scheme):
    path = shared_data / "slides/atlas10x_mpp.csv"
    rows = read_cohort(path.read_bytes(), name=path.name, base_uri=str(path.parent)).rows
    for seed in range(20):
        splits = make(rows, seed, scheme=scheme)
        check(rows, splits, with_test=scheme is SplitScheme.folds)
        assert len(splits) == (5 if scheme is SplitScheme.folds else 13)
