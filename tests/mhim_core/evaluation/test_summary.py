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


def summary_of(data, **options):
    options = {"train_targets": data.train_targets, "replicates": 100} | options
    return summarise(data.test, data.validation, data.task, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_every_task_has_value_interval_and_folds(make, kind):
    data = make(kind, seeds=2, models=("mhim", "plain"))
    summary = summary_of(data)
    assert json.loads(canonical_json(summary)) == summary
    assert summary == summary_of(data)
    assert (summary["num_bags"], summary["num_patients"], summary["seeds"], summary["folds"]) == (
        60,
        60,
        [0, 1],
        [0, 1, 2],
    )
    assert set(summary["models"]) == {"mhim", "plain"}
    for model in summary["models"].values():
        assert set(model["pooled"]) == set(model["over_folds"]) == set(metrics_of(data.task.kind))
        for name, estimate in model["pooled"].items():
            assert estimate["reason"] == ""
            assert estimate["low"] < estimate["high"]
            assert model["over_folds"][name]["num"] == 6
        assert [(fold["seed"], fold["fold"]) for fold in model["folds"]] == [(s, f) for s in (0, 1) for f in (0, 1, 2)]
        assert all(fold["num_bags"] == 20 for fold in model["folds"])


def test_the_order_of_rows_does_not_matter(make):
    data = make("binary", seeds=2, sites=("north", "south"))
    shuffled = data._replace(test=data.test[::-1], validation=data.validation[::-1])
    assert summary_of(shuffled) == summary_of(data)


def test_one_seed_gives_what_the_metrics_give(make):
    data = make("binary")
    model = summary_of(data)["models"]["mhim"]
    rows = sorted(data.test, key=lambda row: row.bag_id)
    expected = metrics.evaluate_predictions(
        class_targets(rows), class_probabilities(rows), [row.patient_id for row in rows], replicates=100
    )
    assert model["pooled"] == {name: estimate._asdict() for name, estimate in expected.items()}


def test_several_seeds_are_averaged_and_drawn_together(make):
    data = make("binary", seeds=3)
    estimate = summary_of(data)["models"]["mhim"]["pooled"]["auroc"]
    per_seed, drawn = [], []
    for seed in range(3):
        rows = [row for row in data.test if row.seed == seed]
        bound = metrics.bind_classification(class_targets(rows), class_probabilities(rows), names=["auroc"])
        per_seed.append(bound["auroc"].metric.value)
        patients = [row.patient_id for row in rows]
        drawn.append(metrics.replicate_values(bound, patients, replicates=100)["auroc"])
    assert estimate["value"] == pytest.approx(np.mean(per_seed), abs=1e-12)
    # it is the interval of the mean of the seeds' metrics, not of the metric of their mean prediction
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=1e-12)


def test_more_seeds_do_not_pretend_to_be_more_patients(make):
    single = summary_of(make("binary", seeds=1), replicates=500)["models"]["mhim"]["pooled"]["auroc"]
    copied = make("binary", seeds=1)
    twins = [row._replace(seed=seed) for seed in range(4) for row in copied.test]
    many = summary_of(copied._replace(test=twins), replicates=500)["models"]["mhim"]["pooled"]["auroc"]
    assert many == pytest.approx(single, abs=1e-12)


def test_leaving_one_patient_out_leaves_only_pooled_metrics(make):
    data = make("binary", num=24, folds=24)
    model = summary_of(data)["models"]["mhim"]
    assert model["pooled"]["auroc"]["value"] > 0.5
    assert all(
        metric == {"value": None, "reason": ONE_PATIENT} for f in model["folds"] for metric in f["metrics"].values()
    )
    assert model["over_folds"]["accuracy"] == {"mean": None, "std": None, "num": 0}
    validation = [row._replace(fold=fold) for fold in range(24) for row in data.test if row.fold != fold]
    decided = summary_of(data._replace(validation=validation))["models"]["mhim"]["thresholded"]
    assert decided["pooled"]["accuracy"]["value"] > 0.5
    assert all(spread == {"mean": None, "std": None, "num": 0} for spread in decided["over_folds"].values())


