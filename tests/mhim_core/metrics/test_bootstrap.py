"""Metrics bound to their rows: means over seeds, paired replicates."""

import numpy as np
import pytest

from mhim_core import metrics

TRUTH = np.arange(30) % 2
PATIENTS = [f"p{index // 2}" for index in range(30)]


def scores(seed: int) -> np.ndarray:
    return TRUTH + np.random.default_rng(seed).normal(size=30)


def bound(score) -> dict:
    return metrics.bind_classification(TRUTH, score, names=["auroc"])


def test_a_mean_over_seeds_is_the_mean_in_every_replicate():
    seeds = [bound(scores(seed))["auroc"] for seed in range(3)]
    mean = metrics.mean_of(seeds)
    assert mean.metric.value == pytest.approx(np.mean([scored.metric.value for scored in seeds]))
    together = metrics.replicate_values({"mean": mean}, PATIENTS, replicates=50)["mean"]
    apart = [metrics.replicate_values({"one": scored}, PATIENTS, replicates=50)["one"] for scored in seeds]
    np.testing.assert_allclose(together, np.mean(apart, axis=0))


def test_a_mean_is_undefined_where_one_of_its_parts_is():
    part = metrics.bind_classification([1, 1], [0.2, 0.3], names=["auroc"])["auroc"]
    mean = metrics.mean_of([part, part])
    assert mean.metric == (None, "all 2 slides are of class 1")
    assert metrics.estimate({"auroc": mean}, ["a", "b"])["auroc"].low is None


def test_the_same_seed_draws_the_same_patients_for_every_metric():
    both = metrics.replicate_values({"a": bound(scores(0))["auroc"], "b": bound(scores(0))["auroc"]}, PATIENTS)
    np.testing.assert_array_equal(both["a"], both["b"])
    alone = metrics.replicate_values({"a": bound(scores(0))["auroc"]}, PATIENTS)
    np.testing.assert_array_equal(both["a"], alone["a"])


def test_no_replicates_give_values_without_intervals():
    estimate = metrics.estimate(bound(scores(0)), PATIENTS, replicates=0)["auroc"]
    assert estimate.value is not None
    assert (estimate.low, estimate.high, estimate.num_undefined) == (None, None, 0)
