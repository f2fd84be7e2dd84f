"""mhim report run=runs/first: writes the HTML page of a run, with heat maps.

Inputs: a run (evaluated first if necessary), its features, and its slides for thumbnails and top tiles (the heat map of
a slide that is gone is drawn on white). Outputs, in the run: `report.html`, its pictures in `report/` (or with
`single_file=true` inside), `MODEL_CARD.md`, and `report/resolved.yaml`, its keys. Cost: under 5 s per slide with a heat
map. Exit code: 0, 2, 6.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from flows.config.commands import ReportConfig
from flows.config.files import write_resolved
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_run
from flows.runs.evaluation import VALIDATION_KEY, attention_folds, attention_key, ensure_evaluated, read_held_out
from flows.runs.explanation import read_explanation
from flows.runs.fits import FoldFits, reported_stage, results_of
from flows.runs.folder import Run, read_run, run_tiling
from flows.runs.pages import PICTURES, pictures_for, write_page
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import NotFoundError
from mhim_core.evaluation.held_out import FitId, HeldOut
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import METRICS
from mhim_core.printable import one_line
from mhim_core.records import parse_object
from mhim_core.report.data import ClassOutput, CohortSummary, Prediction, ReportData, SlidePanel, UpsampledSlide
from mhim_core.report.evaluated import (
    FitFacts,
    calibration_notes,
    few_notes,
    fold_results,
    model_results,
    site_results,
    undefined_notes,
)
from mhim_core.report.numbers import format_amount
from mhim_core.report.predictions import mean_predictions, sort_by_error
from mhim_core.report.wording import protocol_of, title_of, what_is_predicted
from mhim_core.task import SurvivalTarget, TaskKind, ValueTarget
from mhim_core.train.fit_options import Selection
from mhim_core.train.plan import Stage
from mhim_core.train.prediction import PredictWith
from mhim_core.types import IMPORTED, BagId

PAGE, CARD, MARKER = "report.html", "MODEL_CARD.md", "report.json"
_LAYOUT = 2
"""Version of the page: one of another is made anew. 2: answer first, pictures in files."""
_ORDERS = {
    TaskKind.classification: "wrong predictions first, the surest of them at the top, then the surest right ones",
    TaskKind.survival: "the most often misplaced first",
    TaskKind.regression: "the largest errors first",
}
"""Of the slides with a heat map."""


def run(config: ReportConfig) -> FlowResult:
    """Raises InputError (2) if the run is not finished."""
    trained_run = read_run(config.run, store=config.store, predict_with=config.chosen.predict_with)
    metrics = ensure_evaluated(trained_run)
    shown: dict[str, Any] = {"metrics": metrics, "page": config.page, "layout": _LAYOUT}
    if (explanation := read_explanation(trained_run)) is not None:
        shown["explanation"] = explanation
    digest = fingerprint(shown)
    page = trained_run.storage.locate(PAGE)
    outputs = {"page": page, "model card": trained_run.storage.locate(CARD)}
    if _is_there(trained_run, digest):
        mirror_run(trained_run, config.tracking)
        print(f"report: {page}")
        return FlowResult(outputs=outputs, recomputed=False)
    from mhim_core.report.model_card import model_card
    from mhim_core.report.page import render_report

    data = report_data(trained_run, metrics, config)
    trained_run.storage.delete(MARKER)  # which speaks of the page that is written over, perhaps another model's
    trained_run.storage.put(
        CARD, model_card(data, licence=str(trained_run.record["encoder"].get("licence", ""))).encode()
    )
    pictures = pictures_for(config.page, PICTURES)
    files = write_page(trained_run.storage, PAGE, render_report(data, pictures), pictures, PICTURES)
    write_resolved(trained_run.storage, config, "report", "report")
    trained_run.storage.put(MARKER, canonical_json({"of": digest, "pictures": files}))
    mirror_run(trained_run, config.tracking, data.figures)
    print(f"report: {page}")
    return FlowResult(outputs=outputs)


def report_data(trained_run: Run, metrics: dict[str, Any], config: ReportConfig) -> ReportData:
    """Everything on the page."""
    from mhim_core.report.explanation_figures import explanation_figures
    from mhim_core.report.run_figures import EvaluatedRun, run_figures

    fits = results_of(trained_run)
    rows = read_held_out(trained_run)
    held_out = EvaluatedRun(
        rows, read_held_out(trained_run, VALIDATION_KEY), trained_run.task, _unit(trained_run), metrics
    )
    predictions = _predictions(trained_run, held_out.of_model(held_out.reported))
    encoder = trained_run.feature_set.encoder_id
    num_seeds = len(trained_run.seeds)
    return ReportData(
        title=title_of(trained_run.record["cohort_name"], trained_run.task),
        task=f"{what_is_predicted(trained_run.task, _unit(trained_run))}, "
        f"by {_model_sentence(trained_run)} on features of {encoder}.",
        kind=trained_run.task.kind,
        unit=_unit(trained_run),
        num_seeds=num_seeds,
        cohort=_cohort(trained_run, metrics),
        classes=trained_run.classes,
        protocol=_protocol(trained_run, metrics),
        models=model_results(metrics),
        folds=fold_results(metrics, _fit_facts(trained_run, fits)),
        sites=site_results(metrics),
        site_note=_site_note(trained_run),
        figures=(
            *run_figures(held_out, list(_curves(trained_run, fits)), _selected_by(fits)),
            *explanation_figures(read_explanation(trained_run)),
        ),
        predictions=predictions,
        averaged=f"{num_seeds} seeds" if num_seeds > 1 else "",
        panels=tuple(islice(_panels(trained_run, predictions, config), config.page.max_heatmaps)),
        panel_order=_ORDERS[trained_run.task.kind],
        encoder=trained_run.record["encoder"],
        tiling=trained_run.record["tiling"],
        training=_training(trained_run),
        provenance={
            "run": trained_run.record["fingerprint"],
            "manifest version": trained_run.record["manifest"]["version"],
            "manifest sha256": trained_run.record["manifest"]["sha256"],
            "feature set": trained_run.identity["feature_set"],
            "cohort table sha256": trained_run.record["cohort_sha256"],
            "versions": trained_run.record["versions"],
        },
        notes=_notes(trained_run, metrics),
    )


def _unit(trained_run: Run) -> str:
    """What a bag is: slide or patient."""
    return str(trained_run.identity["target"]["bags"])


def _model_sentence(trained_run: Run) -> str:
    aggregator = str(trained_run.identity["model"]["aggregator"]).upper()
    if reported_stage(trained_run) is Stage.plain:
        return f"plain {aggregator}"
    kind = {PredictWith.teacher: " (the teacher)", PredictWith.pair: " together with its plain stage-1 model"}
    return f"{aggregator} trained with masked hard instance mining{kind.get(trained_run.predict_with, '')}"


def _training(trained_run: Run) -> dict[str, Any]:
    """The method's keys, as they identify the run."""
    keys = ("method", "seeds", "target", "model", "mhim", "fit", "splits")
    facts = {key: trained_run.identity[key] for key in keys if key in trained_run.identity}
    if trained_run.method == Stage.mhim:
        facts["prediction"] = {"predict_with": trained_run.predict_with}
    if trained_run.task.kind is not TaskKind.survival:
        facts["target"] = {key: value for key, value in facts["target"].items() if key != "time_bins"}
    return facts


