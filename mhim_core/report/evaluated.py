"""From the evaluation's document (`mhim_core.evaluation.summary`) to the parts of a report."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mhim_core.evaluation.calibration import TEMPERATURE_RANGE, is_at_limit
from mhim_core.evaluation.held_out import FitId
from mhim_core.metrics import METRICS, Estimate, MeanStd, Metric
from mhim_core.report.data import CalibrationResult, FoldResult, ModelResult, RiskGroups, SiteResult

TEMPERATURE, THRESHOLD, MEDIAN = "Temperature", "Threshold", "Median risk"


class FitFacts(NamedTuple):
    """What the evaluation's document does not say of a fit. Numbers are of bags."""

    num_train: int
    num_validation: int
    best_epoch: int
    """Counted from 1."""


def model_results(metrics: Mapping[str, Any]) -> tuple[ModelResult, ...]:
    """All models, in the document's order: the reported one first."""
    binary = len(metrics["classes"]) == 2
    return tuple(
        ModelResult(
            name=name,
            estimates=estimates_of(model["pooled"]),
            over_folds={key: MeanStd(**spread) for key, spread in model["over_folds"].items()},
            is_reported=name == metrics["reported"],
            calibration=_calibration(model),
            # of more classes the highest probability decides, as in `pooled`
            decisions=estimates_of(model["thresholded"]["pooled"]) if binary else {},
            risk_groups=tuple(RiskGroups(**test) for test in model.get("risk_groups", {}).get("log_rank", [])),
            risk_reason=model.get("risk_groups", {}).get("reason", ""),
        )
        for name, model in metrics["models"].items()
    )


def fold_results(metrics: Mapping[str, Any], facts: Mapping[FitId, FitFacts]) -> tuple[FoldResult, ...]:
    """The reported model by seed and fold."""
    model = metrics["models"][metrics["reported"]]
    chosen = _chosen(model)
    results = []
    for record in model["folds"]:
        fit = FitId(record["seed"], record["fold"])
        known = facts[fit]
        results.append(
            FoldResult(
                seed=fit.seed,
                fold=fit.fold,
                num_train=known.num_train,
                num_validation=known.num_validation,
                num_test=record["num_bags"],
                metrics={name: Metric(**metric) for name, metric in record["metrics"].items()},
                best_epoch=known.best_epoch - 1,
                chosen={name: of_fits[fit] for name, of_fits in chosen.items() if fit in of_fits},
            )
        )
    return tuple(results)


def site_results(metrics: Mapping[str, Any]) -> tuple[SiteResult, ...]:
    """The reported model by site; empty where no bag has one."""
    binary = len(metrics["classes"]) == 2
    return tuple(
        SiteResult(
            name,
            site["num_bags"],
            site["num_patients"],
            estimates_of(site["pooled"]),
            estimates_of(site["thresholded"]) if binary else {},
        )
        for name, site in metrics["models"][metrics["reported"]].get("sites", {}).items()
    )


def undefined_notes(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each pooled metric of the reported model that has no value; one if none has, for one reason."""
    pooled = metrics["models"][metrics["reported"]]["pooled"]
    reasons = {estimate["reason"] for estimate in pooled.values()}
    if len(reasons) == 1 and all(estimate["value"] is None for estimate in pooled.values()):
        return (f"Pooled metrics are undefined: {reasons.pop()}.",)
    return tuple(
        f"{METRICS[name].title} is undefined: {estimate['reason']}."
        for name, estimate in pooled.items()
        if estimate["value"] is None
    )


FEW_PATIENTS = 50
"""Fewer make every interval rough."""


def few_notes(num_patients: int, *, compared: bool) -> tuple[str, ...]:
    """A sentence where figures are of few patients. `compared`: models are compared on them as well."""
    if num_patients >= FEW_PATIENTS:
        return ()
    ending = "; which model is better is open" if compared else ""
    return (f"{num_patients} patients are few: intervals are rough, even narrow ones{ending}.",)


def calibration_notes(temperatures: Iterable[float | None]) -> tuple[str, ...]:
    """A sentence where temperatures of the reported model's fits lie at the end of their range."""
    values = list(temperatures)
    num = sum(map(is_at_limit, values))
    if not num:
        return ()
    return (
        f"The temperature of {num} of {len(values)} fits is at the end of its range ({TEMPERATURE_RANGE[0]:g} to "
        f"{TEMPERATURE_RANGE[1]:g}), as where validation is told apart without an error: calibrated probabilities "
        "claim more certainty than validation shows, and those before the temperature are to be preferred.",
    )


def estimates_of(record: Mapping[str, Any]) -> dict[str, Estimate]:
    """Metrics by name."""
    return {name: Estimate(**estimate) for name, estimate in record.items()}


def _calibration(model: Mapping[str, Any]) -> CalibrationResult | None:
    if "calibration" not in model:
        return None
    return CalibrationResult(*(estimates_of(model["calibration"][when]) for when in ("before", "after")))


def _chosen(model: Mapping[str, Any]) -> dict[str, dict[FitId, Metric]]:
    """By heading and fit, what validation chose."""
    lists = {
        TEMPERATURE: (model.get("calibration", {}).get("fits", []), "value"),
        THRESHOLD: (model.get("thresholded", {}).get("fits", []), "value"),
        MEDIAN: (model.get("risk_groups", {}).get("fits", []), "median"),
    }
    return {
        heading: {
            FitId(choice["seed"], choice["fold"]): Metric(choice[key], choice.get("reason", "")) for choice in fits
        }
        for heading, (fits, key) in lists.items()
        if fits
    }