def again_held_out(data, share=3):
    """As random splits drawn anew: a third fold's worth of bags is in another fold's test part as well."""
    more = [
        row._replace(fold=3, logits=tuple(1.1 * logit for logit in row.logits))
        for index, row in enumerate(data.test)
        if index % 60 % share == 0
    ]
    return data._replace(
        test=[*data.test, *more],
        validation=[*data.validation, *(row._replace(fold=3) for row in data.validation if row.fold == 0)],
        train_targets=data.train_targets | {3: data.train_targets[0]},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bags_that_several_folds_hold_out_are_judged_fold_by_fold_and_not_pooled(make, kind):
    data = make(kind, seeds=2, sites=("north", "south"))
    once, repeated = summary_of(data), summary_of(again_held_out(data))
    assert (once["num_repeated_bags"], repeated["num_repeated_bags"]) == (0, 20)
    assert (repeated["num_bags"], repeated["num_patients"], repeated["folds"]) == (60, 60, [0, 1, 2, 3])
    model, before = repeated["models"]["mhim"], once["models"]["mhim"]
    fits = [(fold["seed"], fold["fold"], fold["num_bags"]) for fold in model["folds"]]
    assert fits == [(seed, fold, 20) for seed in (0, 1) for fold in range(4)]
    kept = [fold for fold in model["folds"] if fold["fold"] < 3]
    assert [fold["metrics"].keys() for fold in kept] == [fold["metrics"].keys() for fold in before["folds"]]
    if kind != "survival":  # Uno's tau spans the folds
        assert kept == before["folds"]
    reason = "20 of 60 bags are held out by several folds: only metrics over folds are given"
    null = {"value": None, "low": None, "high": None, "num_undefined": 0, "reason": reason}
    assert all(value == null for value in model["pooled"].values())
    for name, mean in model["over_folds"].items():
        values = [fold["metrics"][name]["value"] for fold in model["folds"]]
        assert mean == {"mean": pytest.approx(np.mean(values)), "std": pytest.approx(np.std(values, ddof=1)), "num": 8}
    for part in [model["calibration"][when] for when in ("before", "after")] if "calibration" in model else []:
        assert all(value == null for value in part.values())
    if "thresholded" in model:
        assert all(value == null for value in model["thresholded"]["pooled"].values())
        assert model["thresholded"]["over_folds"]["accuracy"]["num"] == 8
    if kind == "survival":
        assert (model["risk_groups"]["log_rank"], model["risk_groups"]["reason"]) == ([], reason)
    assert all(
        "several folds" in site["pooled"][name]["reason"] for site in model["sites"].values() for name in site["pooled"]
    )


def test_seeds_that_hold_out_other_bags_in_the_same_fold_are_refused_though_nothing_is_pooled(make):
    data = again_held_out(make("binary", seeds=2))
    lost = next(row for row in data.test if row.seed == 1 and row.fold == 3)
    with pytest.raises(InputError, match=f"1 only in seed 0 \\({lost.bag_id}\\)"):
        summary_of(data._replace(test=[row for row in data.test if row is not lost]))


def test_bags_are_ranked_by_their_logits_where_probabilities_are_all_one(make):
    data = make("binary")
    certain = [
        row._replace(logits=(0.0, 40.0 + 7 * row.target.class_index + index / 60))
        for index, row in enumerate(data.test)
    ]
    assert {row.probabilities[1] for row in certain} == {1.0}
    model = summary_of(data._replace(test=certain))["models"]["mhim"]
    for estimate in (model["pooled"]["auroc"], model["pooled"]["average_precision"]):
        assert (estimate["value"], estimate["low"], estimate["high"]) == (1.0, 1.0, 1.0)
    assert model["over_folds"]["auroc"] == {"mean": 1.0, "std": 0.0, "num": 3}
    share = np.mean(class_targets(certain))
    assert model["pooled"]["brier"]["value"] == pytest.approx(1 - share), "the Brier score is of the probabilities"


def test_the_document_says_its_schema(make):
    assert summary_of(make("regression"))["schema"] == SCHEMA >= 2


def test_a_fold_of_one_class_is_null_with_the_reason_and_left_out_of_the_mean(make):
    data = make("binary")
    test = [row for row in data.test if row.fold != 0 or row.target.class_index == 1]
    model = summary_of(data._replace(test=test))["models"]["mhim"]
    null = model["folds"][0]["metrics"]["auroc"]
    assert null["value"] is None
    assert "are of class 1" in null["reason"]
    assert model["over_folds"]["auroc"]["num"] == 2
    assert model["over_folds"]["accuracy"]["num"] == 3


def test_calibration_comes_from_validation_alone(make):
    data = make("binary", noise=0.8)
    sharp = [row._replace(logits=tuple(6 * logit for logit in row.logits)) for row in data.test]
    sharp_validation = [row._replace(logits=tuple(6 * logit for logit in row.logits)) for row in data.validation]
    calibration = summary_of(data._replace(test=sharp, validation=sharp_validation))["models"]["mhim"]["calibration"]
    plain = summary_of(data)["models"]["mhim"]["calibration"]
    for six, fit in zip(calibration["fits"], plain["fits"], strict=True):
        assert six["value"] == pytest.approx(6 * fit["value"], rel=1e-6)
        assert six["nll_after"] <= six["nll_before"]
    assert calibration["after"]["brier"]["value"] == pytest.approx(plain["after"]["brier"]["value"], abs=1e-6)
    assert calibration["after"]["brier"]["value"] < calibration["before"]["brier"]["value"]
    # other test labels, the same temperatures
    flipped = [row._replace(target=type(row.target)(1 - row.target.class_index)) for row in data.test]
    again = summary_of(data._replace(test=flipped))["models"]["mhim"]
    assert again["calibration"]["fits"] == plain["fits"]
    assert again["thresholded"]["fits"] == summary_of(data)["models"]["mhim"]["thresholded"]["fits"]


def test_decisions_are_made_at_each_fits_own_threshold(make):
    data = make("binary")
    thresholded = summary_of(data)["models"]["mhim"]["thresholded"]
    cut = {fit["fold"]: fit["value"] for fit in thresholded["fits"]}
    assert len(set(cut.values())) == 3
    predicted = [int(row.probabilities[1] >= cut[row.fold]) for row in data.test]
    truth = class_targets(data.test)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "kappa", "sensitivity", "specificity"):
        assert thresholded["pooled"][name]["value"] == pytest.approx(getattr(metrics, name)(truth, predicted)), name
        assert thresholded["over_folds"][name]["num"] == 3


