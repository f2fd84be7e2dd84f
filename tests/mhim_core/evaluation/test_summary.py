"""The summary: every task, several seeds, sites, one patient a fold, and what is undefined."""

import json

import numpy as np
import pytest

from mhim_core import metrics
from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import by_fit, class_probabilities, class_targets, follow_up, risks
from mhim_core.evaluation.row_metrics import ONE_PATIENT, metrics_of
from mhim_core.evaluation.summary import SCHEMA, summarise
from mhim_core.fingerprint import canonical_json

KINDS = ("binary", "multiclass", "survival", "regression")


def summary_of(given, **options):
    options = {"train_targets": given.train_targets, "replicates": 100} | options
    return summarise(given.test, given.validation, given.task, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_every_task_has_value_interval_and_folds(make, kind):
    given = make(kind, seeds=2, models=("mhim", "plain"))
    found = summary_of(given)
    assert json.loads(canonical_json(found)) == found
    assert found == summary_of(given)
    assert (found["num_bags"], found["num_patients"], found["seeds"], found["folds"]) == (60, 60, [0, 1], [0, 1, 2])
    assert set(found["models"]) == {"mhim", "plain"}
    for model in found["models"].values():
        assert set(model["pooled"]) == set(model["over_folds"]) == set(metrics_of(given.task.kind))
        for name, one in model["pooled"].items():
            assert one["reason"] == ""
            assert one["low"] < one["high"]
            assert model["over_folds"][name]["num"] == 6
        assert [(fold["seed"], fold["fold"]) for fold in model["folds"]] == [(s, f) for s in (0, 1) for f in (0, 1, 2)]
        assert all(fold["num_bags"] == 20 for fold in model["folds"])


def test_the_order_of_rows_does_not_matter(make):
    given = make("binary", seeds=2, sites=("north", "south"))
    shuffled = given._replace(test=given.test[::-1], validation=given.validation[::-1])
    assert summary_of(shuffled) == summary_of(given)


def test_one_seed_gives_what_the_metrics_give(make):
    given = make("binary")
    found = summary_of(given)["models"]["mhim"]
    rows = sorted(given.test, key=lambda row: row.bag_id)
    expected = metrics.evaluate_predictions(
        class_targets(rows), class_probabilities(rows), [row.patient_id for row in rows], replicates=100
    )
    assert found["pooled"] == {name: one._asdict() for name, one in expected.items()}


def test_several_seeds_are_averaged_and_drawn_together(make):
    given = make("binary", seeds=3)
    found = summary_of(given)["models"]["mhim"]["pooled"]["auroc"]
    per_seed, drawn = [], []
    for seed in range(3):
        rows = [row for row in given.test if row.seed == seed]
        bound = metrics.bind_classification(class_targets(rows), class_probabilities(rows), names=["auroc"])
        per_seed.append(bound["auroc"].metric.value)
        patients = [row.patient_id for row in rows]
        drawn.append(metrics.replicate_values(bound, patients, replicates=100)["auroc"])
    assert found["value"] == pytest.approx(np.mean(per_seed), abs=1e-12)
    # it is the interval of the mean of the seeds' metrics, not of the metric of their mean prediction
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-12)


def test_more_seeds_do_not_pretend_to_be_more_patients(make):
    one = summary_of(make("binary", seeds=1), replicates=500)["models"]["mhim"]["pooled"]["auroc"]
    copied = make("binary", seeds=1)
    twins = [row._replace(seed=seed) for seed in range(4) for row in copied.test]
    many = summary_of(copied._replace(test=twins), replicates=500)["models"]["mhim"]["pooled"]["auroc"]
    assert many == pytest.approx(one, abs=1e-12)


def test_leaving_one_patient_out_leaves_only_pooled_metrics(make):
    given = make("binary", num=24, folds=24)
    found = summary_of(given)["models"]["mhim"]
    assert found["pooled"]["auroc"]["value"] > 0.5
    assert all(one == {"value": None, "reason": ONE_PATIENT} for f in found["folds"] for one in f["metrics"].values())
    assert found["over_folds"]["accuracy"] == {"mean": None, "std": None, "num": 0}
    validation = [row._replace(fold=fold) for fold in range(24) for row in given.test if row.fold != fold]
    decided = summary_of(given._replace(validation=validation))["models"]["mhim"]["thresholded"]
    assert decided["pooled"]["accuracy"]["value"] > 0.5
    assert all(one == {"mean": None, "std": None, "num": 0} for one in decided["over_folds"].values())


