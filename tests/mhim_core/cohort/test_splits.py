"""Patient-level, stratified splits: no leak, every class everywhere, the same on every machine."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.cohort.labels import join_labels, read_labels
from mhim_core.cohort.parts import has_comparable_pair
from mhim_core.cohort.splits import make_splits
from mhim_core.cohort.table import CohortRow, read_cohort, sort_labels
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.cohort.tasks import targets_of
from mhim_core.errors import CohortError, ConfigError, SplitError
from mhim_core.fingerprint import fingerprint
from mhim_core.task import Task, TaskKind

SURVIVAL = Task(kind=TaskKind.survival)
REGRESSION = Task(kind=TaskKind.regression)


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
    return make_splits(rows, classification_of(rows), SplitOptions(**options), seed)


def classification_of(rows):
    labels = sort_labels({row.label for row in rows if row.label is not None})
    classes = labels if len(labels) > 1 else ("neg", "pos")
    return Task(kind=TaskKind.classification, classes=classes)


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
    rows = rows_of(patients | {"q0": ["a"], "q1": ["b"]})
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


MIXED = rows_of({f"p{i}": ["abc"[(i + j) % 3] for j in range(1 + i % 4)] for i in range(24)})
HALF_COLUMN = {f"{kind}{index}": "train" if index < 6 else "test" for kind in "np" for index in range(9)}
COLUMN = rows_of({patient: ["neg" if patient[0] == "n" else "pos"] for patient in HALF_COLUMN}, HALF_COLUMN)


@pytest.mark.parametrize(
    ("rows", "options", "digests"),
    [
        (cohort_of(20, 12, 2), {}, ("b8215b784a157de1", "e2ce26b2a896fe58")),
        (cohort_of(20, 12, 2), {"folds": 3}, ("2eafe385fb267c11", "114396dab1be7417")),
        (cohort_of(20, 12, 2), {"folds": 1}, ("06a3dd0bd5a5c18b", "3cd744801ef10584")),
        (
            cohort_of(20, 12, 2),
            {"scheme": SplitScheme.leave_one_patient_out},
            ("5e70e2a38f3edbc6", "a0fd855276286c87"),
        ),
        (MIXED, {}, ("e5459fe0ac1a05c1", "9e4f7a914339137b")),
        (MIXED, {"folds": 1}, ("132f9cbf37739251", "79a470e502f9da09")),
        (COLUMN, {}, ("0734e5bfa99efe3a", "25cad21707ed8b83")),
    ],
)
def test_every_scheme_of_classification_gives_the_folds_it_always_gave(rows, options, digests):
    """Frozen before survival and regression came in."""
    assert tuple(fingerprint(make(rows, seed, **options))[:16] for seed in (0, 2021)) == digests


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
    (split_with_val,) = make(rows_of(labels, splits | {"n5": "val", "p5": "val"}))
    assert split_with_val.validation == ("n5_0", "p5_0")


def test_rows_without_a_split_or_label_take_no_part():
    splits = {f"{kind}{index}": ("train", "val", "test")[index % 3] for kind in "np" for index in range(6)}
    rows = rows_of({patient: [patient[0]] for patient in splits}, splits)
    extra = [CohortRow("none", "/x", "q", "n"), CohortRow("bare", "/x", "n0", None, split="train")]
    assert make(rows + extra) == make(rows)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "nothing to split"),
        (cohort_of(9, 0), {}, "class 'pos' has no slide with tiles"),
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
    ],
)
def test_impossible_splits_say_which_class_is_missing_and_what_to_set(rows, options, message):
    with pytest.raises(SplitError, match=message):
        make(rows, **options)


def test_a_class_whose_slides_have_no_tiles_and_a_foreign_label_are_named():
    rare = Task(kind=TaskKind.classification, classes=("neg", "pos", "rare"))
    with pytest.raises(SplitError, match="class 'rare' has no slide with tiles"):
        make_splits(cohort_of(9, 9), rare, SplitOptions(), 0)
    other = Task(kind=TaskKind.classification, classes=("neg", "rare"))
    with pytest.raises(CohortError, match="'pos' is none of the classes 'neg', 'rare'"):
        make_splits(cohort_of(9, 9), other, SplitOptions(), 0)


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


def survival_rows(num_events: int, num_censored: int, slides: int = 1) -> list[CohortRow]:
    """Times that no two patients share, events and censored mixed."""
    patients = [(f"e{index}", True) for index in range(num_events)]
    patients += [(f"c{index}", False) for index in range(num_censored)]
    generator = random.Random(num_events * 1000 + num_censored)
    times = generator.sample(range(10 * len(patients)), len(patients))
    return [
        CohortRow(f"{patient}_{index}", "/x", patient, time=float(time), event=event)
        for (patient, event), time in zip(patients, times, strict=True)
        for index in range(slides)
    ]


def check_disjoint(rows, splits):
    patient_of = {row.slide_id: row.patient_id for row in rows}
    for split in splits:
        parts = [split.train, split.validation, split.test]
        assert sorted(sum(parts, ())) == sorted(patient_of)
        assert all(parts)
        patients = [{patient_of[slide] for slide in part} for part in parts]
        assert len(set().union(*patients)) == sum(map(len, patients))


@settings(max_examples=60, deadline=None)
@given(
    num_events=st.integers(3, 40),
    num_censored=st.integers(0, 40),
    slides=st.integers(1, 2),
    folds=st.integers(1, 5),
    seed=st.integers(0, 20),
)
def test_survival_folds_can_be_learned_from_and_selected_by_or_are_refused(
    num_events, num_censored, slides, folds, seed
):
    rows = survival_rows(num_events, num_censored, slides)
    try:
        splits = make_splits(rows, SURVIVAL, SplitOptions(folds=folds), seed)
    except SplitError:
        assert num_events < 10 or num_events + num_censored < 15, "only small cohorts may fail"
        return
    check_disjoint(rows, splits)
    targets = targets_of(rows, SURVIVAL)
    for split in splits:
        assert any(targets[slide].event for slide in split.train)
        assert has_comparable_pair(targets[slide] for slide in split.validation)
    if folds > 1:
        tested = Counter(slide for split in splits for slide in split.test)
        assert set(tested.values()) == {1}
        assert len(tested) == len(rows)


def test_survival_folds_have_equal_shares_of_events_and_of_early_and_late_times():
    rows = survival_rows(100, 200)
    targets = targets_of(rows, SURVIVAL)
    splits = make_splits(rows, SURVIVAL, SplitOptions(), 0)
    median = sorted(target.time for target in targets.values() if target.event)[50]
    for split in splits:
        early = sum(targets[slide].event and targets[slide].time < median for slide in split.test)
        late = sum(targets[slide].event and targets[slide].time >= median for slide in split.test)
        assert abs(early - 10) <= 2
        assert abs(late - 10) <= 2
        assert 12 <= sum(targets[slide].event for slide in split.validation) <= 20
        assert 40 <= len(split.validation) <= 56, "a fifth of what is not tested, also of small strata"


def test_strata_too_small_for_the_folds_are_merged_not_refused():
    rows = survival_rows(6, 30)
    splits = make_splits(rows, SURVIVAL, SplitOptions(folds=5), 0)
    assert len(splits) == 5
    check_disjoint(rows, splits)


def test_survival_is_left_one_patient_out_and_split_by_the_column_too():
    rows = survival_rows(6, 6, slides=2)
    splits = make_splits(rows, SURVIVAL, SplitOptions(scheme=SplitScheme.leave_one_patient_out), 0)
    check_disjoint(rows, splits)
    assert len(splits) == 12
    rows = [row._replace(split="test" if row.patient_id in ("e0", "c0") else "train") for row in rows]
    (split,) = make_splits(rows, SURVIVAL, SplitOptions(), 0)
    check_disjoint(rows, [split])
    assert split.test == ("c0_0", "c0_1", "e0_0", "e0_1")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (survival_rows(0, 9), {}, "0 patients with an event, and train, validation and test need one each"),
        (survival_rows(2, 9), {}, "2 patients with an event"),
        (survival_rows(3, 1), {}, "4 patients with a target, and folds=5 needs 5; set folds=4 or lower"),
        (survival_rows(1, 1), {}, "2 patients with a target, and folds=5 needs 5; add patients$"),
        (
            [row._replace(split="train" if row.event is False else "test") for row in survival_rows(9, 9)],
            {},
            "no patient of the train part of fold 0 has an event; change the split column",
        ),
        (
            [row._replace(split=("test", "train")[row.patient_id != "e0"]) for row in survival_rows(2, 2)][:2],
            {},
            "no patient is in the validation part of fold 0",
        ),
        (
            [
                CohortRow("a", "/x", "a", time=1.0, event=True, split="train"),
                CohortRow("b", "/x", "b", time=9.0, event=True, split="val"),
                CohortRow("c", "/x", "c", time=5.0, event=False, split="val"),
                CohortRow("d", "/x", "d", time=5.0, event=False, split="test"),
            ],
            {},
            "no two patients of the validation part of fold 0 can be compared",
        ),
    ],
)
def test_survival_that_cannot_be_evaluated_is_refused_with_what_is_missing(rows, options, message):
    with pytest.raises(SplitError, match=message):
        make_splits(rows, SURVIVAL, SplitOptions(**options), 0)


def test_the_order_of_rows_changes_no_survival_or_regression_fold():
    survival = survival_rows(20, 20, slides=2)
    values = [row._replace(label=str(row.time), time=None, event=None) for row in survival]
    for rows, task in ((survival, SURVIVAL), (values, REGRESSION)):
        shuffled = random.Random(1).sample(rows, len(rows))
        assert make_splits(shuffled, task, SplitOptions(), 0) == make_splits(rows, task, SplitOptions(), 0)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 1)), min_size=5, max_size=60),
    folds=st.integers(1, 5),
)
def test_regression_folds_test_every_patient_once_also_where_values_repeat(values, folds):
    rows = [CohortRow(f"s{index}", "/x", f"p{index}", str(value)) for index, value in enumerate(values)]
    splits = make_splits(rows, REGRESSION, SplitOptions(folds=folds), 0)
    check_disjoint(rows, splits)
    if folds > 1:
        assert sorted(slide for split in splits for slide in split.test) == sorted(row.slide_id for row in rows)


def test_regression_is_stratified_by_quartile():
    rows = [CohortRow(f"s{index}", "/x", f"p{index}", str(index / 2)) for index in range(100)]
    for split in make_splits(rows, REGRESSION, SplitOptions(), 3):
        quartiles = Counter(int(slide[1:]) // 25 for slide in split.test)
        assert dict(quartiles) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_too_few_patients_for_regression_are_named():
    rows = [CohortRow(f"s{index}", "/x", "p", str(index)) for index in range(9)]
    with pytest.raises(SplitError, match="1 patient with a target, and folds=5 needs 5; add patients"):
        make_splits(rows, REGRESSION, SplitOptions(), 0)


def with_folds(rows, fold_of):
    return [row._replace(fold=fold_of(row)) for row in rows]


def test_the_fold_column_says_who_is_tested_and_validation_comes_from_the_rest():
    rows = with_folds(cohort_of(12, 12, slides=2), lambda row: int(row.patient_id[1:]) % 3 + 1)
    for options in ({}, {"scheme": SplitScheme.column}):
        splits = make(rows, **options)
        assert [split.fold for split in splits] == [1, 2, 3], "numbered as the column has them"
        for split in splits:
            assert split.test == tuple(sorted(row.slide_id for row in rows if row.fold == split.fold))
        check(rows, [split._replace(fold=index) for index, split in enumerate(splits)])
    assert make(rows, scheme=SplitScheme.folds) == make(with_folds(rows, lambda row: None))


def test_patients_without_a_fold_take_no_part():
    rows = with_folds(cohort_of(8, 8), lambda row: int(row.patient_id[1:]) % 2)
    extra = [CohortRow("none", "/x", "q", "neg")]
    assert make(rows + extra) == make(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_folds(cohort_of(6, 6), lambda row: 0), "every patient is in fold 0"),
        (
            with_folds(cohort_of(6, 6), lambda row: int(row.patient_id[0] == "p")),
            "class 'neg' has no patient in the train part of fold 0; change the fold column",
        ),
        (
            with_folds(cohort_of(6, 6, slides=2), lambda row: int(row.slide_id[-1])),
            "patient 'n0' is in folds 0 and 1: a patient belongs to one fold",
        ),
        (
            [row._replace(fold=0, split="train") for row in cohort_of(6, 6)],
            "split and fold columns are both filled: empty one of them, or set scheme=folds",
        ),
    ],
)
def test_a_fold_column_that_cannot_be_used_is_refused(rows, message):
    with pytest.raises(SplitError, match=message):
        make(rows)


def test_survival_of_the_shared_table_keeps_the_share_of_events(shared_data):
    path = shared_data / "labels/label_luad_surv.csv"
    labels = read_labels(path.read_bytes(), path.name)
    lines = "".join(f"{patient}.svs,{patient}.svs\n" for patient in labels.cells)
    cohort = read_cohort(f"slide_id,path\n{lines}".encode(), name="c.csv", base_uri="/data")
    rows = join_labels(cohort, labels).rows
    targets = targets_of(rows, SURVIVAL)
    for split in make_splits(rows, SURVIVAL, SplitOptions(), 2021):
        for part in (split.train, split.validation, split.test):
            assert abs(sum(targets[slide].event for slide in part) / len(part) - 159 / 455) < 0.03


@pytest.mark.parametrize(("num_negative", "num_positive"), [(2, 2), (3, 12), (9, 9)])
def test_the_final_split_has_every_patient_and_no_test_part(num_negative, num_positive):
    rows = cohort_of(num_negative, num_positive, slides=2)
    (split,) = splits = make(rows, scheme=SplitScheme.final, folds=7)
    check(rows, splits, with_test=False)
    assert split.test == ()
    assert splits == make(rows[::-1], scheme=SplitScheme.final, folds=3)
    assert splits != make(rows, seed=1, scheme=SplitScheme.final) or num_negative == 2


def test_the_final_split_serves_times_and_numbers_too():
    survival = [CohortRow(f"s{i}", "/x", f"p{i}", time=1.0 + i, event=i % 2 == 0) for i in range(12)]
    numbers = [CohortRow(f"s{i}", "/x", f"p{i}", label=f"{i}.5") for i in range(12)]
    for rows, task in ((survival, SURVIVAL), (numbers, REGRESSION)):
        (split,) = make_splits(rows, task, SplitOptions(scheme=SplitScheme.final), 0)
        assert len(split.train) + len(split.validation) == 12
        assert split.test == ()


def test_a_class_of_one_patient_cannot_be_in_training_and_validation():
    with pytest.raises(SplitError, match=r"class 'pos' has no patient in the validation part of fold 0; add patients"):
        make(cohort_of(5, 1), scheme=SplitScheme.final)


@pytest.mark.parametrize(
    ("rows", "folds"),
    [(cohort_of(3, 3), 2), (rows_of({"n0": ["neg"], "p0": ["pos"], "a": ["neg", "pos"], "b": ["neg", "pos"]}), 2)],
)
def test_what_too_few_patients_are_advised_works(rows, folds):
    with pytest.raises(SplitError) as refused:
        make(rows, folds=folds)
    (advised,) = re.findall(r"set (\w+)=(\w+)", str(refused.value))
    choice = {"folds": int(advised[1])} if advised[0] == "folds" else {advised[0]: SplitScheme(advised[1])}
    check(rows, make(rows, **choice))


def test_nothing_is_advised_that_does_not_work():
    with pytest.raises(SplitError, match=r"add patients with an event$") as refused:
        make_splits(survival_rows(3, 0), SURVIVAL, SplitOptions(folds=1), 0)
    assert "set " not in str(refused.value)
