"""mhim report run=runs/first: one self-contained HTML page that a pathologist or an engineer can read.

Inputs: an evaluated run (evaluation is run if it is missing), its features, and its slides for thumbnails and top tiles
(a slide that is no longer there gets its heat map on white). Outputs: `report.html` and `MODEL_CARD.md` in the run.
Cost: under 5 s a slide with a heat map.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from flows.config.commands import ReportConfig
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_run
from flows.runs.evaluation import VALIDATION_KEY, attention_folds, attention_key, ensure_evaluated, read_held_out
from flows.runs.fits import FoldFits, model_names, results_of
from flows.runs.folder import Run, read_run, run_tiling
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import NotFoundError
from mhim_core.evaluation.held_out import FitId, HeldOut
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import METRICS
from mhim_core.report.data import ClassOutput, CohortSummary, Prediction, ReportData, SlidePanel, UpsampledSlide
from mhim_core.report.evaluated import FitFacts, fold_results, model_results, site_results, undefined_notes
from mhim_core.report.numbers import format_amount
from mhim_core.report.predictions import mean_predictions, sort_by_error
from mhim_core.report.wording import protocol_of, title_of, what_is_predicted
from mhim_core.task import SurvivalTarget, TaskKind, ValueTarget
from mhim_core.train.fit_options import Selection
from mhim_core.types import BagId

PAGE, CARD, MARKER = "report.html", "MODEL_CARD.md", "report.json"
_FEW_PATIENTS = 50


def run(config: ReportConfig) -> FlowResult:
    """Raises InputError (2) where the run is not finished."""
    given = read_run(config.run, store=config.store)
    metrics = ensure_evaluated(given)
    digest = fingerprint({"metrics": metrics, "heatmaps": config.page.max_heatmaps, "tiles": config.page.top_tiles})
    page = given.storage.locate(PAGE)
    outputs = {"page": page, "model card": given.storage.locate(CARD)}
    if _is_there(given, digest):
        mirror_run(given, config.tracking)
        print(f"report: {page}")
        return FlowResult(outputs=outputs, recomputed=False)
    from mhim_core.report.card import model_card
    from mhim_core.report.page import render_report

    data = report_data(given, metrics, config)
    given.storage.put(CARD, model_card(data, licence=str(given.record["encoder"].get("licence", ""))).encode())
    given.storage.put(PAGE, render_report(data).encode())
    given.storage.put(MARKER, canonical_json({"of": digest}))
    mirror_run(given, config.tracking, data.figures)
    print(f"report: {page}")
    return FlowResult(outputs=outputs)


def report_data(given: Run, metrics: dict[str, Any], config: ReportConfig) -> ReportData:
    """Everything on the page."""
    from mhim_core.report.run_figures import EvaluatedRun, run_figures

    fits = results_of(given)
    rows = read_held_out(given)
    held_out = EvaluatedRun(rows, read_held_out(given, VALIDATION_KEY), given.task, _unit(given), metrics)
    predictions = _predictions(given, held_out.of_model(held_out.reported))
    encoder = given.feature_set.encoder_id
    num_seeds = len(given.seeds)
    return ReportData(
        title=title_of(given.record["cohort_name"], given.task),
        task=f"{what_is_predicted(given.task, _unit(given))}, by {_model_sentence(given)} on features of {encoder}.",
        kind=given.task.kind,
        unit=_unit(given),
        num_seeds=num_seeds,
        cohort=_cohort(given, metrics),
        classes=given.classes,
        protocol=_protocol(given, metrics),
        models=model_results(metrics),
        folds=fold_results(metrics, _fit_facts(given, fits)),
        sites=site_results(metrics),
        site_note=_site_note(given),
        figures=tuple(run_figures(held_out, list(_curves(given, fits)), _selected_by(fits))),
        predictions=predictions,
        averaged=f"{num_seeds} seeds" if num_seeds > 1 else "",
        panels=tuple(islice(_panels(given, predictions, config), config.page.max_heatmaps)),
        encoder=given.record["encoder"],
        tiling=given.record["tiling"],
        training=_training(given),
        provenance={
            "run": given.record["fingerprint"],
            "manifest version": given.record["manifest"]["version"],
            "manifest sha256": given.record["manifest"]["sha256"],
            "feature set": given.identity["feature_set"],
            "cohort table sha256": given.record["cohort_sha256"],
            "versions": given.record["versions"],
        },
        notes=_notes(given, metrics),
    )


def _unit(given: Run) -> str:
    """What a bag is: slide or patient."""
    return str(given.identity["target"]["bags"])


def _model_sentence(given: Run) -> str:
    aggregator = str(given.identity["model"]["aggregator"]).upper()
    return f"{aggregator} trained with masked hard instance mining" if given.method == "mhim" else f"plain {aggregator}"


def _training(given: Run) -> dict[str, Any]:
    """The method's keys, as they identify the run."""
    keys = ("method", "seeds", "target", "model", "mhim", "fit", "splits")
    facts = {key: given.identity[key] for key in keys if key in given.identity}
    if given.task.kind is not TaskKind.survival:
        facts["target"] = {key: one for key, one in facts["target"].items() if key != "time_bins"}
    return facts


