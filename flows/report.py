"""mhim report run=runs/first: one self-contained HTML page that a pathologist or an engineer can read.

Inputs: an evaluated run (evaluation is run if it is missing), its features, and its slides for thumbnails and top tiles
(a slide that is no longer there gets its heat map on white). Outputs: `report.html` and `MODEL_CARD.md` in the run.
Cost: under 5 s a slide with a heat map.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from flows.config import ReportConfig
from flows.evaluate import attention_key, ensure_evaluated
from flows.models import model_names, results_of
from flows.result import FlowResult
from flows.run_folder import Run, read_run, run_tiling
from mhim_core.errors import NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import Estimate, MeanStd, Metric, UndefinedMetricError
from mhim_core.report.data import (
    CohortSummary,
    FoldResult,
    ModelResult,
    Prediction,
    ReportData,
    ReportFigure,
    SlidePanel,
    UpsampledSlide,
)
from mhim_core.types import BagId

PAGE, CARD, MARKER = "report.html", "MODEL_CARD.md", "report.json"


def run(config: ReportConfig) -> FlowResult:
    """Raises InputError (2) where the run is not finished."""
    given = read_run(config.run)
    metrics = ensure_evaluated(given)
    digest = fingerprint({"metrics": metrics, "heatmaps": config.max_heatmaps, "tiles": config.top_tiles})
    page = given.storage.locate(PAGE)
    outputs = {"page": page, "model card": given.storage.locate(CARD)}
    if _is_there(given, digest):
        print(f"report: {page}")
        return FlowResult(outputs=outputs, recomputed=False)
    from mhim_core.report.card import model_card
    from mhim_core.report.page import render_report

    data = report_data(given, metrics, config)
    given.storage.put(CARD, model_card(data, licence=str(given.record["encoder"].get("licence", ""))).encode())
    given.storage.put(PAGE, render_report(data).encode())
    given.storage.put(MARKER, canonical_json({"of": digest}))
    print(f"report: {page}")
    return FlowResult(outputs=outputs)


def report_data(given: Run, metrics: dict[str, Any], config: ReportConfig) -> ReportData:
    """Everything on the page."""
    predictions = _predictions(given)
    reported = metrics["reported"]
    return ReportData(
        title=f"{given.record['cohort_name']}: {', '.join(given.classes)}",
        task=(
            f"Telling {', '.join(given.classes)} apart from whole slides, by {_model_sentence(given)} on features of "
            f"{given.feature_set.encoder_id}."
        ),
        cohort=_cohort(given),
        classes=given.classes,
        protocol=_protocol(given, metrics),
        models=tuple(
            ModelResult(
                name=name,
                estimates={key: Estimate(**one) for key, one in model["pooled"].items()},
                over_folds={key: MeanStd(**one) for key, one in model["over_folds"].items()},
                is_reported=name == reported,
            )
            for name, model in metrics["models"].items()
        ),
        folds=_folds(given, metrics["models"][reported]["folds"]),
        figures=tuple(_figures(given, metrics)),
        predictions=tuple(predictions),
        panels=tuple(_panels(given, predictions, config)),
        encoder=given.record["encoder"],
        tiling=given.record["tiling"],
        training={
            key: given.identity[key] for key in ("method", "model", "mhim", "fit", "splits") if key in given.identity
        },
        provenance={
            "run": given.record["fingerprint"],
            "manifest version": given.record["manifest"]["version"],
            "manifest sha256": given.record["manifest"]["sha256"],
            "feature set": given.identity["feature_set"],
            "versions": given.record["versions"],
        },
        notes=_notes(given, metrics),
    )


def _model_sentence(given: Run) -> str:
    aggregator = str(given.identity["model"]["aggregator"]).upper()
    return f"{aggregator} trained with masked hard instance mining" if given.method == "mhim" else f"plain {aggregator}"


def _cohort(given: Run) -> CohortSummary:
    entries = given.manifest().entries
    excluded = given.record["excluded"]
    members = [entries[slide.slide_id] for slide in given.slides]
    num_left_out = excluded["not embedded"] + excluded["without tissue"]
    return CohortSummary(
        name=given.record["cohort_name"],
        num_slides=len(given.slides) + num_left_out,
        num_patients=len({slide.patient_id for slide in given.slides}),
        num_ok=len(given.slides),
        num_empty=excluded["without tissue"],
        num_failed=excluded["not embedded"],
        num_per_class={name: sum(slide.label == name for slide in given.slides) for name in given.classes},
        num_unlabelled=excluded["unlabelled"],
        upsampled=tuple(UpsampledSlide(one.slide_id, one.upsample) for one in members if one.upsample > 1.0),
    )


def _protocol(given: Run, metrics: dict[str, Any]) -> str:
    num = len(given.splits)
    scheme = "one split" if num == 1 else f"{num} patient-level folds"
    return (
        f"{scheme}; every slide is judged by a model that saw no slide of its patient and whose epoch was chosen on "
        f"validation patients alone. Intervals are 95 % percentiles of {metrics['replicates']} bootstrap replicates "
        "over patients on the pooled held-out predictions."
    )


def _folds(given: Run, folds: Sequence[dict[str, Any]]) -> tuple[FoldResult, ...]:
    stage = model_names(given)[0]
    return tuple(
        FoldResult(
            split.fold,
            len(split.train),
            len(split.validation),
            len(split.test),
            {name: Metric(**metric) for name, metric in fold.items()},
            results[stage].best_epoch - 1,
        )
        for split, fold, results in zip(given.splits, folds, results_of(given), strict=True)
    )


def _predictions(given: Run, model: str | None = None) -> list[Prediction]:
    """Held-out predictions of one model (None: the reported one), by slide."""
    import pyarrow.parquet as pq
    from pyarrow import BufferReader

    rows = pq.read_table(BufferReader(given.storage.get("evaluation/predictions.parquet"))).to_pylist()
    wanted = model or model_names(given)[0]
    return [
        Prediction(
            row["slide_id"],
            row["patient_id"],
            row["label"],
            row["predicted"],
            tuple(row[f"probability_{name}"] for name in given.classes),
            row["fold"],
        )
        for row in rows
        if row["model"] == wanted
    ]


def _figures(given: Run, metrics: dict[str, Any]) -> Iterator[ReportFigure]:
    from mhim_core.report import figures

    index = {label: position for position, label in enumerate(given.classes)}
    predictions = _predictions(given)
    truth = [index[one.label] for one in predictions if one.label is not None]
    scores = [one.probabilities for one in predictions]
    try:
        yield ReportFigure(
            "ROC", figures.roc_figure(_roc_series(given, metrics)), "Held-out slides; thin: single folds."
        )
    except UndefinedMetricError as error:
        print(f"no ROC figure: {error}")
    yield ReportFigure("Scores", figures.score_figure(truth, scores, given.classes), "Each dot is a held-out slide.")
    yield ReportFigure("Calibration", figures.calibration_figure(truth, scores), "Dots by number of slides.")
    curves = [
        figures.FitCurve(
            stage,
            fit.fold,
            [epoch.task_loss for epoch in fit.history],
            [epoch.validation_auroc for epoch in fit.history],
            fit.best_epoch - 1,
        )
        for results in results_of(given)
        for stage, fit in sorted(results.items(), reverse=True)
    ]
    yield ReportFigure("Training", figures.training_figure(curves), "Dots mark the epochs that were kept.")


def _roc_series(given: Run, metrics: dict[str, Any]) -> list[Any]:
    from mhim_core.report.figures import RocSeries, Scores

    def series(title: str, predictions: list[Prediction], column: int, estimate: Estimate | None) -> RocSeries:
        def scores(members: list[Prediction]) -> Scores:
            positive = given.classes[column]
            return Scores(
                [int(one.label == positive) for one in members], [one.probabilities[column] for one in members]
            )

        folds = [[one for one in predictions if one.fold == split.fold] for split in given.splits]
        return RocSeries(title, scores(predictions), tuple(scores(fold) for fold in folds if fold), estimate)

    if len(given.classes) > 2:
        predictions = _predictions(given)
        return [series(f"{name} against the rest", predictions, i, None) for i, name in enumerate(given.classes)]
    found = []
    for name in model_names(given):
        estimate = Estimate(**metrics["models"][name]["pooled"]["auroc"])
        found.append(series(name, _predictions(given, name), 1, estimate))
    return found


def _panels(given: Run, predictions: Sequence[Prediction], config: ReportConfig) -> Iterator[SlidePanel]:
    """Wrong ones first, then the surest: what a reader wants to look at."""
    from flows.panels import slide_panel
    from mhim_core.store.bags import ParquetBags

    bags = ParquetBags(given.feature_store, given.manifest().bags())
    uris = {str(slide.slide_id): slide.uri for slide in given.slides}
    ordered = sorted(predictions, key=lambda one: (one.predicted == one.label, -max(one.probabilities), one.slide_id))
    for prediction in ordered[: config.max_heatmaps]:
        table = bags.read_table(BagId(prediction.slide_id))
        attention = given.storage.get(attention_key(prediction.slide_id))
        caption = f"fold {prediction.fold}, patient {prediction.patient_id}"
        uri = uris[prediction.slide_id]
        yield slide_panel(prediction, uri, table, attention, run_tiling(given), config.top_tiles, caption)


def _notes(given: Run, metrics: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if metrics["num_patients"] < 50:
        notes.append(
            f"{metrics['num_patients']} patients are few: the intervals are wide, and the comparison of models is open."
        )
    undefined = {
        f"{name} is undefined: {one['reason']}"
        for name, one in metrics["models"][metrics["reported"]]["pooled"].items()
        if one["value"] is None
    }
    return (*notes, *sorted(undefined))


def _is_there(given: Run, digest: str) -> bool:
    import json

    try:
        found = json.loads(given.storage.get(MARKER))
    except NotFoundError:
        return False
    if found["of"] != digest:
        return False
    present = {entry.key for entry in given.storage.list("")}
    return {PAGE, CARD} <= present
