"""Paired differences: the same draws for both, DeLong where it applies, refusals that name the bags."""

import numpy as np
import pytest

from mhim_core import metrics
from mhim_core.errors import InputError
from mhim_core.evaluation.comparison import BOOTSTRAP, DELONG, FOLDS, compare
from mhim_core.evaluation.held_out import class_probabilities, class_targets
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.evaluation.summary import summarise
from mhim_core.task import ClassTarget


def named(differences):
    return {(difference.a, difference.b, difference.metric): difference for difference in differences}


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "regression"])
def test_every_pair_and_metric_has_a_difference_with_an_interval(make, kind):
    good, poor, worse = (make(kind, noise=noise) for noise in (0.3, 2.0, 4.0))
    rows = {"good": good.test, "poor": poor.test, "worse": worse.test}
    train = dict.fromkeys(rows, good.train_targets)
    differences = compare(rows, good.task, train_targets=train, replicates=200)
    names = list(metrics_of(good.task.kind))
    pairs = [("good", "poor"), ("good", "worse"), ("poor", "worse")]
    assert [(difference.a, difference.b, difference.metric) for difference in differences] == [
        (*pair, name) for pair in pairs for name in names
    ]
    for difference in differences[: len(names)]:
        assert difference.difference == pytest.approx(difference.value_a - difference.value_b, abs=1e-12)
        assert difference.low < difference.difference < difference.high
        better = 1 if metrics.METRICS[difference.metric].higher_is_better else -1
        assert better * difference.difference > 0, difference.metric
        assert difference.reason == ""
        assert (
            (difference.p is not None)
            == (difference.method == DELONG)
            == (kind == "binary" and difference.metric == "auroc")
        )


def test_delong_is_that_of_the_metrics(make):
    data, other = make("binary", noise=0.5), make("binary", noise=1.5)
    difference = named(compare({"a": data.test, "b": other.test}, data.task, replicates=50))["a", "b", "auroc"]
    truth = class_targets(data.test)
    expected = metrics.delong(truth, class_probabilities(data.test), class_probabilities(other.test))
    assert (difference.low, difference.high, difference.p) == pytest.approx(
        (expected.low, expected.high, expected.p), abs=1e-12
    )
    assert (difference.value_a, difference.value_b) == pytest.approx((expected.auc_a, expected.auc_b), abs=1e-12)


def test_bags_are_ranked_by_logits_in_delong_and_in_the_bootstrap(make):
    data = make("binary")
    a = [row._replace(logits=(0.0, 40.0 + 7 * row.target.class_index + i / 60)) for i, row in enumerate(data.test)]
    b = [row._replace(logits=(0.0, 40.0 + i / 60)) for i, row in enumerate(data.test)]
    difference = named(compare({"a": a, "b": b}, data.task, replicates=50))["a", "b", "auroc"]
    assert difference.method == DELONG
    assert difference.value_a == 1.0
    assert difference.value_b not in (0.5, 1.0)
    assert difference.low < difference.difference < difference.high
    twice = {name: [*rows, *(row._replace(seed=1) for row in rows)] for name, rows in {"a": a, "b": b}.items()}
    drawn = named(compare(twice, data.task, replicates=50))["a", "b", "auroc"]
    assert (drawn.method, drawn.value_a, drawn.value_b) == (BOOTSTRAP, 1.0, difference.value_b)


def held_out_again(rows):
    """Every third bag is in fold 3's test part as well."""
    return [*rows, *(row._replace(fold=3) for row in rows if int(row.bag_id[1:]) % 3 == 0)]


@pytest.mark.parametrize("kind", ["binary", "survival"])
def test_where_folds_hold_out_a_bag_again_folds_are_paired_and_there_is_no_interval(make, kind):
    good, poor = make(kind, noise=0.3, seeds=2), make(kind, noise=2.0)
    rows = {"good": held_out_again(good.test), "poor": held_out_again(poor.test)}
    train = good.train_targets | {3: good.train_targets[0]}
    differences = compare(rows, good.task, train_targets=dict.fromkeys(rows, train), replicates=50)
    assert [difference.metric for difference in differences] == list(metrics_of(good.task.kind))
    for difference in differences:
        assert (difference.method, difference.low, difference.high, difference.p, difference.reason) == (
            FOLDS,
            None,
            None,
            None,
            "",
        )
        better = 1 if metrics.METRICS[difference.metric].higher_is_better else -1
        assert better * difference.difference > 0
        assert difference.difference == difference.value_a - difference.value_b
    for name, value in (("good", differences[0].value_a), ("poor", differences[0].value_b)):
        document = summarise(rows[name], [], good.task, train_targets=train, replicates=0)["models"]["mhim"]
        assert value == pytest.approx(document["over_folds"][differences[0].metric]["mean"], abs=1e-12)


def test_folds_in_which_one_model_has_no_value_count_for_neither(make):
    data = make("binary")
    one_class = [row for row in held_out_again(data.test) if row.fold or row.target.class_index]
    difference = named(compare({"a": one_class, "b": one_class}, data.task))["a", "b", "auroc"]
    document = summarise(one_class, [], data.task, replicates=0)["models"]["mhim"]["over_folds"]["auroc"]
    assert document["num"] == 3
    assert (difference.value_a, difference.difference) == (pytest.approx(document["mean"]), 0.0)
    never = [row for row in one_class if row.target.class_index]
    null = named(compare({"a": never, "b": never}, data.task))["a", "b", "auroc"]
    assert (null.value_a, null.difference, null.method) == (None, None, FOLDS)
    assert "are of class 1" in null.reason


