"""The page of a prediction: who was predicted what, and where the models looked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.inputs import CohortInput
from flows.models import model_names
from flows.run_folder import Run, run_tiling, versions
from mhim_core.metrics import Estimate
from mhim_core.outcome import Outcome
from mhim_core.report.data import CohortSummary, FailedSlide, ModelResult, Prediction, ReportData, SlidePanel
from mhim_core.storage import Storage
from mhim_core.types import BagId, Status

if TYPE_CHECKING:
    from mhim_core.store.bags import ParquetBags

Rows = Sequence[dict[str, Any]]


def prediction_page(
    given: Run,
    rows: Rows,
    panels: Sequence[SlidePanel],
    cohort: CohortInput,
    outcome: Outcome,
    metrics: dict[str, Any] | None,
) -> str:
    """The page as HTML; `metrics` are those of the labelled slides that the run did not train on."""
    from mhim_core.report.page import render_report

    estimates = {} if metrics is None else {key: Estimate(**one) for key, one in metrics["estimates"].items()}
    members = cohort.cohort.rows
    data = ReportData(
        title=f"Predictions for {cohort.cohort.name}",
        task=f"{', '.join(given.classes)}, by the mean of {len(given.splits)} fold models.",
        cohort=CohortSummary(
            name=cohort.cohort.name,
            num_slides=len(members),
            num_patients=len({row.patient_id for row in members}),
            num_ok=outcome.count(Status.OK),
            num_empty=outcome.count(Status.EMPTY),
            num_failed=outcome.count(Status.FAILED),
            num_skipped=outcome.count(Status.SKIPPED),
            failures=tuple(FailedSlide(row.slide_id, str(row.reason), row.message) for row in outcome.failed),
        ),
        classes=given.classes,
        protocol="Labels, where the table has them, were used for these figures and for nothing else.",
        models=(ModelResult(name=model_names(given)[0], estimates=estimates, is_reported=True),) if estimates else (),
        predictions=tuple(as_prediction(given, row) for row in rows),
        panels=tuple(panels),
        encoder=given.record["encoder"],
        tiling=given.record["tiling"],
        provenance={"run": given.record["fingerprint"], "versions": versions()},
        notes=() if metrics is None else tuple(metrics["notes"]),
    )
    return render_report(data)


def draw_panels(
    given: Run, rows: Rows, bags: "ParquetBags", cohort: CohortInput, out: Storage, num: int, top_tiles: int
) -> list[SlidePanel]:
    """Heat maps of the mean attention, the surest predictions first."""
    from flows.panels import slide_panel

    uris = {str(row.slide_id): row.uri for row in cohort.cohort.rows}
    predictions = [as_prediction(given, row) for row in rows]
    return [
        slide_panel(
            prediction,
            uris[prediction.slide_id],
            bags.read_table(BagId(prediction.slide_id)),
            out.get(f"attention/{prediction.slide_id}.parquet"),
            run_tiling(given),
            top_tiles,
            f"patient {prediction.patient_id}",
        )
        for prediction in sorted(predictions, key=lambda one: (-max(one.probabilities), one.slide_id))[:num]
    ]


def as_prediction(given: Run, row: dict[str, Any]) -> Prediction:
    """A row of predictions.csv as the page knows it."""
    probabilities = tuple(row[f"probability_{name}"] for name in given.classes)
    return Prediction(row["slide_id"], row["patient_id"], row["label"], row["predicted"], probabilities)
