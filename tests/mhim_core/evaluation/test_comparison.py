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
    return {(one.a, one.b, one.metric): one for one in differences}


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "regression"])
def test_every_pair_and_metric_has_a_difference_with_an_interval(make, kind):
    good, poor, worse = (make(kind, noise=noise) for noise in (0.3, 2.0, 4.0))
    rows = {"good": good.test, "poor": poor.test, "worse": worse.test}
    train = dict.fromkeys(rows, good.train_targets)
    found = compare(rows, good.task, train_targets=train, replicates=200)
    names = list(metrics_of(good.task.kind))
    pairs = [("good", "poor"), ("good", "worse"), ("poor", "worse")]
    assert [(one.a, one.b, one.metric) for one in found] == [(*pair, name) for pair in pairs for name in names]
    for one in found[: len(names)]:
        assert one.difference == pytest.approx(one.value_a - one.value_b, abs=1e-12)
        assert one.low < one.difference < one.high
        better = 1 if metrics.METRICS[one.metric].higher_is_better else -1
        assert better * one.difference > 0, one.metric
        assert one.reason == ""
        assert (one.p is not None) == (one.method == DELONG) == (kind == "binary" and one.metric == "auroc")


def test_delong_is_that_of_the_metrics(make):
    one, other = make("binary", noise=0.5), make("binary", noise=1.5)
    found = named(compare({"a": one.test, "b": other.test}, one.task, replicates=50))["a", "b", "auroc"]
    truth = class_targets(one.test)
    expected = metrics.delong(truth, class_probabilities(one.test), class_probabilities(other.test))
    assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p), abs=1e-12)
    assert (found.value_a, found.value_b) == pytest.approx((expected.auc_a, expected.auc_b), abs=1e-12)


def test_bags_are_ranked_by_logits_in_delong_and_in_the_bootstrap(make):
    given = make("binary")
    a = [row._replace(logits=(0.0, 40.0 + 7 * row.target.class_index + i / 60)) for i, row in enumerate(given.test)]
    b = [row._replace(logits=(0.0, 40.0 + i / 60)) for i, row in enumerate(given.test)]
    found = named(compare({"a": a, "b": b}, given.task, replicates=50))["a", "b", "auroc"]
    assert found.method == DELONG
    assert found.value_a == 1.0
    assert found.value_b not in (0.5, 1.0)
    assert found.low < found.difference < found.high
    twice = {name: [*rows, *(row._replace(seed=1) for row in rows)] for name, rows in {"a": a, "b": b}.items()}
    drawn = named(compare(twice, given.task, replicates=50))["a", "b", "auroc"]
    assert (drawn.method, drawn.value_a, drawn.value_b) == (BOOTSTRAP, 1.0, found.value_b)


def held_out_again(rows):
    """Every third bag is in fold 3's test part as well."""
    return [*rows, *(row._replace(fold=3) for row in rows if int(row.bag_id[1:]) % 3 == 0)]


@pytest.mark.parametrize("kind", ["binary", "survival"])
def test_where_folds_hold_out_a_bag_again_folds_are_paired_and_there_is_no_interval(make, kind):
    good, poor = make(kind, noise=0.3, seeds=2), make(kind, noise=2.0)
    rows = {"good": held_out_again(good.test), "poor": held_out_again(poor.test)}
    train = good.train_targets | {3: good.train_targets[0]}
    found = compare(rows, good.task, train_targets=dict.fromkeys(rows, train), replicates=50)
    assert [one.metric for one in found] == list(metrics_of(good.task.kind))
    for one in found:
        assert (one.method, one.low, one.high, one.p, one.reason) == (FOLDS, None, None, None, "")
        better = 1 if metrics.METRICS[one.metric].higher_is_better else -1
        assert better * one.difference > 0
        assert one.difference == one.value_a - one.value_b
    for name, value in (("good", found[0].value_a), ("poor", found[0].value_b)):
        document = summarise(rows[name], [], good.task, train_targets=train, replicates=0)["models"]["mhim"]
        assert value == pytest.approx(document["over_folds"][found[0].metric]["mean"], abs=1e-12)


def test_folds_in_which_one_model_has_no_value_count_for_neither(make):
    given = make("binary")
    one_class = [row for row in held_out_again(given.test) if row.fold or row.target.class_index]
    found = named(compare({"a": one_class, "b": one_class}, given.task))["a", "b", "auroc"]
    document = summarise(one_class, [], given.task, replicates=0)["models"]["mhim"]["over_folds"]["auroc"]
    assert document["num"] == 3
    assert (found.value_a, found.difference) == (pytest.approx(document["mean"]), 0.0)
    never = [row for row in one_class if row.target.class_index]
    null = named(compare({"a": never, "b": never}, given.task))["a", "b", "auroc"]
    assert (null.value_a, null.difference, null.method) == (None, None, FOLDS)
    assert "are of class 1" in null.reason