def again_held_out(given, share=3):
    """As random splits drawn anew: a third fold's worth of bags is in another fold's test part as well."""
    more = [
        row._replace(fold=3, logits=tuple(1.1 * one for one in row.logits))
        for index, row in enumerate(given.test)
        if index % 60 % share == 0
    ]
    return given._replace(
        test=[*given.test, *more],
        validation=[*given.validation, *(row._replace(fold=3) for row in given.validation if row.fold == 0)],
        train_targets=given.train_targets | {3: given.train_targets[0]},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bags_that_several_folds_hold_out_are_judged_fold_by_fold_and_not_pooled(make, kind):
    given = make(kind, seeds=2, sites=("north", "south"))
    once, found = summary_of(given), summary_of(again_held_out(given))
    assert (once["num_repeated_bags"], found["num_repeated_bags"]) == (0, 20)
    assert (found["num_bags"], found["num_patients"], found["folds"]) == (60, 60, [0, 1, 2, 3])
    one, before = found["models"]["mhim"], once["models"]["mhim"]
    fits = [(fold["seed"], fold["fold"], fold["num_bags"]) for fold in one["folds"]]
    assert fits == [(seed, fold, 20) for seed in (0, 1) for fold in range(4)]
    kept = [fold for fold in one["folds"] if fold["fold"] < 3]
    assert [fold["metrics"].keys() for fold in kept] == [fold["metrics"].keys() for fold in before["folds"]]
    if kind != "survival":  # Uno's tau spans the folds
        assert kept == before["folds"]
    reason = "20 of 60 bags are held out by several folds: only metrics over folds are given"
    null = {"value": None, "low": None, "high": None, "num_undefined": 0, "reason": reason}
    assert all(value == null for value in one["pooled"].values())
    for name, mean in one["over_folds"].items():
        values = [fold["metrics"][name]["value"] for fold in one["folds"]]
        assert mean == {"mean": pytest.approx(np.mean(values)), "std": pytest.approx(np.std(values, ddof=1)), "num": 8}
    for part in [one["calibration"][when] for when in ("before", "after")] if "calibration" in one else []:
        assert all(value == null for value in part.values())
    if "thresholded" in one:
        assert all(value == null for value in one["thresholded"]["pooled"].values())
        assert one["thresholded"]["over_folds"]["accuracy"]["num"] == 8
    if kind == "survival":
        assert (one["risk_groups"]["log_rank"], one["risk_groups"]["reason"]) == ([], reason)
    assert all(
        "several folds" in site["pooled"][name]["reason"] for site in one["sites"].values() for name in site["pooled"]
    )


def test_seeds_that_hold_out_other_bags_in_the_same_fold_are_refused_though_nothing_is_pooled(make):
    given = again_held_out(make("binary", seeds=2))
    lost = next(row for row in given.test if row.seed == 1 and row.fold == 3)
    with pytest.raises(InputError, match=f"1 only in seed 0 \\({lost.bag_id}\\)"):
        summary_of(given._replace(test=[row for row in given.test if row is not lost]))


def test_bags_are_ranked_by_their_logits_where_probabilities_are_all_one(make):
    given = make("binary")
    certain = [
        row._replace(logits=(0.0, 40.0 + 7 * row.target.class_index + index / 60))
        for index, row in enumerate(given.test)
    ]
    assert {row.probabilities[1] for row in certain} == {1.0}
    found = summary_of(given._replace(test=certain))["models"]["mhim"]
    for estimate in (found["pooled"]["auroc"], found["pooled"]["average_precision"]):
        assert (estimate["value"], estimate["low"], estimate["high"]) == (1.0, 1.0, 1.0)
    assert found["over_folds"]["auroc"] == {"mean": 1.0, "std": 0.0, "num": 3}
    share = np.mean(class_targets(certain))
    assert found["pooled"]["brier"]["value"] == pytest.approx(1 - share), "the Brier score is of the probabilities"


def test_the_document_says_its_schema(make):
    assert summary_of(make("regression"))["schema"] == SCHEMA >= 2


def test_a_fold_of_one_class_is_null_with_the_reason_and_left_out_of_the_mean(make):
    given = make("binary")
    test = [row for row in given.test if row.fold != 0 or row.target.class_index == 1]
    found = summary_of(given._replace(test=test))["models"]["mhim"]
    null = found["folds"][0]["metrics"]["auroc"]
    assert null["value"] is None
    assert "are of class 1" in null["reason"]
    assert found["over_folds"]["auroc"]["num"] == 2
    assert found["over_folds"]["accuracy"]["num"] == 3


def test_calibration_comes_from_validation_alone(make):
    given = make("binary", noise=0.8)
    sharp = [row._replace(logits=tuple(6 * one for one in row.logits)) for row in given.test]
    sharp_validation = [row._replace(logits=tuple(6 * one for one in row.logits)) for row in given.validation]
    found = summary_of(given._replace(test=sharp, validation=sharp_validation))["models"]["mhim"]["calibration"]
    plain = summary_of(given)["models"]["mhim"]["calibration"]
    for six, one in zip(found["fits"], plain["fits"], strict=True):
        assert six["value"] == pytest.approx(6 * one["value"], rel=1e-6)
        assert six["nll_after"] <= six["nll_before"]
    assert found["after"]["brier"]["value"] == pytest.approx(plain["after"]["brier"]["value"], abs=1e-6)
    assert found["after"]["brier"]["value"] < found["before"]["brier"]["value"]
    # other test labels, the same temperatures
    flipped = [row._replace(target=type(row.target)(1 - row.target.class_index)) for row in given.test]
    again = summary_of(given._replace(test=flipped))["models"]["mhim"]
    assert again["calibration"]["fits"] == plain["fits"]
    assert again["thresholded"]["fits"] == summary_of(given)["models"]["mhim"]["thresholded"]["fits"]


def test_decisions_are_made_at_each_fits_own_threshold(make):
    given = make("binary")
    found = summary_of(given)["models"]["mhim"]["thresholded"]
    cut = {fit["fold"]: fit["value"] for fit in found["fits"]}
    assert len(set(cut.values())) == 3
    predicted = [int(row.probabilities[1] >= cut[row.fold]) for row in given.test]
    truth = class_targets(given.test)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "kappa", "sensitivity", "specificity"):
        assert found["pooled"][name]["value"] == pytest.approx(getattr(metrics, name)(truth, predicted)), name
        assert found["over_folds"][name]["num"] == 3


