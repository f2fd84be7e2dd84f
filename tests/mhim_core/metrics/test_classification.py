"""Classification metrics against scikit-learn, their undefined cases, and the patient-clustered bootstrap."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core import metrics
from mhim_core.metrics import (
    BINARY_METRICS,
    CLASSIFICATION_METRICS,
    UndefinedMetricError,
    bootstrap_interval,
    evaluate_metric,
    evaluate_predictions,
    mean_and_std,
    reliability_curve,
    roc_curve,
)


def predictions(seed: int, num_slides: int = 60, num_classes: int = 2, decimals: int = 1):
    """Truth with every class, and probabilities with many ties."""
    generator = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(num_classes), generator.integers(0, num_classes, num_slides - num_classes)])
    score = generator.normal(size=(num_slides, num_classes)) + np.eye(num_classes)[truth]
    probability = np.exp(np.round(score, decimals))
    return truth, probability / probability.sum(axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_slides=st.integers(4, 80))
def test_binary_metrics_equal_scikit_learn_with_ties(seed, num_slides):
    from sklearn import metrics as reference

    truth, probability = predictions(seed, num_slides)
    score, predicted = probability[:, 1], probability.argmax(axis=1)
    assert metrics.auroc(truth, score) == pytest.approx(reference.roc_auc_score(truth, score), abs=1e-9)
    expected = reference.average_precision_score(truth, score)
    assert metrics.average_precision(truth, score) == pytest.approx(expected, abs=1e-9)
    assert metrics.brier(truth, score) == pytest.approx(reference.brier_score_loss(truth, score), abs=1e-9)
    assert metrics.accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted), abs=1e-9)
    expected = reference.balanced_accuracy_score(truth, predicted)
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(expected, abs=1e-9)
    expected = reference.f1_score(truth, predicted, average="macro")
    assert metrics.f1_macro(truth, predicted) == pytest.approx(expected, abs=1e-9)
    expected = reference.cohen_kappa_score(truth, predicted)
    assert metrics.kappa(truth, predicted) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.2, 0.5, 0.8]))
def test_sensitivity_and_specificity_are_the_recalls_of_the_two_classes(seed, threshold):
    from sklearn.metrics import recall_score

    truth, probability = predictions(seed)
    predicted = (probability[:, 1] >= threshold).astype(int)
    assert metrics.sensitivity(truth, predicted) == pytest.approx(recall_score(truth, predicted), abs=1e-9)
    expected = recall_score(truth, predicted, pos_label=0)
    assert metrics.specificity(truth, predicted) == pytest.approx(expected, abs=1e-9)


def test_sensitivity_without_a_positive_slide_is_undefined_and_of_three_classes_refused():
    with pytest.raises(UndefinedMetricError, match="no slide is of class 1"):
        metrics.sensitivity([0, 0], [1, 0])
    assert metrics.specificity([0, 0], [1, 0]) == 0.5
    with pytest.raises(ValueError, match="two classes; class 2"):
        metrics.specificity([0, 1], [2, 0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_multiclass_metrics_equal_scikit_learn(seed):
    from sklearn import metrics as reference

    truth, probability = predictions(seed, num_classes=4)
    predicted = probability.argmax(axis=1)
    expected = reference.roc_auc_score(truth, probability, multi_class="ovr", average="macro")
    assert metrics.auroc(truth, probability) == pytest.approx(expected, abs=1e-9)
    expected = reference.average_precision_score(np.eye(4)[truth], probability, average="macro")
    assert metrics.average_precision(truth, probability) == pytest.approx(expected, abs=1e-9)
    expected = reference.f1_score(truth, predicted, average="macro")
    assert metrics.f1_macro(truth, predicted) == pytest.approx(expected, abs=1e-9)
    assert metrics.brier(truth, probability) == pytest.approx(((probability - np.eye(4)[truth]) ** 2).sum(1).mean())


def test_two_columns_and_the_positive_column_give_the_same():
    truth, probability = predictions(3)
    for name, definition in CLASSIFICATION_METRICS.items():
        if not definition.takes_classes:
            whole = evaluate_metric(name, truth, probability).value
            assert whole == pytest.approx(evaluate_metric(name, truth, probability[:, 1]).value, abs=1e-12)


def test_calibration_error_by_hand():
    # bins of 1/15: 0.9 (two slides, one right) and 0.6 (one slide, right)
    error = metrics.expected_calibration_error([1, 0, 1], [0.9, 0.9, 0.6])
    assert error == pytest.approx((2 * abs(0.5 - 0.9) + 1 * abs(1 - 0.6)) / 3)
    curve = reliability_curve([1, 0, 1], [0.9, 0.9, 0.6])
    assert curve.num_slides.sum() == 3
    assert np.nanmax(curve.accuracy) == 1.0


@pytest.mark.parametrize("name", ["auroc", "average_precision", "balanced_accuracy"])
def test_one_class_is_null_with_a_reason_and_not_a_half(name):
    value, reason = evaluate_metric(name, [1, 1, 1], [1, 0, 1])
    assert value is None
    assert reason == "all 3 slides are of class 1"


def test_an_absent_class_and_an_empty_list_are_undefined():
    with pytest.raises(UndefinedMetricError, match="class 2 has no slide"):
        metrics.auroc([0, 1, 0], np.eye(3))
    with pytest.raises(UndefinedMetricError, match="no slides"):
        metrics.accuracy([], [])
    with pytest.raises(UndefinedMetricError, match="one and the same"):
        metrics.kappa([1, 1], [1, 1])


@pytest.mark.parametrize(
    ("truth", "score", "message"),
    [
        ([0, 1], [0.1, np.nan], "NaN"),
        ([0, 1], [0.1], "2 slides and the prediction 1"),
        ([0, 2], [0.1, 0.2], "class 2"),
        ([0, 0.5], [0.1, 0.2], "class indices"),
        ([0, -1], [0.1, 0.2], "class indices"),
        ([0, np.nan], [0.1, 0.2], "class indices .*NaN"),
        ([0, np.inf], [0.1, 0.2], "class indices .*infinity"),
        ([0, None], [0.1, 0.2], "class indices"),
        (["0", "1"], [0.1, 0.2], "class indices"),
        ([0, 1], [[0.1], [0.2]], "shape"),
    ],
)
def test_wrong_input_is_refused(truth, score, message):
    with pytest.raises(ValueError, match=message):
        metrics.auroc(truth, score)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_roc_curve_encloses_the_auroc_and_equals_scikit_learn(seed):
    from sklearn import metrics as reference

    truth, probability = predictions(seed)
    curve = roc_curve(truth, probability[:, 1])
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(metrics.auroc(truth, probability), abs=1e-12)
    expected = reference.roc_curve(truth, probability[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, expected[0])
    np.testing.assert_allclose(curve.true_positive_rate, expected[1])
    np.testing.assert_array_equal(curve.thresholds, expected[2])


def test_a_roc_curve_of_three_classes_is_refused_instead_of_one_class_being_picked():
    truth, probability = predictions(3, num_classes=3)
    with pytest.raises(ValueError, match="two classes; y_score has 3"):
        roc_curve(truth, probability)
    assert len(roc_curve(truth == 2, probability[:, 2]).thresholds) > 2


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_replicate_equals_the_metric_of_the_repeated_slides(num_classes):
    """The weighted form is the plain one on a table in which slides occur as often as they were drawn."""
    truth, probability = predictions(5, 40, num_classes)
    patients = [f"p{index // 2}" for index in range(40)]
    weights = np.concatenate(list(metrics.replicate_weights(patients, 20, seed=1)))
    assert (weights.reshape(20, 20, 2).sum(axis=(1, 2)) == 40).all()
    assert (weights[:, ::2] == weights[:, 1::2]).all(), "slides of one patient are drawn together"
    definitions = dict(CLASSIFICATION_METRICS) | (dict(BINARY_METRICS) if num_classes == 2 else {})
    for name, definition in definitions.items():
        values = probability.argmax(axis=1) if definition.takes_classes else probability
        drawn = definition.kernel(weights, truth, values)
        for replicate, counts in zip(drawn, weights.astype(int), strict=True):
            repeated = evaluate_metric(name, truth.repeat(counts), values.repeat(counts, axis=0)).value
            assert repeated == pytest.approx(replicate, abs=1e-12, nan_ok=True), name


def test_intervals_hold_the_value_and_do_not_depend_on_the_order_of_slides():
    truth, probability = predictions(7, 50)
    patients = [f"p{index // 3}" for index in range(50)]
    interval = bootstrap_interval("auroc", truth, probability, patients, seed=1)
    assert interval.low < metrics.auroc(truth, probability) < interval.high
    order = np.random.default_rng(0).permutation(50)
    shuffled = bootstrap_interval("auroc", truth[order], probability[order], [patients[i] for i in order], seed=1)
    assert shuffled == pytest.approx(interval, abs=1e-12)
    assert bootstrap_interval("auroc", truth, probability, patients, seed=2) != interval


def test_clustering_by_patient_widens_the_interval_of_repeated_slides():
    truth, probability = predictions(11, 30)
    truth, probability = truth.repeat(4), probability.repeat(4, axis=0)
    clustered = bootstrap_interval("auroc", truth, probability, [f"p{index // 4}" for index in range(120)])
    single = bootstrap_interval("auroc", truth, probability, [f"p{index}" for index in range(120)])
    assert clustered.high - clustered.low > 1.5 * (single.high - single.low)


def test_replicates_without_a_class_are_dropped_and_counted():
    # two patients, one of each class: half of the replicates draw one patient twice
    interval = bootstrap_interval("auroc", [0, 1], [0.2, 0.7], ["a", "b"], replicates=1000)
    assert interval.low == interval.high == 1.0
    assert 400 < interval.num_undefined < 600
    assert bootstrap_interval("auroc", [1, 1], [0.2, 0.7], ["a", "b"], replicates=10) == (None, None, 10)


def test_evaluate_predictions_gives_every_metric_and_reasons_for_nulls():
    truth, probability = predictions(13, 30)
    patients = [f"p{index}" for index in range(30)]
    estimates = evaluate_predictions(truth, probability, patients, replicates=200)
    assert list(estimates) == list(CLASSIFICATION_METRICS)
    interval = bootstrap_interval("auroc", truth, probability, patients, replicates=200)
    assert (estimates["auroc"].low, estimates["auroc"].high) == interval[:2]
    nulls = evaluate_predictions([1, 1], [0.9, 0.4], ["a", "b"], replicates=10)
    assert nulls["auroc"].value is None
    assert nulls["auroc"].reason == "all 2 slides are of class 1"
    assert nulls["accuracy"].value == 0.5
    of_decisions = evaluate_predictions(truth, probability, patients, y_pred=truth, replicates=10)
    assert of_decisions["accuracy"].value == 1.0


@pytest.mark.parametrize("num_slides", [24, 2000])
def test_two_thousand_replicates_take_under_two_seconds(num_slides):
    truth, probability = predictions(17, num_slides, decimals=6)
    start = time.process_time()
    evaluate_predictions(truth, probability, [f"p{index}" for index in range(num_slides)])
    assert time.process_time() - start < 4.0  # of processor time, on a shared machine; about 1 s alone


def test_mean_and_std_leave_out_folds_without_a_value():
    assert mean_and_std([0.5, None, 0.7]) == pytest.approx((0.6, 0.1 * 2**0.5, 2))
    assert mean_and_std([0.5]) == (0.5, None, 1)
    assert mean_and_std([None]) == (None, None, 0)
