"""What the worklist says of predictions of every task."""

import pytest

from mhim_core.evaluation.held_out import HeldOut
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget
from mhim_core.view.outcomes import held_out_outcomes, new_bag_outcome, target_words

CLASSES = Task(kind=TaskKind.classification, classes=("a", "b", "c"))
SURVIVAL = Task(kind=TaskKind.survival, classes=(), time_bins=2)
NUMBER = Task(kind=TaskKind.regression, classes=())


def test_a_bag_held_out_by_several_fits_has_their_mean_and_deviation() -> None:
    logits = [(5.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    rows = [HeldOut("mhim", seed, seed, "s", "p", None, ClassTarget(0), logits[seed]) for seed in (0, 1)]
    outcome = held_out_outcomes(rows, CLASSES)["s"]
    assert sum(outcome.values) == pytest.approx(1)
    assert outcome.predicted == "a"
    assert outcome.error == pytest.approx(1 - outcome.values[0])
    assert outcome.spread[0] == pytest.approx(abs(rows[0].probabilities[0] - rows[1].probabilities[0]) / 2)
    assert (outcome.num_models, outcome.folds) == (2, (0, 1))
    assert held_out_outcomes(rows[:1], CLASSES)["s"].spread == ()


def test_a_risk_has_no_class_and_no_error() -> None:
    row = HeldOut("plain", 0, 0, "s", "p", None, SurvivalTarget(12.0, True), (0.0, 0.0))
    outcome = held_out_outcomes([row], SURVIVAL)["s"]
    assert outcome.values == pytest.approx((-0.75,))
    assert (outcome.predicted, outcome.error) == (None, None)


def test_the_error_of_a_number_is_its_distance() -> None:
    row = HeldOut("plain", 0, 0, "s", "p", None, ValueTarget(3.0), (1.0,))
    assert held_out_outcomes([row], NUMBER)["s"].error == 2


def test_a_row_of_predict_is_taken_as_it_is() -> None:
    line = {"label": "b", "predicted": "a", "num_models": 5}
    line |= {f"probability_{name}": value for name, value in zip("abc", (0.5, 0.3, 0.2), strict=True)}
    line |= {f"spread_{name}": 0.1 for name in "abc"}
    outcome = new_bag_outcome(line, CLASSES)
    assert (outcome.values, outcome.spread, outcome.predicted) == ((0.5, 0.3, 0.2), (0.1, 0.1, 0.1), "a")
    assert outcome.error == pytest.approx(0.7)
    assert new_bag_outcome(line | {"label": "z", "num_models": 1}, CLASSES).error is None
    risk = new_bag_outcome({"risk": -1.0, "risk_spread": 0.2, "num_models": 3}, SURVIVAL)
    assert (risk.values, risk.spread, risk.error) == ((-1.0,), (0.2,), None)
    number = {"prediction": 1.0, "prediction_spread": 0.0, "num_models": 1, "label": "3.5"}
    assert new_bag_outcome(number, NUMBER).error == 2.5
    assert new_bag_outcome(number | {"label": "none"}, NUMBER).error is None


def test_targets_in_words() -> None:
    assert target_words(ClassTarget(1), ("a", "b")) == "b"
    assert target_words(SurvivalTarget(12.5, True), ()) == "event at 12.5"
    assert target_words(SurvivalTarget(12.0, False), ()) == "censored at 12"
    assert target_words(ValueTarget(0.25), ()) == "0.25"