def test_several_classes_are_decided_by_the_highest_probability(make):
    found = summary_of(make("multiclass"))["models"]["mhim"]
    assert found["thresholded"]["rule"] == "highest probability"
    assert found["thresholded"]["fits"] == []
    assert found["thresholded"]["pooled"]["accuracy"] == found["pooled"]["accuracy"]
    assert "sensitivity" not in found["thresholded"]["pooled"]


def test_a_fit_without_threshold_leaves_the_pooled_decisions_undefined_by_name(make):
    given = make("binary")
    validation = [row for row in given.validation if row.fold != 1 or row.target.class_index == 0]
    found = summary_of(given._replace(validation=validation))["models"]["mhim"]["thresholded"]
    assert found["fits"][1]["value"] is None
    assert found["pooled"]["kappa"]["value"] is None
    assert found["pooled"]["kappa"]["reason"].startswith("seed 0, fold 1: all ")
    assert found["over_folds"]["kappa"]["num"] == 2


def test_without_validation_rows_everything_else_is_there(make):
    given = make("binary")._replace(validation=[])
    found = summary_of(given)["models"]["mhim"]
    reason = "there is no validation prediction of this fit"
    assert found["calibration"]["after"]["brier"]["reason"] == f"seed 0, fold 0: {reason}"
    assert found["calibration"]["before"]["brier"]["value"] == found["pooled"]["brier"]["value"]
    assert found["thresholded"]["fits"][0]["reason"] == reason
    survival = summary_of(make("survival")._replace(validation=[]))["models"]["mhim"]
    assert "no validation prediction" in survival["risk_groups"]["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_is_given_per_site(make, kind):
    given = make(kind, seeds=2, sites=("north", "south"))
    found = summary_of(given)
    for site in ("north", "south"):
        one = found["models"]["mhim"]["sites"][site]
        alone = given._replace(test=[row for row in given.test if row.site == site])
        assert (one["num_bags"], one["num_patients"]) == (30, 30)
        expected = summary_of(alone)["models"]["mhim"]
        assert one["pooled"] == expected["pooled"]
        if kind == "binary":
            assert one["thresholded"] == expected["thresholded"]["pooled"]


def test_a_site_of_one_class_says_so_and_bags_without_site_are_counted(make):
    given = make("binary", sites=("north", "south", ""))
    test = [row for row in given.test if row.site != "south" or row.target.class_index == 0]
    found = summary_of(given._replace(test=test))
    assert found["num_bags_without_site"] == 20
    assert set(found["models"]["mhim"]["sites"]) == {"north", "south"}
    assert found["models"]["mhim"]["sites"]["south"]["pooled"]["auroc"]["value"] is None
    assert "of class 0" in found["models"]["mhim"]["sites"]["south"]["pooled"]["auroc"]["reason"]
    assert "sites" not in summary_of(make("binary"))["models"]["mhim"]


def test_unos_c_weights_each_fold_by_its_own_training_patients(make):
    given = make("survival")
    found = summary_of(given)
    tau = min(max(target.time for target in targets) for targets in given.train_targets.values())
    assert found["uno_tau"] == tau
    for (fit, rows), one in zip(by_fit(given.test).items(), found["models"]["mhim"]["folds"], strict=True):
        train, test = follow_up(given.train_targets[fit.fold]), follow_up(row.target for row in rows)
        expected = metrics.uno_c(*train, *test, risks(rows), tau=tau)
        assert one["metrics"]["uno_c"]["value"] == pytest.approx(expected, abs=1e-12)
    without = summary_of(given, train_targets=None)
    assert without["uno_tau"] is None
    assert without["models"]["mhim"]["pooled"]["uno_c"]["reason"] == "no training patients were given"
    with pytest.raises(InputError, match="no training targets were given for fold 2"):
        summary_of(given, train_targets={0: given.train_targets[0], 1: given.train_targets[1]})


def test_risk_groups_are_split_at_the_validation_median_of_their_fit(make):
    given = make("survival", seeds=2)
    found = summary_of(given)["models"]["mhim"]["risk_groups"]
    cut = {(fit["seed"], fit["fold"]): fit["median"] for fit in found["fits"]}
    assert len(cut) == 6
    for one in found["log_rank"]:
        rows = [row for row in given.test if row.seed == one["seed"]]
        high = [row.risk > cut[row.fit] for row in rows]
        assert (one["num_high"], one["num_low"]) == (sum(high), 60 - sum(high))
        expected = metrics.log_rank(*follow_up(row.target for row in rows), high)
        assert (one["statistic"], one["p"]) == pytest.approx((expected.statistic, expected.p), rel=1e-9)


def test_slides_of_one_patient_stay_together_in_the_bootstrap(make):
    alone = make("binary", num=60)
    together = make("binary", num=60, slides_per_patient=3)
    assert summary_of(together)["num_patients"] == 20
    patients = {row.bag_id: row.patient_id for row in together.test}
    clustered = [row._replace(patient_id=patients[row.bag_id]) for row in alone.test]
    first = summary_of(alone)["models"]["mhim"]["pooled"]["auroc"]
    second = summary_of(alone._replace(test=clustered))["models"]["mhim"]["pooled"]["auroc"]
    assert first["value"] == second["value"]
    assert (first["low"], first["high"]) != (second["low"], second["high"])


def test_no_rows_are_refused_and_no_replicates_give_no_intervals(make):
    given = make("binary")
    with pytest.raises(InputError, match="no held-out predictions"):
        summary_of(given._replace(test=[]))
    one = summary_of(given, replicates=0)["models"]["mhim"]["pooled"]["auroc"]
    assert one["value"] is not None
    assert one["low"] is None
