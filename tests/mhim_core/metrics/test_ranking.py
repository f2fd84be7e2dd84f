"""Scores to order slides by: the order of the logits, also where probabilities are all the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core import metrics
from mhim_core.metrics import ranking_scores


def softmax(logits):
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def test_slides_that_float64_calls_certain_keep_their_order():
    truth = [0, 0, 0, 0, 1, 1, 1, 1]
    logits = np.stack([np.zeros(8), np.arange(40.0, 48.0)], axis=1)
    assert metrics.auroc(truth, softmax(logits)) == 0.5, "the probabilities tie"
    scores = ranking_scores(logits)
    assert metrics.auroc(truth, scores) == metrics.average_precision(truth, scores) == 1.0
    np.testing.assert_array_equal(scores[:, 1], np.arange(40.0, 48.0))
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])
    test = metrics.delong(truth, scores, -scores)
    assert (test.auc_a, test.auc_b) == (1.0, 0.0)
    assert metrics.roc_curve(truth, scores).true_positive_rate[-2] == 1.0


def test_of_several_classes_each_is_ordered_against_the_rest():
    # class 2 is certain everywhere, and more so in its own slides
    truth = [0, 1, 0, 1, 2, 2]
    logits = np.array([[1, 0, 40], [0, 1, 41], [1, 0, 42], [0, 1, 43], [0, 0, 60], [0, 0, 70.0]])
    assert metrics.auroc(truth, ranking_scores(logits)) > metrics.auroc(truth, softmax(logits))
    assert metrics.auroc(np.array(truth) == 2, ranking_scores(logits)[:, 2]) == 1.0
    assert metrics.auroc(np.array(truth) == 2, softmax(logits)[:, 2]) == 0.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_they_are_the_log_odds_of_the_probabilities(seed, classes):
    logits = np.random.default_rng(seed).normal(scale=3, size=(20, classes))
    probability = softmax(logits)
    np.testing.assert_allclose(ranking_scores(logits), np.log(probability / (1 - probability)), rtol=1e-6, atol=1e-9)


def test_the_other_metrics_do_not_look_at_the_ranking():
    truth, logits = [0, 1, 1, 0], np.array([[0, 40.0], [0, 50.0], [0, 60.0], [0, 55.0]])
    patients = list("abcd")
    plain = metrics.evaluate_predictions(truth, softmax(logits), patients, replicates=20)
    ranked = metrics.evaluate_predictions(
        truth, softmax(logits), patients, ranking=ranking_scores(logits), replicates=20
    )
    assert (plain["auroc"].value, ranked["auroc"].value) == (0.5, 1.0 - 1 / 4)
    assert [name for name in plain if plain[name] != ranked[name]] == list(metrics.RANKING_METRICS)


@pytest.mark.parametrize("logits", [[1.0, 2.0], [[1.0], [2.0]], np.zeros((2, 2, 2))])
def test_other_shapes_are_refused(logits):
    with pytest.raises(ValueError, match="C ≥ 2"):
        ranking_scores(logits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_row_that_is_not_finite_is_refused_by_the_metrics(bad, classes):
    logits = np.zeros((2, classes))
    logits[1, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.auroc([0, 1], ranking_scores(logits))