def _cohort(given: Run, metrics: dict[str, Any]) -> CohortSummary:
    entries = given.manifest.entries
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
        targets=_targets(given) | _sites(given, metrics),
        upsampled=tuple(UpsampledSlide(one.slide_id, one.upsample) for one in members if one.upsample > 1.0),
    )


def _targets(given: Run) -> dict[str, str]:
    """What is to be known of targets that are no classes."""
    targets = [bag.target for bag in given.bags]
    seen = [one for one in targets if isinstance(one, SurvivalTarget)]
    values = sorted(one.value for one in targets if isinstance(one, ValueTarget))
    if seen:
        times = sorted(one.time for one in seen)
        return {
            "Events": f"{sum(one.event for one in seen)} of {len(seen)} {_unit(given)}s, the others censored",
            "Times": f"{format_amount(times[0])} to {format_amount(times[-1])}",
        }
    if values:
        return {"Values": f"{format_amount(values[0])} to {format_amount(values[-1])}"}
    return {}


def _sites(given: Run, metrics: dict[str, Any]) -> dict[str, str]:
    sites = {bag.site for bag in given.bags if bag.site}
    without = metrics["num_bags_without_site"]
    if not sites:
        return {}
    return {"Sites": f"{len(sites)}" + (f", {without} held-out {_unit(given)}s without one" if without else "")}


def _protocol(given: Run, metrics: dict[str, Any]) -> str:
    by_best = given.identity["fit"]["selection"] == Selection.best
    selected_by = _selected_by(results_of(given))
    return protocol_of(
        unit=_unit(given),
        num_folds=len(given.splits),
        seeds=given.seeds,
        replicates=metrics["replicates"],
        selected_by=(METRICS[selected_by].title if selected_by in METRICS else "loss") if by_best else "",
        uno_tau=metrics["uno_tau"],
    )


def _selected_by(fits: Sequence[FoldFits]) -> str:
    """What is watched on validation: the key of a metric, or loss."""
    return next(iter(fits[0].results.values())).metric_name


def _fit_facts(given: Run, fits: Sequence[FoldFits]) -> dict[FitId, FitFacts]:
    stage = model_names(given)[0]
    splits = {split.fold: split for split in given.splits}
    return {
        FitId(one.seed, one.fold): FitFacts(
            len(bags_in(given.bags, splits[one.fold].train)),
            len(bags_in(given.bags, splits[one.fold].validation)),
            one.results[stage].best_epoch,
        )
        for one in fits
    }


def _curves(given: Run, fits: Sequence[FoldFits]) -> Iterator[Any]:
    from mhim_core.report.figures import FitCurve

    for one in fits:
        for stage, fit in sorted(one.results.items(), reverse=True):
            has_metric = fit.metric_name in METRICS
            yield FitCurve(
                stage,
                one.seed,
                one.fold,
                [epoch.task_loss for epoch in fit.history],
                [epoch.validation_metric if has_metric else epoch.validation_loss for epoch in fit.history],
                fit.best_epoch - 1,
            )


def _predictions(given: Run, rows: Sequence[HeldOut]) -> tuple[Prediction, ...]:
    return mean_predictions(rows, given.task, {bag.bag_id: len(bag.slide_ids) for bag in given.bags})


def _panels(given: Run, predictions: Sequence[Prediction], config: ReportConfig) -> Iterator[SlidePanel]:
    """Wrong ones first, then the surest: what a reader wants to look at."""
    from flows.prediction.panels import slide_panel

    source = given.bag_source()
    uris = {str(slide.slide_id): given.slide_uri(slide) for slide in given.slides}
    of_fold = attention_folds(given)
    for one in _ordered(given, predictions):
        caption = f"fold {one.fold}, patient {one.patient_id}"
        if len(given.seeds) > 1:
            caption += f"; the attention is that of seed {given.seeds[0]}"
        for table in source.read_tables(BagId(one.bag_id)):
            if of_fold[table.slide_id] != one.fold:
                continue  # another fold's prediction of the bag, whose attention is not kept
            attention = given.storage.get(attention_key(table.slide_id))
            uri = uris[table.slide_id]
            yield slide_panel(one, uri, table, attention, run_tiling(given), config.page.top_tiles, caption)


def _ordered(given: Run, predictions: Sequence[Prediction]) -> list[Prediction]:
    if given.task.kind is not TaskKind.classification:
        return [row.prediction for row in sort_by_error(predictions)]

    def key(one: Prediction) -> tuple[bool, float, str]:
        assert isinstance(one.output, ClassOutput)
        return one.output.predicted == one.output.label, -max(one.output.probabilities), one.bag_id

    return sorted(predictions, key=key)


def _site_note(given: Run) -> str:
    """Had the models that judged a site's bags seen the site?"""
    sites = {slide.slide_id: slide.site for slide in given.slides}
    for split in given.splits:
        fitted = {sites[slide_id] for slide_id in (*split.train, *split.validation)}
        if any(sites[slide_id] in fitted for slide_id in split.test if sites[slide_id]):
            return "Models were trained on other patients of the same sites: this is no test on new sites."
    return "No model was trained on a slide of the site that it is judged on."


def _notes(given: Run, metrics: dict[str, Any]) -> tuple[str, ...]:
    num_patients = metrics["num_patients"]
    few = (f"{num_patients} patients are few: the intervals are wide, and the comparison of models is open.",)
    return (*(few if num_patients < _FEW_PATIENTS else ()), *undefined_notes(metrics))


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
