"""The task, the targets and the bags that a table gives."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import BagUnit, TaskName, TaskOptions
from mhim_core.cohort.tasks import bags_in, infer_task, make_bags, targets_of
from mhim_core.errors import CohortError, ConfigError
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget

SURVIVAL = Task(kind=TaskKind.survival)
REGRESSION = Task(kind=TaskKind.regression)
CLASSES = Task(kind=TaskKind.classification, classes=("neg", "pos"))


def labelled(*labels):
    return [CohortRow(f"s{index}", "/x", f"p{index}", label) for index, label in enumerate(labels)]


def followed(*survival):
    return [CohortRow(f"s{i}", "/x", f"p{i}", time=time, event=event) for i, (time, event) in enumerate(survival)]


def infer(rows, **options):
    return infer_task(rows, TaskOptions(**options))


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (("1", "0", None), TaskKind.classification, ("0", "1")),
        (("tumour", "normal"), TaskKind.classification, ("normal", "tumour")),
        (("1.0", "2"), TaskKind.classification, ("1.0", "2")),
        (tuple(map(str, range(20))), TaskKind.classification, tuple(map(str, range(20)))),
        (tuple(map(str, range(21))), TaskKind.regression, ()),
        (("1", "2.5"), TaskKind.regression, ()),
        (("1", "2.5", "NA"), TaskKind.classification, ("1", "2.5", "NA")),
        (("1", "2.5", "high"), TaskKind.classification, ("1", "2.5", "high")),
        (("NA", "unknown"), TaskKind.classification, ("NA", "unknown")),
    ],
)
def test_the_task_follows_from_the_labels(labels, kind, classes):
    inferred = infer(labelled(*labels))
    assert (inferred.task.kind, inferred.task.classes) == (kind, classes)
    assert len(inferred.notes) == 1
    assert kind in inferred.notes[0]


def test_times_and_events_are_the_task_where_there_is_no_label_and_a_note_where_there_is():
    rows = followed((1.0, True), (2.0, False))
    assert infer(rows, time_bins=3).task == Task(kind=TaskKind.survival, time_bins=3)
    both = [row._replace(label=str(index)) for index, row in enumerate(rows)]
    inferred = infer(both)
    assert inferred.task.kind is TaskKind.classification
    assert "task=survival uses them" in inferred.notes[0]
    assert infer(both, task=TaskName.survival).task.kind is TaskKind.survival


def test_a_named_task_is_taken_as_named():
    rows = labelled(*map(str, range(30)))
    assert infer(rows, task=TaskName.classification).task.num_outputs == 30
    assert infer(labelled("1", "0"), task=TaskName.regression).task.kind is TaskKind.regression


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (labelled(None), {}, "nothing to train on"),
        (labelled("1", "0"), {"task": TaskName.survival}, "no slide has both a time and an event"),
        (followed((1.0, None), (None, True)), {"task": TaskName.survival}, "no slide has both"),
        (followed((1.0, True)), {"task": TaskName.regression}, "task=regression: no slide has a label"),
        (labelled("a", "a", None), {}, "every labelled slide .2. is of class 'a'; two classes are needed"),
    ],
)
def test_a_table_that_lacks_what_the_task_needs_is_refused(rows, options, message):
    with pytest.raises(CohortError, match=message):
        infer(rows, **options)


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"^time_bins=1 "):
        TaskOptions(time_bins=1)


def test_targets_are_of_the_task_and_slides_without_one_are_left_out():
    assert targets_of(labelled("pos", None, "neg"), CLASSES) == {"s0": ClassTarget(1), "s2": ClassTarget(0)}
    assert targets_of(labelled("1.5", None, "-2e3"), REGRESSION) == {"s0": ValueTarget(1.5), "s2": ValueTarget(-2000)}
    survival = targets_of(followed((0.0, True), (None, None), (3.0, False)), SURVIVAL)
    assert survival == {"s0": SurvivalTarget(0.0, True), "s2": SurvivalTarget(3.0, False)}


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        (followed((1.0, None)), SURVIVAL, "row 0, slide 's0': it has a time but no event"),
        (followed((None, False)), SURVIVAL, "it has an event but no time"),
        (labelled("rare"), CLASSES, "label 'rare' is none of the classes 'neg', 'pos'"),
        (labelled("NA"), REGRESSION, "label 'NA' is no number; leave the cell empty"),
        (labelled("inf"), REGRESSION, "label 'inf' is no number"),
        (labelled(*["x"] * 30), REGRESSION, "30 of the slides .*\n.*\n(.*\n)*  … and 20 more"),
    ],
)
def test_rows_without_a_usable_target_are_listed(rows, task, message):
    with pytest.raises(CohortError, match=message):
        targets_of(rows, task)


def patients(**slides_of):
    """p1=("pos", 2) → two slides of that label."""
    return [
        CohortRow(f"{patient}_{index}", "/x", patient, label, site=f"site {patient}")
        for patient, (label, count) in slides_of.items()
        for index in range(count)
    ]


def test_a_bag_a_slide_has_the_slides_own_id():
    bags = make_bags(patients(p10=("pos", 1), p2=("neg", 2)), CLASSES, BagUnit.slide)
    assert [bag.bag_id for bag in bags] == ["p2_0", "p2_1", "p10_0"]
    assert all(bag.slide_ids == (bag.bag_id,) for bag in bags)
    assert bags[0] == ("p2_0", "p2", "site p2", ("p2_0",), ClassTarget(0))


def test_a_bag_a_patient_holds_all_of_its_slides_in_natural_order():
    rows = [*patients(a=("pos", 12), b=("neg", 1)), CohortRow("a_bare", "/x", "a")]
    random.Random(0).shuffle(rows)
    bags = make_bags(rows, CLASSES, BagUnit.patient)
    assert [bag.bag_id for bag in bags] == ["a", "b"]
    assert bags[0].slide_ids == tuple(f"a_{index}" for index in range(12)), "the unlabelled slide is in none"
    assert bags[0].target == ClassTarget(1)


def test_a_patient_of_several_sites_is_of_none():
    rows = patients(a=("pos", 2))
    rows[1] = rows[1]._replace(site="elsewhere")
    assert [bag.site for bag in make_bags(rows, CLASSES, BagUnit.patient)] == [None]
    assert [bag.site for bag in make_bags(rows, CLASSES, BagUnit.slide)] == ["site a", "elsewhere"]


def test_slides_of_one_patient_may_share_a_time_and_must_do_so_in_one_bag():
    rows = [
        CohortRow(f"s{index}", "/x", patient, time=time, event=True)
        for index, (patient, time) in enumerate([("a", 1.0), ("a", 1.0), ("b", 2.0), ("b", 3.0)])
    ]
    assert len(make_bags(rows, SURVIVAL, BagUnit.slide)) == 4
    (bag,) = make_bags(rows[:2], SURVIVAL, BagUnit.patient)
    assert bag.target == SurvivalTarget(1.0, True)
    with pytest.raises(CohortError, match=r"slides of 1 patients have different targets: 'b'; .* set bags=slide"):
        make_bags(rows, SURVIVAL, BagUnit.patient)


@pytest.mark.parametrize("patient", ["../a", "a/b", "p 1", "x" * 200])
def test_a_patient_whose_id_cannot_name_a_file_cannot_be_a_bag(patient):
    rows = [CohortRow("s", "/x", patient, "pos")]
    assert make_bags(rows, CLASSES, BagUnit.slide)[0].patient_id == patient
    with pytest.raises(CohortError, match="patient ids name the bags"):
        make_bags(rows, CLASSES, BagUnit.patient)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["neg", None])), max_size=30), st.sampled_from(BagUnit))
def test_every_slide_with_a_target_is_in_exactly_one_bag(cells, unit):
    rows = [CohortRow(f"s{index}", "/x", f"p{patient}", label) for index, (patient, label) in enumerate(cells)]
    bags = make_bags(rows, CLASSES, unit)
    held = [slide_id for bag in bags for slide_id in bag.slide_ids]
    assert sorted(held) == sorted(row.slide_id for row in rows if row.label is not None)
    assert len({bag.bag_id for bag in bags}) == len(bags)


def test_the_bags_of_a_part_are_those_of_its_slides():
    bags = make_bags(patients(a=("pos", 2), b=("neg", 1)), CLASSES, BagUnit.patient)
    assert [bag.bag_id for bag in bags_in(bags, ("a_0", "a_1"))] == ["a"]
    assert bags_in(bags, ()) == ()
