"""Which fits a command consists of."""

import pytest

from mhim_core.errors import ConfigError, SplitError
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, plan_fits
from mhim_core.types import BagId


def fold(number: int, train: str = "abcd", validation: str = "ef") -> FoldBags:
    bags = {name: LabelledBag(BagId(name), index % 2) for index, name in enumerate("abcdef")}
    return FoldBags(number, tuple(bags[name] for name in train), tuple(bags[name] for name in validation))


def test_every_teacher_precedes_its_student_and_is_of_its_fold() -> None:
    fits = plan_fits([fold(0), fold(1)], Stage.mhim, 2, 7)
    assert [fit.name for fit in fits] == ["fold-0/plain", "fold-0/mhim", "fold-1/plain", "fold-1/mhim"]
    assert [fit.teacher for fit in fits] == [None, "fold-0/plain", None, "fold-1/plain"]
    assert {fit.seed for fit in fits} == {7}


def test_the_plain_method_has_one_stage() -> None:
    assert [fit.stage for fit in plan_fits([fold(0)], Stage.plain, 2, 7)] == [Stage.plain]


def test_the_order_of_rows_does_not_matter() -> None:
    assert plan_fits([fold(0, "abcd")], Stage.mhim, 2, 7) == plan_fits([fold(0, "dcba")], Stage.mhim, 2, 7)


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
        plan_fits([fold(0, train, validation)], Stage.mhim, 2, 7)


def test_labels_outside_the_classes_and_a_single_class_are_refused() -> None:
    with pytest.raises(SplitError, match="label indices"):
        plan_fits([FoldBags(0, (*fold(0).train, LabelledBag(BagId("x"), 2)), fold(0).validation)], Stage.mhim, 2, 7)
    with pytest.raises(ConfigError, match="at least 2"):
        plan_fits([fold(0)], Stage.mhim, 1, 7)


def test_repeated_fold_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeat"):
        plan_fits([fold(0), fold(0)], Stage.mhim, 2, 7)