def _cohort(trained_run: Run, metrics: dict[str, Any]) -> CohortSummary:
    entries = trained_run.manifest.entries
    excluded = trained_run.record["excluded"]
    members = [entries[slide.slide_id] for slide in trained_run.slides]
    num_left_out = excluded["not embedded"] + excluded["without tissue"]
    return CohortSummary(
        name=trained_run.record["cohort_name"],
        num_slides=len(trained_run.slides) + num_left_out,
        num_patients=len({slide.patient_id for slide in trained_run.slides}),
        num_ok=len(trained_run.slides),
        num_empty=excluded["without tissue"],
        num_failed=excluded["not embedded"],
        num_per_class={name: sum(slide.label == name for slide in trained_run.slides) for name in trained_run.classes},
        num_unlabelled=excluded["unlabelled"],
        targets=_targets(trained_run) | _sites(trained_run, metrics),
        upsampled=tuple(
            UpsampledSlide(entry.slide_id, entry.reading.upsample) for entry in members if entry.reading.upsample > 1.0
        ),
    )


def _targets(trained_run: Run) -> dict[str, str]:
    """Facts about targets that are not classes: events and times, or the range of values."""
    targets = [bag.target for bag in trained_run.bags]
    seen = [target for target in targets if isinstance(target, SurvivalTarget)]
    values = sorted(target.value for target in targets if isinstance(target, ValueTarget))
    if seen:
        times = sorted(target.time for target in seen)
        return {
            "Events": f"{sum(target.event for target in seen)} of {len(seen)} "
            f"{_unit(trained_run)}s, the others censored",
            "Times": f"{format_amount(times[0])} to {format_amount(times[-1])}",
        }
    if values:
        return {"Values": f"{format_amount(values[0])} to {format_amount(values[-1])}"}
    return {}


def _sites(trained_run: Run, metrics: dict[str, Any]) -> dict[str, str]:
    sites = {bag.site for bag in trained_run.bags if bag.site}
    without = metrics["num_bags_without_site"]
    if not sites:
        return {}
    return {"Sites": f"{len(sites)}" + (f", {without} held-out {_unit(trained_run)}s without one" if without else "")}


def _protocol(trained_run: Run, metrics: dict[str, Any]) -> str:
    by_best = trained_run.identity["fit"]["selection"] == Selection.best
    selected_by = _selected_by(results_of(trained_run))
    return protocol_of(
        unit=_unit(trained_run),
        num_folds=len(trained_run.splits),
        seeds=trained_run.seeds,
        replicates=metrics["replicates"],
        selected_by=(METRICS[selected_by].title if selected_by in METRICS else "loss") if by_best else "",
        uno_tau=metrics["uno_tau"],
    )