def test_several_classes_are_decided_by_the_highest_probability(make):
    model = summary_of(make("multiclass"))["models"]["mhim"]
    assert model["thresholded"]["rule"] == "highest probability"
    assert model["thresholded"]["fits"] == []
    assert model["thresholded"]["pooled"]["accuracy"] == model["pooled"]["accuracy"]
    assert "sensitivity" not in model["thresholded"]["pooled"]


def test_a_fit_without_threshold_leaves_the_pooled_decisions_undefined_by_name(make):
    data = make("binary")
    validation = [row for row in data.validation if row.fold != 1 or row.target.class_index == 0]
    thresholded = summary_of(data._replace(validation=validation))["models"]["mhim"]["thresholded"]
    assert thresholded["fits"][1]["value"] is None
    assert thresholded["pooled"]["kappa"]["value"] is None
    assert thresholded["pooled"]["kappa"]["reason"].startswith("seed 0, fold 1: all ")
    assert thresholded["over_folds"]["kappa"]["num"] == 2


def test_without_validation_rows_everything_else_is_there(make):
    data = make("binary")._replace(validation=[])
    model = summary_of(data)["models"]["mhim"]
    reason = "there is no validation prediction of this fit"
    assert model["calibration"]["after"]["brier"]["reason"] == f"seed 0, fold 0: {reason}"
    assert model["calibration"]["before"]["brier"]["value"] == model["pooled"]["brier"]["value"]
    assert model["thresholded"]["fits"][0]["reason"] == reason
    survival = summary_of(make("survival")._replace(validation=[]))["models"]["mhim"]
    assert "no validation prediction" in survival["risk_groups"]["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_is_given_per_site(make, kind):
    data = make(kind, seeds=2, sites=("north", "south"))
    summary = summary_of(data)
    for site in ("north", "south"):
        figures = summary["models"]["mhim"]["sites"][site]
        alone = data._replace(test=[row for row in data.test if row.site == site])
        assert (figures["num_bags"], figures["num_patients"]) == (30, 30)
        expected = summary_of(alone)["models"]["mhim"]
        assert figures["pooled"] == expected["pooled"]
        if kind == "binary":
            assert figures["thresholded"] == expected["thresholded"]["pooled"]


def test_a_site_of_one_class_says_so_and_bags_without_site_are_counted(make):
    data = make("binary", sites=("north", "south", ""))
    test = [row for row in data.test if row.site != "south" or row.target.class_index == 0]
    summary = summary_of(data._replace(test=test))
    assert summary["num_bags_without_site"] == 20
    assert set(summary["models"]["mhim"]["sites"]) == {"north", "south"}
    assert summary["models"]["mhim"]["sites"]["south"]["pooled"]["auroc"]["value"] is None
    assert "of class 0" in summary["models"]["mhim"]["sites"]["south"]["pooled"]["auroc"]["reason"]
    assert "sites" not in summary_of(make("binary"))["models"]["mhim"]


def test_unos_c_weights_each_fold_by_its_own_training_patients(make):
    data = make("survival")
    summary = summary_of(data)
    tau = min(max(target.time for target in targets) for targets in data.train_targets.values())
    assert summary["uno_tau"] == tau
    for (fit, rows), fold in zip(by_fit(data.test).items(), summary["models"]["mhim"]["folds"], strict=True):
        train, test = follow_up(data.train_targets[fit.fold]), follow_up(row.target for row in rows)
        expected = metrics.uno_c(*train, *test, risks(rows), tau=tau)
        assert fold["metrics"]["uno_c"]["value"] == pytest.approx(expected, abs=1e-12)
    without = summary_of(data, train_targets=None)
    assert without["uno_tau"] is None
    assert without["models"]["mhim"]["pooled"]["uno_c"]["reason"] == "no training patients were given"
    with pytest.raises(InputError, match="no training targets were given for fold 2"):
        summary_of(data, train_targets={0: data.train_targets[0], 1: data.train_targets[1]})


def test_risk_groups_are_split_at_the_validation_median_of_their_fit(make):
    data = make("survival", seeds=2)
    groups = summary_of(data)["models"]["mhim"]["risk_groups"]
    cut = {(fit["seed"], fit["fold"]): fit["median"] for fit in groups["fits"]}
    assert len(cut) == 6
    for test in groups["log_rank"]:
        rows = [row for row in data.test if row.seed == test["seed"]]
        high = [row.risk > cut[row.fit] for row in rows]
        assert (test["num_high"], test["num_low"]) == (sum(high), 60 - sum(high))
        expected = metrics.log_rank(*follow_up(row.target for row in rows), high)
        assert (test["statistic"], test["p"]) == pytest.approx((expected.statistic, expected.p), rel=1e-9)


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
    data = make("binary")
    with pytest.raises(InputError, match="no held-out predictions"):
        summary_of(data._replace(test=[]))
    estimate = summary_of(data, replicates=0)["models"]["mhim"]["pooled"]["auroc"]
    assert estimate["value"] is not None
    assert estimate["low"] is None
