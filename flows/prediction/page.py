"""The page of a prediction: the prediction for each slide or patient, and where the models looked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flows.config.keys import PageKeys
from flows.prediction.predictor import Predictor
from flows.runs.cohort import CohortInput
from flows.runs.folder import package_versions
from mhim_core.cohort.values import number_of
from mhim_core.evaluation.prediction_table import class_values
from mhim_core.metrics import Estimate
from mhim_core.outcome import Outcome
from mhim_core.printable import one_line
from mhim_core.registry.external import External
from mhim_core.report.data import (
    CalibrationResult,
    ClassOutput,
    CohortSummary,
    FailedSlide,
    ModelResult,
    NumberOutput,
    Prediction,
    ReportData,
    RiskOutput,
    SiteResult,
    SlidePanel,
)
from mhim_core.report.evaluated import calibration_notes, estimates_of, few_notes
from mhim_core.report.pictures import Pictures
from mhim_core.report.predictions import height
from mhim_core.report.wording import what_is_predicted
from mhim_core.storage import Storage
from mhim_core.task import TaskKind
from mhim_core.types import BagId, Status

if TYPE_CHECKING:
    from mhim_core.store.bags import PatientBags

Rows = Sequence[dict[str, Any]]


def prediction_page(
    predictor: Predictor,
    rows: Rows,
    panels: Sequence[SlidePanel],
    cohort: CohortInput,
    outcome: Outcome,
    external: External,
    pictures: Pictures | None = None,
) -> str:
    """The page as HTML; `external` is of the bags with a target that the models did not train on, `pictures` where
    its pictures go (None: inside)."""
    from mhim_core.report.page import render_report

    members, metrics = cohort.cohort.rows, external.metrics
    unit, num_models = predictor.unit.value, len(predictor.fits)
    models = f"{num_models} models" if num_models > 1 else "one model"
    of_what = f" ({predictor.num_folds} folds, {predictor.num_seeds} seeds)" if predictor.num_seeds > 1 else ""
    by = f"{'the mean of ' if num_models > 1 else ''}{models}{of_what}"
    owner = "" if "run" in predictor.origin else f" of {predictor.words}"
    data = ReportData(
        title=f"Predictions for {cohort.cohort.name}",
        task=f"{what_is_predicted(predictor.task, unit)}, by {by}{owner}.",
        kind=predictor.task.kind,
        unit=unit,
        cohort=CohortSummary(
            name=cohort.cohort.name,
            num_slides=len(members),
            num_patients=len({row.patient_id for row in members}),
            num_ok=outcome.count(Status.OK),
            num_empty=outcome.count(Status.EMPTY),
            num_failed=outcome.count(Status.FAILED),
            num_skipped=outcome.count(Status.SKIPPED),
            failures=tuple(FailedSlide(row.slide_id, str(row.reason), row.message) for row in outcome.failed),
            empty=tuple(row.slide_id for row in outcome.empty),
        ),
        classes=predictor.classes,
        protocol="" if metrics is None else _protocol(predictor, metrics),
        models=() if metrics is None else (_model_result(predictor, metrics),),
        sites=() if metrics is None else _sites(predictor, metrics),
        predictions=tuple(as_prediction(predictor, row) for row in rows),
        averaged=models if num_models > 1 else "",
        panels=tuple(panels),
        panel_order=(
            "the surest predictions first" if predictor.task.kind is TaskKind.classification else "the highest first"
        ),
        encoder=predictor.encoder,
        tiling=predictor.tiling,
        provenance={**predictor.origin, "weights sha256": predictor.digests, "versions": package_versions()},
        notes=(
            *external.notes,
            *(() if metrics is None else few_notes(metrics["num_patients"], compared=False)),
            *calibration_notes(member.temperature for member in predictor.card.members),
        ),
    )
    return render_report(data, pictures)


def _model_result(predictor: Predictor, metrics: dict[str, Any]) -> ModelResult:
    parts = metrics.get("calibration")
    return ModelResult(
        name=predictor.reported,
        estimates=estimates_of(metrics["estimates"]),
        is_reported=True,
        calibration=CalibrationResult(estimates_of(parts["before"]), estimates_of(parts["after"])) if parts else None,
        decisions=_decisions(predictor, metrics),
    )


def _sites(predictor: Predictor, metrics: dict[str, Any]) -> tuple[SiteResult, ...]:
    return tuple(
        SiteResult(
            name, site["num_bags"], site["num_patients"], estimates_of(site["estimates"]), _decisions(predictor, site)
        )
        for name, site in metrics.get("sites", {}).items()
    )


def _decisions(predictor: Predictor, metrics: dict[str, Any]) -> dict[str, Estimate]:
    """Of two classes; of more the highest probability decides, as in the estimates."""
    return estimates_of(metrics["thresholded"]) if len(predictor.classes) == 2 else {}


def draw_panels(
    predictor: Predictor, rows: Rows, bags: "PatientBags", cohort: CohortInput, out: Storage, keys: PageKeys
) -> list[SlidePanel]:
    """Heat maps of the mean attention, of as many slides as `keys` say; the surest predictions (or the highest)
    first."""
    from itertools import islice

    predictions = [as_prediction(predictor, row) for row in rows]
    ordered = sorted(predictions, key=lambda prediction: (-_sureness(prediction), prediction.bag_id))
    return list(islice(_panels(predictor, ordered, bags, cohort, out, keys), keys.max_heatmaps))


def _panels(
    predictor: Predictor,
    ordered: Sequence[Prediction],
    bags: "PatientBags",
    cohort: CohortInput,
    out: Storage,
    keys: PageKeys,
) -> Iterator[SlidePanel]:
    from flows.prediction.panels import slide_panel, why_no_heat_map

    spec = None if predictor.is_imported else predictor.tile_spec()
    uris = {str(row.slide_id): row.uri for row in cohort.cohort.rows}
    max_bytes = keys.bytes_per_slide(len(cohort.cohort.rows))
    for prediction in ordered:
        for table in bags.read_tables(BagId(prediction.bag_id)):
            if reason := why_no_heat_map(table):
                print(one_line(reason))
                continue
            attention = out.get(f"attention/{table.slide_id}.parquet")
            caption = f"patient {prediction.patient_id}"
            uri = uris[table.slide_id]
            yield slide_panel(prediction, uri, table, attention, spec, keys.top_tiles, caption, max_bytes)


def as_prediction(predictor: Predictor, row: dict[str, Any]) -> Prediction:
    """A row of predictions.csv as the page knows it."""
    return Prediction(
        bag_id=str(row.get("slide_id") or row["patient_id"]),
        patient_id=row["patient_id"],
        output=_output(predictor, row),
        site=row.get("site"),
        num_slides=row.get("num_slides", 1),
    )


def _output(predictor: Predictor, row: dict[str, Any]) -> ClassOutput | RiskOutput | NumberOutput:
    several = row["num_models"] > 1
    if predictor.task.kind is TaskKind.survival:
        return RiskOutput(row["time"], row["event"], row["risk"], row["risk_spread"] if several else None)
    if predictor.task.kind is TaskKind.regression:
        truth = None if row["label"] is None else number_of(row["label"])
        return NumberOutput(truth, row["prediction"], row["prediction_spread"] if several else None)
    probabilities = class_values(row, "probability", predictor.task)
    spread = class_values(row, "spread", predictor.task) if several else ()
    calibrated = class_values(row, "calibrated", predictor.task)
    return ClassOutput(row["label"], row["predicted"], probabilities, spread, calibrated, row.get("decision"))


def _sureness(prediction: Prediction) -> float:
    output = prediction.output
    return max(output.probabilities) if isinstance(output, ClassOutput) else height(prediction)


def _protocol(predictor: Predictor, metrics: dict[str, Any]) -> str:
    is_survival = predictor.task.kind is TaskKind.survival
    known, used = ("times and events", "Times and events") if is_survival else ("labels", "Labels")
    subset = ", of patients that no model has seen" if predictor.by_slide else " that no model has seen"
    return (
        f"On the {metrics['num_bags']} {predictor.unit.value}s with {known}{subset}, by the mean prediction. {used} "
        "were used for these figures and for nothing else."
    )
