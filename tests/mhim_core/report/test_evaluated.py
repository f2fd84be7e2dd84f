"""The evaluation's document as parts of a report, for every task, seed and site."""

import numpy as np
import pytest

from mhim_core.evaluation.calibration import TEMPERATURE_RANGE, fit_temperature
from mhim_core.evaluation.held_out import FitId
from mhim_core.metrics import METRICS
from mhim_core.report.evaluated import (
    FEW_PATIENTS,
    FitFacts,
    calibration_notes,
    few_notes,
    fold_results,
    model_results,
    site_results,
    undefined_notes,
)


def facts_of(run):
    return {
        FitId(seed, fold): FitFacts(10 + fold, 5, 7) for seed in run.metrics["seeds"] for fold in run.metrics["folds"]
    }


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("binary", ["Temperature", "Threshold"]),
        ("multiclass", ["Temperature"]),
        ("survival", ["Median risk"]),
        ("regression", []),
    ],
)
def test_every_fit_has_its_own_line_with_what_validation_chose(evaluated, kind, chosen):
    run = evaluated(kind, seeds=2)
    folds = fold_results(run.metrics, facts_of(run))
    assert [(result.seed, result.fold) for result in folds] == [
        (seed, fold) for seed in (2021, 2022) for fold in range(3)
    ]
    assert [result.num_train for result in folds] == [10, 11, 12] * 2
    for result in folds:
        assert (result.num_test, result.best_epoch) == (8, 6)
        assert list(result.chosen) == chosen
        assert all(metric.value is not None for metric in result.chosen.values())
    assert len({result.chosen["Threshold"].value for result in folds}) > 1 if kind == "binary" else True


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "regression"])
def test_every_model_brings_what_its_task_has(evaluated, kind):
    run = evaluated(kind, seeds=2)
    models = model_results(run.metrics)
    assert [(model.name, model.is_reported) for model in models] == [("mhim", True), ("plain", False)]
    for model in models:
        pooled = run.metrics["models"][model.name]["pooled"]
        assert {name: estimate.value for name, estimate in model.estimates.items()} == {
            name: estimate["value"] for name, estimate in pooled.items()
        }
        assert (model.calibration is not None) == (kind in ("binary", "multiclass"))
        assert ("sensitivity" in model.decisions) == (kind == "binary")
        assert [group.seed for group in model.risk_groups] == ([2021, 2022] if kind == "survival" else [])


def test_sites_are_those_of_the_document(evaluated):
    run = evaluated("binary", sites=("north", "south"))
    sites = site_results(run.metrics)
    assert [(site.name, site.num_bags, site.num_patients) for site in sites] == [("north", 12, 12), ("south", 12, 12)]
    assert all(site.estimates["auroc"].value is not None for site in sites)
    assert all("specificity" in site.decisions for site in sites)
    assert site_results(evaluated("binary").metrics) == ()
    assert site_results(evaluated("multiclass", sites=("x",)).metrics)[0].decisions == {}


def test_what_is_undefined_is_said_by_its_title(evaluated):
    run = evaluated("binary")
    assert undefined_notes(run.metrics) == ()
    run.metrics["models"]["mhim"]["pooled"]["auroc"] |= {"value": None, "reason": "all are of class 1"}
    assert undefined_notes(run.metrics) == (f"{METRICS['auroc'].title} is undefined: all are of class 1.",)


def test_temperatures_that_validation_did_not_settle_are_told() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 2
    apart = fit_temperature(truth, np.stack([3.0 - 6 * truth, np.zeros(40)], axis=1)).value
    mixed = fit_temperature(truth, np.stack([rng.normal(size=40) - truth, np.zeros(40)], axis=1)).value
    assert apart == pytest.approx(TEMPERATURE_RANGE[0])
    (note,) = calibration_notes([apart, mixed, None])
    assert "1 of 3" in note
    assert calibration_notes([mixed, None, 1.0]) == ()


def test_few_patients_are_said_to_be_few() -> None:
    assert few_notes(FEW_PATIENTS, compared=True) == ()
    (alone,), (beside,) = (few_notes(6, compared=compared) for compared in (False, True))
    assert "6 patients" in alone
    assert len(beside) > len(alone)