def _selected_by(fits: Sequence[FoldFits]) -> str:
    """What chooses the epoch on validation: the key of a metric, or loss."""
    return next(iter(fits[0].results.values())).metric_name


def _fit_facts(trained_run: Run, fits: Sequence[FoldFits]) -> dict[FitId, FitFacts]:
    stage = reported_stage(trained_run)
    splits = {split.fold: split for split in trained_run.splits}
    return {
        FitId(fold_fits.seed, fold_fits.fold): FitFacts(
            len(bags_in(trained_run.bags, splits[fold_fits.fold].train)),
            len(bags_in(trained_run.bags, splits[fold_fits.fold].validation)),
            fold_fits.results[stage].best_epoch,
        )
        for fold_fits in fits
    }


def _curves(trained_run: Run, fits: Sequence[FoldFits]) -> Iterator[Any]:
    from mhim_core.report.figures import FitCurve

    for fold_fits in fits:
        for stage, fit in sorted(fold_fits.results.items(), reverse=True):
            has_metric = fit.metric_name in METRICS
            yield FitCurve(
                stage,
                fold_fits.seed,
                fold_fits.fold,
                [epoch.task_loss for epoch in fit.history],
                [epoch.validation_metric if has_metric else epoch.validation_loss for epoch in fit.history],
                fit.best_epoch - 1,
            )


def _predictions(trained_run: Run, rows: Sequence[HeldOut]) -> tuple[Prediction, ...]:
    return mean_predictions(rows, trained_run.task, {bag.bag_id: len(bag.slide_ids) for bag in trained_run.bags})


def _panels(trained_run: Run, predictions: Sequence[Prediction], config: ReportConfig) -> Iterator[SlidePanel]:
    """Heat maps of wrong predictions first, then of the surest ones."""
    from flows.prediction.panels import slide_panel, why_no_heat_map

    source = trained_run.bag_source()
    uris = {str(slide.slide_id): trained_run.slide_uri(slide) for slide in trained_run.slides}
    of_fold = attention_folds(trained_run)
    max_bytes = config.page.bytes_per_slide(len(trained_run.slides))
    for prediction in _ordered(trained_run, predictions):
        caption = f"fold {prediction.fold}, patient {prediction.patient_id}"
        if len(trained_run.seeds) > 1:
            caption += f"; the attention is that of seed {trained_run.seeds[0]}"
        for table in source.read_tables(BagId(prediction.bag_id)):
            if of_fold[table.slide_id] != prediction.fold:
                continue  # another fold's prediction of the bag, whose attention is not kept
            if reason := why_no_heat_map(table):
                print(one_line(reason))
                continue
            attention = trained_run.storage.get(attention_key(table.slide_id))
            uri = uris[table.slide_id]
            yield slide_panel(
                prediction, uri, table, attention, run_tiling(trained_run), config.page.top_tiles, caption, max_bytes
            )


def _ordered(trained_run: Run, predictions: Sequence[Prediction]) -> list[Prediction]:
    if trained_run.task.kind is not TaskKind.classification:
        return [row.prediction for row in sort_by_error(predictions)]

    def key(prediction: Prediction) -> tuple[bool, float, str]:
        assert isinstance(prediction.output, ClassOutput)
        return (
            prediction.output.predicted == prediction.output.label,
            -max(prediction.output.probabilities),
            prediction.bag_id,
        )

    return sorted(predictions, key=key)


def _site_note(trained_run: Run) -> str:
    """Whether models were trained on other patients of the sites on which they are judged."""
    sites = {slide.slide_id: slide.site for slide in trained_run.slides}
    for split in trained_run.splits:
        fitted = {sites[slide_id] for slide_id in (*split.train, *split.validation)}
        if any(sites[slide_id] in fitted for slide_id in split.test if sites[slide_id]):
            return "Models were trained on other patients of the same sites: this is no test on new sites."
    return "No model was trained on a slide of the site that it is judged on."


def _notes(trained_run: Run, metrics: dict[str, Any]) -> tuple[str, ...]:
    calibrated = metrics["models"][metrics["reported"]].get("calibration", {"fits": []})
    limits = calibration_notes(fit["value"] for fit in calibrated["fits"])
    return (
        *_origin_notes(trained_run),
        *few_notes(metrics["num_patients"], compared=True),
        *undefined_notes(metrics),
        *limits,
    )


def _origin_notes(trained_run: Run) -> Iterator[str]:
    """What to know of features that mhim did not compute."""
    origin = trained_run.record["tiling"].get(IMPORTED)
    if origin is not None:
        places = "; they have no coordinates, so there are no heat maps" if origin["coords"] == "none" else ""
        yield (
            f"The features were imported from another tool (files of {origin['format']}) and not computed by mhim, "
            f"which knows of encoder and tiles what these files state{places}."
        )


def _is_there(trained_run: Run, digest: str) -> bool:
    try:
        marker = parse_object(trained_run.storage.get(MARKER), trained_run.storage.locate(MARKER))
    except NotFoundError:
        return False
    if marker.get("of") != digest:
        return False
    present = {entry.key for entry in trained_run.storage.list("")}
    return {PAGE, CARD, *marker.get("pictures", ())} <= present