def test_repeated_folds_that_are_not_the_same_are_refused(make):
    data = make("binary")
    again = held_out_again(data.test)
    with pytest.raises(InputError, match=r"bags in several folds, and not in the same folds \(\[0, 1, 2, 3\] and "):
        compare({"a": again, "b": data.test}, data.task)
    other = [row._replace(fold=(row.fold + 1) % 4) for row in again]
    with pytest.raises(InputError, match=r"a and b were not judged on the same bags in fold 1: 20 only in a"):
        compare({"a": again, "b": other}, data.task)


def test_several_seeds_or_slides_of_a_patient_take_the_bootstrap(make):
    for options in ({"seeds": 2}, {"slides_per_patient": 2}):
        data, other = make("binary", **options), make("binary", noise=1.5, **options)
        difference = named(compare({"a": data.test, "b": other.test}, data.task, replicates=50))["a", "b", "auroc"]
        assert (difference.method, difference.p) == (BOOTSTRAP, None)


def test_the_bootstrap_draws_the_same_patients_for_both_and_averages_over_seeds(make):
    data, other = make("binary", seeds=2), make("binary", seeds=3, noise=1.5)
    difference = named(compare({"a": data.test, "b": other.test}, data.task, replicates=80))["a", "b", "auroc"]
    means = []
    for model, seeds in ((data, 2), (other, 3)):
        drawn = []
        for seed in range(seeds):
            rows = [row for row in model.test if row.seed == seed]
            bound = metrics.bind_classification(class_targets(rows), class_probabilities(rows), names=["auroc"])
            patients = [row.patient_id for row in rows]
            drawn.append(metrics.replicate_values(bound, patients, replicates=80)["auroc"])
        means.append(np.mean(drawn, axis=0))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=1e-12)


def test_a_model_against_itself_differs_by_nothing(make):
    data = make("survival", seeds=2)
    for difference in compare({"a": data.test, "b": data.test[::-1]}, data.task, replicates=50):
        if difference.metric == "harrell_c":
            assert (difference.difference, difference.low, difference.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_pairing_narrows_the_interval_of_models_that_err_alike(make):
    base = make("regression", num=120, noise=1.0)
    nudged = [row._replace(logits=(row.logits[0] + 5 * np.sin(i),)) for i, row in enumerate(base.test)]
    difference = named(compare({"a": base.test, "b": nudged}, base.task, replicates=300))["a", "b", "mae"]
    alone = metrics.evaluate_regression(
        [row.target.value for row in base.test],
        [row.value for row in base.test],
        [row.patient_id for row in base.test],
        replicates=300,
    )["mae"]
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)


def test_other_bags_targets_or_patients_are_refused_by_name(make):
    data = make("binary")
    other = [row._replace(bag_id="new") if row.bag_id == "s007" else row for row in data.test]
    with pytest.raises(InputError, match=r"a and b were not judged .*1 only in a \(s007\), 1 only in b \(new\)"):
        compare({"a": data.test, "b": other}, data.task)
    flipped = [row._replace(target=ClassTarget(1 - row.target.class_index)) for row in data.test]
    with pytest.raises(InputError, match=r"60 of another target \(s000, s001, s002, s003, s004, …; s000: class"):
        compare({"a": data.test, "b": flipped}, data.task)
    moved = [row._replace(patient_id="q") if row.bag_id == "s000" else row for row in data.test]
    with pytest.raises(InputError, match=r"1 of another patient.*s000: p000 in a, q in b"):
        compare({"a": data.test, "b": moved}, data.task)


def test_one_model_empty_rows_and_mixed_models_are_refused(make):
    data = make("binary", models=("mhim", "plain"))
    with pytest.raises(InputError, match="needs two models; 1 given"):
        compare({"a": data.test}, data.task)
    with pytest.raises(InputError, match="a holds the predictions of several models"):
        compare({"a": data.test, "b": data.test}, data.task)
    with pytest.raises(InputError, match="b has no held-out predictions"):
        compare({"a": data.test[:60], "b": []}, data.task)


def test_what_is_undefined_is_null_with_the_reason(make):
    data = make("binary")
    rows = [row for row in data.test if row.target.class_index == 1]
    differences = named(compare({"a": rows, "b": rows}, data.task, replicates=20))
    difference = differences["a", "b", "auroc"]
    assert (difference.difference, difference.low, difference.p) == (None, None, None)
    assert "are of class 1" in difference.reason
    assert differences["a", "b", "accuracy"].difference == 0.0


def test_unos_c_uses_one_tau_for_both(make):
    data = make("survival")
    cut = {fold: [target for target in targets if target.time < 10] for fold, targets in data.train_targets.items()}
    train = {"a": data.train_targets, "b": cut}
    differences = named(compare({"a": data.test, "b": data.test}, data.task, train_targets=train, replicates=20))
    difference = differences["a", "b", "uno_c"]
    assert difference.value_a is not None
    assert difference.value_b is not None
    missing = named(compare({"a": data.test, "b": data.test}, data.task, replicates=20))["a", "b", "uno_c"]
    assert missing.reason == "no training patients were given"


def test_without_replicates_there_are_differences_but_no_intervals(make):
    data = make("regression")
    differences = compare({"a": data.test, "b": data.test}, data.task, replicates=0)
    assert all(difference.difference == 0.0 and difference.low is None for difference in differences)
