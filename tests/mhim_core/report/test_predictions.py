"""One prediction a bag: the mean over seeds; the worst first, by a measure that fits the task."""

import numpy as np
import pytest

from mhim_core.metrics import harrell_c
from mhim_core.report.data import ClassOutput, NumberOutput, Prediction, RiskOutput
from mhim_core.report.predictions import errors_of, mean_predictions, sort_by_error


def predictions(*outputs) -> list[Prediction]:
    return [Prediction(f"s{index}", f"p{index}", output) for index, output in enumerate(outputs)]


def test_several_seeds_give_their_mean_and_its_spread(evaluated):
    run = evaluated("binary", seeds=3)
    rows = run.of_model("mhim")
    listed = mean_predictions(rows, run.task, {"s03": 4})
    assert [prediction.bag_id for prediction in listed] == sorted({row.bag_id for row in rows})
    assert [prediction.num_slides for prediction in listed[2:5]] == [1, 4, 1]
    for prediction in listed:
        of_bag = np.array([row.probabilities for row in rows if row.bag_id == prediction.bag_id])
        assert of_bag.shape == (3, 2)
        np.testing.assert_allclose(prediction.output.probabilities, of_bag.mean(axis=0))
        np.testing.assert_allclose(prediction.output.spread, of_bag.std(axis=0))
        assert prediction.output.predicted == ("normal", "tumour")[int(of_bag.mean(axis=0).argmax())]


@pytest.mark.parametrize("kind", ["binary", "survival", "regression"])
def test_one_seed_has_no_spread(evaluated, kind):
    run = evaluated(kind)
    assert not any(prediction.output.spread for prediction in mean_predictions(run.of_model("mhim"), run.task))


def test_risks_and_numbers_are_means_too(evaluated):
    for kind in ("survival", "regression"):
        run = evaluated(kind, seeds=2)
        rows = [row for row in run.of_model("mhim") if row.bag_id == "s05"]
        prediction = next(
            prediction for prediction in mean_predictions(run.of_model("mhim"), run.task) if prediction.bag_id == "s05"
        )
        values = [row.risk if kind == "survival" else row.value for row in rows]
        shown = prediction.output.risk if kind == "survival" else prediction.output.predicted
        assert shown == pytest.approx(np.mean(values))
        assert prediction.output.spread == pytest.approx(np.std(values))


def test_a_risks_error_is_the_share_of_known_pairs_in_the_wrong_order():
    listed = predictions(
        RiskOutput(5.0, True, 0.9),
        RiskOutput(5.0, False, 0.95),  # censored when s0 died: it lived on, yet its risk is higher
        RiskOutput(8.0, False, 0.1),
        RiskOutput(2.0, True, 0.1),  # first to die, but with the lowest risk, which s2 has as well
        RiskOutput(None, None, 0.5),
        RiskOutput(1.0, False, 0.7),  # left before anyone died: nothing is known
    )
    # s0: s1 wrong, s2 right, s3 wrong; s1: s0, s3 wrong; s2: s0 right, s3 tied; s3: s0, s1 wrong, s2 tied
    assert errors_of(listed) == [pytest.approx(2 / 3), 1.0, 0.25, pytest.approx(2.5 / 3), None, None]
    assert [row.prediction.bag_id for row in sort_by_error(listed)] == ["s1", "s3", "s0", "s2", "s5", "s4"]


def test_the_misplaced_pairs_of_all_bags_are_what_harrells_c_leaves():
    draw = np.random.default_rng(3)
    time, event = draw.integers(1, 12, 40).astype(float), draw.random(40) < 0.6
    risk = np.round(draw.normal(size=40), 1)
    shares = errors_of(
        predictions(*(RiskOutput(*values_of_bag) for values_of_bag in zip(time, event.tolist(), risk, strict=True)))
    )
    later = (time[None] > time[:, None]) | ((time[None] == time[:, None]) & ~event[None])
    comparable = event[:, None] & later
    num_pairs = (comparable | comparable.T).sum(axis=1)
    wrong = sum(number * share for number, share in zip(num_pairs, shares, strict=True) if share is not None)
    assert wrong / num_pairs.sum() == pytest.approx(1 - harrell_c(time, event, risk))


def test_numbers_are_sorted_by_the_size_of_the_error_and_keep_its_sign():
    listed = predictions(NumberOutput(10.0, 12.0), NumberOutput(10.0, 3.0), NumberOutput(None, 99.0))
    rows = sort_by_error(listed)
    assert [(row.prediction.bag_id, row.error) for row in rows] == [("s1", -7.0), ("s0", 2.0), ("s2", None)]


def test_a_label_that_is_no_class_has_no_error():
    outputs = (
        ClassOutput("odd", "a", (0.6, 0.4)),
        ClassOutput(None, "a", (0.7, 0.3)),
        ClassOutput("b", "a", (0.6, 0.4)),
    )
    rows = sort_by_error(predictions(*outputs), ("a", "b"))
    assert [(row.prediction.bag_id, row.error) for row in rows] == [("s2", 0.6), ("s0", None), ("s1", None)]


def test_a_bag_that_several_folds_hold_out_is_listed_once_a_fold(evaluated):
    run = evaluated("binary", seeds=2)
    rows = run.of_model("mhim")
    again = [row._replace(fold=3, logits=(9.0, 0.0)) for row in rows if row.bag_id in ("s01", "s05")]
    listed = mean_predictions([*again, *rows], run.task)
    assert len(listed) == 26
    assert [(prediction.bag_id, prediction.fold) for prediction in listed if prediction.bag_id in ("s01", "s05")] == [
        ("s01", 1), ("s01", 3), ("s05", 2), ("s05", 3),
    ]  # fmt: skip
    assert [prediction for prediction in listed if prediction.fold != 3] == list(mean_predictions(rows, run.task))
    assert all(
        prediction.output.predicted == "normal" and prediction.output.spread == (0.0, 0.0)
        for prediction in listed
        if prediction.fold == 3
    )
