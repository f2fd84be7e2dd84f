"""Which fits a command consists of."""

import pytest

from mhim_core.errors import ConfigError, SplitError
from mhim_core.fingerprint import fingerprint
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, plan_fits
from mhim_core.types import BagId

TASK = Task(kind=TaskKind.classification, classes=("no", "yes"))


def fold(number: int, train: str = "abcd", validation: str = "ef") -> FoldBags:
    bags = {name: LabelledBag(BagId(name), ClassTarget(index % 2)) for index, name in enumerate("abcdef")}
    return FoldBags(number, tuple(bags[name] for name in train), tuple(bags[name] for name in validation))


def test_every_teacher_precedes_its_student_and_is_of_its_fold() -> None:
    fits = plan_fits([fold(0), fold(1)], Stage.mhim, TASK, [7])
    assert [fit.name for fit in fits] == [
        "seed-7/fold-0/plain",
        "seed-7/fold-0/mhim",
        "seed-7/fold-1/plain",
        "seed-7/fold-1/mhim",
    ]
    assert [fit.teacher for fit in fits] == [None, "seed-7/fold-0/plain", None, "seed-7/fold-1/plain"]
    assert {fit.seed for fit in fits} == {7}


def test_the_plain_method_has_one_stage() -> None:
    assert [fit.stage for fit in plan_fits([fold(0)], Stage.plain, TASK, [7])] == [Stage.plain]


def test_the_order_of_rows_does_not_matter() -> None:
    assert plan_fits([fold(0, "abcd")], Stage.mhim, TASK, [7]) == plan_fits([fold(0, "dcba")], Stage.mhim, TASK, [7])


@pytest.mark.parametrize(
    ("train", "validation", "sentence"),
    [
        ("abcd", "", "validation"),
        ("", "ef", "training"),
        ("abcd", "de", "twice.*d"),
        ("aab", "ef", "twice.*a"),
        ("ac", "ef", r"no training bag of the classes with index \[1\]"),
    ],
)
def test_unusable_folds_are_refused(train: str, validation: str, sentence: str) -> None:
    with pytest.raises(SplitError, match=sentence):
        plan_fits([fold(0, train, validation)], Stage.mhim, TASK, [7])


def test_labels_outside_the_classes_and_a_single_class_are_refused() -> None:
    strange = FoldBags(0, (*fold(0).train, LabelledBag(BagId("x"), ClassTarget(2))), fold(0).validation)
    with pytest.raises(SplitError, match="class indices"):
        plan_fits([strange], Stage.mhim, TASK, [7])
    with pytest.raises(ConfigError, match="at least 2"):
        Task(kind=TaskKind.classification, classes=("only",))


def test_repeated_fold_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeat"):
        plan_fits([fold(0), fold(0)], Stage.mhim, TASK, [7])


def test_weights_go_with_their_bags_into_both_stages_and_are_part_of_what_identifies_a_fit() -> None:
    weights = {BagId(name): weight for name, weight in zip("abcd", (0.0, 1.0, 2.0, 3.0), strict=True)}
    plain, student = plan_fits([fold(0, "dcba")._replace(weights=weights)], Stage.mhim, TASK, [7])
    assert [bag.bag_id for bag in plain.train] == ["a", "b", "c", "d"]
    assert plain.weights == student.weights == (0.0, 1.0, 2.0, 3.0)
    even = plan_fits([fold(0)], Stage.mhim, TASK, [7])[0]
    assert fingerprint(plain) != fingerprint(even)
    assert even.weights == ()


@pytest.mark.parametrize("weights", ["", "abc", "abcX", "Ab0d0", "-bcd"])
def test_weights_that_cannot_be_drawn_by_are_refused(weights: str) -> None:
    """Missing, of another bag, none above 0, a class with none above 0, negative."""
    of = {
        "": dict.fromkeys("abcd", 0.0),
        "abc": dict.fromkeys("abc", 1.0),
        "abcX": dict.fromkeys("abcX", 1.0),
        "Ab0d0": {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0},
        "-bcd": {"a": -1.0, "b": 1.0, "c": 1.0, "d": 1.0},
    }[weights]
    with pytest.raises(SplitError, match=r"weight|drawn"):
        plan_fits(
            [fold(0)._replace(weights={BagId(name): value for name, value in of.items()})], Stage.plain, TASK, [7]
        )