def test_repeated_folds_that_are_not_the_same_are_refused(make):
    given = make("binary")
    again = held_out_again(given.test)
    with pytest.raises(InputError, match=r"bags in several folds, and not in the same folds \(\[0, 1, 2, 3\] and "):
        compare({"a": again, "b": given.test}, given.task)
    other = [row._replace(fold=(row.fold + 1) % 4) for row in again]
    with pytest.raises(InputError, match=r"a and b were not judged on the same bags in fold 1: 20 only in a"):
        compare({"a": again, "b": other}, given.task)


def test_several_seeds_or_slides_of_a_patient_take_the_bootstrap(make):
    for options in ({"seeds": 2}, {"slides_per_patient": 2}):
        one, other = make("binary", **options), make("binary", noise=1.5, **options)
        found = named(compare({"a": one.test, "b": other.test}, one.task, replicates=50))["a", "b", "auroc"]
        assert (found.method, found.p) == (BOOTSTRAP, None)


def test_the_bootstrap_draws_the_same_patients_for_both_and_averages_over_seeds(make):
    one, other = make("binary", seeds=2), make("binary", seeds=3, noise=1.5)
    found = named(compare({"a": one.test, "b": other.test}, one.task, replicates=80))["a", "b", "auroc"]
    means = []
    for given, seeds in ((one, 2), (other, 3)):
        drawn = []
        for seed in range(seeds):
            rows = [row for row in given.test if row.seed == seed]
            bound = metrics.bind_classification(class_targets(rows), class_probabilities(rows), names=["auroc"])
            patients = [row.patient_id for row in rows]
            drawn.append(metrics.replicate_values(bound, patients, replicates=80)["auroc"])
        means.append(np.mean(drawn, axis=0))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_a_model_against_itself_differs_by_nothing(make):
    given = make("survival", seeds=2)
    for one in compare({"a": given.test, "b": given.test[::-1]}, given.task, replicates=50):
        if one.metric == "harrell_c":
            assert (one.difference, one.low, one.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_pairing_narrows_the_interval_of_models_that_err_alike(make):
    base = make("regression", num=120, noise=1.0)
    nudged = [row._replace(logits=(row.logits[0] + 5 * np.sin(i),)) for i, row in enumerate(base.test)]
    found = named(compare({"a": base.test, "b": nudged}, base.task, replicates=300))["a", "b", "mae"]
    alone = metrics.evaluate_regression(
        [row.target.value for row in base.test],
        [row.value for row in base.test],
        [row.patient_id for row in base.test],
        replicates=300,
    )["mae"]
    assert found.high - found.low < 0.3 * (alone.high - alone.low)


def test_other_bags_targets_or_patients_are_refused_by_name(make):
    given = make("binary")
    other = [row._replace(bag_id="new") if row.bag_id == "s007" else row for row in given.test]
    with pytest.raises(InputError, match=r"a and b were not judged .*1 only in a \(s007\), 1 only in b \(new\)"):
        compare({"a": given.test, "b": other}, given.task)
    flipped = [row._replace(target=ClassTarget(1 - row.target.class_index)) for row in given.test]
    with pytest.raises(InputError, match=r"60 of another target \(s000, s001, s002, s003, s004, …; s000: class"):
        compare({"a": given.test, "b": flipped}, given.task)
    moved = [row._replace(patient_id="q") if row.bag_id == "s000" else row for row in given.test]
    with pytest.raises(InputError, match=r"1 of another patient.*s000: p000 in a, q in b"):
        compare({"a": given.test, "b": moved}, given.task)


def test_one_model_empty_rows_and_mixed_models_are_refused(make):
    given = make("binary", models=("mhim", "plain"))
    with pytest.raises(InputError, match="needs two models; 1 given"):
        compare({"a": given.test}, given.task)
    with pytest.raises(InputError, match="a holds the predictions of several models"):
        compare({"a": given.test, "b": given.test}, given.task)
    with pytest.raises(InputError, match="b has no held-out predictions"):
        compare({"a": given.test[:60], "b": []}, given.task)


def test_what_is_undefined_is_null_with_the_reason(make):
    given = make("binary")
    rows = [row for row in given.test if row.target.class_index == 1]
    found = named(compare({"a": rows, "b": rows}, given.task, replicates=20))
    one = found["a", "b", "auroc"]
    assert (one.difference, one.low, one.p) == (None, None, None)
    assert "are of class 1" in one.reason
    assert found["a", "b", "accuracy"].difference == 0.0


def test_unos_c_uses_one_tau_for_both(make):
    given = make("survival")
    cut = {fold: [one for one in targets if one.time < 10] for fold, targets in given.train_targets.items()}
    train = {"a": given.train_targets, "b": cut}
    found = named(compare({"a": given.test, "b": given.test}, given.task, train_targets=train, replicates=20))
    one = found["a", "b", "uno_c"]
    assert one.value_a is not None
    assert one.value_b is not None
    missing = named(compare({"a": given.test, "b": given.test}, given.task, replicates=20))["a", "b", "uno_c"]
    assert missing.reason == "no training patients were given"


def test_without_replicates_there_are_differences_but_no_intervals(make):
    given = make("regression")
    found = compare({"a": given.test, "b": given.test}, given.task, replicates=0)
    assert all(one.difference == 0.0 and one.low is None for one in found)
