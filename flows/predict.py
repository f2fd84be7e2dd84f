"""mhim predict run=runs/first cohort=new.csv out=predictions/new: predicts new slides with a run's fold models.
mhim predict model=lung@champion registry=./registry cohort=new.csv out=predictions/new: with a registered model.

Inputs: a finished run, or a registered model, which needs nothing but its registry; a cohort table (if it has labels,
metrics are computed). The slides are embedded with exactly the model's tiling and encoder card, into store=, else the
run's store, else `features/` in out; features that a model was trained on as imported ones must be imported there.
Outputs, in out: predictions (Parquet, CSV; one row per slide, or per patient if bags are patients) with the mean over
the models and its spread, calibrated probabilities and the decision at the threshold; the mean attention; a page with
heat maps; with robustness=true how far each prediction is from another class. Between two predictions of the same, only
`predicted_at` differs.
Cost: embedding slides that are not in the store yet, then one pass per model, and for a run one pass over its
validation bags. Exit code: 0, 2, 3, 4, 5 (out holds predictions by another model), 6.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.storage import open_storage
from flows.config.commands import PredictConfig
from flows.config.files import write_resolved
from flows.config.keys import PageKeys
from flows.embed import embed_cohort
from flows.engine.result import FlowResult
from flows.prediction.predictor import Predictor, predictor_of_model, predictor_of_run
from flows.runs.cohort import CohortInput, load_cohort
from flows.runs.embed_report import Embedded
from flows.runs.evaluation import slide_attention
from flows.runs.folder import Run, read_run
from flows.runs.imported_features import find_imported
from flows.runs.pages import PICTURES, pictures_for, write_page
from flows.runs.regions import with_regions
from flows.runs.selection import settled_selection
from flows.runs.signed_registry import open_registry
from mhim_core.cohort.spellings import spell_as
from mhim_core.errors import ConflictError, InputError, NotFoundError
from mhim_core.evaluation.prediction_table import class_columns, new_bags_schema
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_object
from mhim_core.registry.external import External, NewBag, PredictedBag, bag_words, external_metrics, new_bags
from mhim_core.storage import Storage
from mhim_core.store.record import CommitRecord
from mhim_core.tables import write_csv, write_parquet
from mhim_core.task import TaskKind
from mhim_core.types import SlideId, Status

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import PatientBags
    from mhim_core.train.inference import BagPrediction

SUMMARY, PAGE = "summary.json", "report.html"
_SCHEMA = 3
"""Version of the files that are written; predictions of another version are made anew."""


def run(config: PredictConfig) -> FlowResult:
    """Raises InputError (2), EncoderError (2) if the model's encoder is not available, ConflictError (5)."""
    config.check_source()
    predictor = predictor_of(config)
    out = open_storage(config.out)
    present = _read_summary(out)
    if present is not None:
        _check_same(present, predictor, out)
    cohort = load_cohort(
        config.data.cohort,
        strict=config.failures.strict,
        with_files=not predictor.is_imported,
        options=config.table,
    )
    cohort = cohort._replace(cohort=spell_as(cohort.cohort, predictor.classes, config.table.label_spellings))
    if predictor.is_imported:
        because = "the model was trained on imported features, whose tiles another tool has cut"
        config.regions.refuse(because)
        config.selection.refuse(because)
    else:
        card = predictor.encoder_here(config.encoder.weights_of(str(predictor.encoder["id"])))
    store = open_storage(config.store) if config.store else predictor.store or open_storage(out.locate("features"))
    if predictor.is_imported:
        embedded = find_imported(cohort, predictor.tiling, predictor.encoder, store, config.failures)
    else:
        spec = config.regions.settled(predictor.tile_spec(), fixed=True)
        selection = settled_selection(spec, config.selection, store, cohort.cohort.rows, fixed=True)
        cohort = with_regions(cohort, spec, config.regions, named_here=False, selection=selection)
        embedded = embed_cohort(cohort, card, spec, config, store)
    entries = {key: entry for key, entry in embedded.entries.items() if entry.status is Status.OK}
    if not entries:
        raise InputError(f"none of the slides of {cohort.cohort.name} has tiles to predict from")
    asked = {"robustness": config.robustness_known} if config.robustness else {}
    digest = fingerprint(
        asked
        | {
            "by": predictor.origin,
            "models": predictor.digests,
            "holdout": None if predictor.holdout is None else predictor.holdout.fingerprint,
            "features": {key: entry.sha256 for key, entry in entries.items()},
            "table": [
                (row.slide_id, row.patient_id, row.label, row.time, row.event, row.site) for row in cohort.cohort.rows
            ],
            "page": _page_identity(config.page),
            "schema": _SCHEMA,
        }
    )
    places = {"predictions": out.locate("predictions.csv"), "page": out.locate(PAGE)}
    recomputed = present is None or present["of"] != digest
    if recomputed:
        present = _predict(config, predictor, cohort, embedded, entries, store, out) | {"of": digest}
        out.put(SUMMARY, canonical_json(present))  # last: it says that the rest is there
    assert present is not None
    print(
        f"{present['num_bags']} {bag_words(predictor.unit)} predicted by {_models(predictor)}: {places['predictions']}"
    )
    _print_metrics(predictor, External(present["metrics"], present["notes"]))
    if config.robustness:
        places["robustness"] = out.locate("robustness.csv")
        print(f"robustness: {places['robustness']}")
    print(f"page: {places['page']}")
    return FlowResult(
        exit_code=embedded.result.exit_code,
        outputs=embedded.result.outputs | places,
        recomputed=recomputed or embedded.result.recomputed,
    )


def _predict(
    config: PredictConfig,
    predictor: Predictor,
    cohort: CohortInput,
    embedded: Embedded,
    entries: dict[SlideId, CommitRecord],
    store: Storage,
    out: Storage,
) -> dict[str, Any]:
    """Predict, and write tables and page; the summary without the digest of what it is of."""
    from flows.prediction.page import draw_panels, prediction_page
    from mhim_core.store.bags import ParquetBags, PatientBags

    bags = new_bags(predictor.unit, cohort.cohort.rows, entries)
    members = {bag.bag_id: bag.slide_ids for bag in bags}
    source = PatientBags(ParquetBags(store, entries), members)
    predicted = predict_bags(predictor, source, bags, out)
    rows = [predicted_bag.line for predicted_bag in predicted]
    external = external_metrics(
        predictor.card,
        predicted,
        {slide_id: record.reading.source for slide_id, record in entries.items()},
        holdout=predictor.holdout,
        train_targets=predictor.train_targets,
    )
    panels = draw_panels(predictor, rows, source, cohort, out, config.page)
    schema = new_bags_schema(predictor.task, predictor.unit, tuple(predictor.origin))
    out.put("predictions.parquet", write_parquet(rows, schema=schema))
    out.put("predictions.csv", write_csv(rows))
    if config.robustness:
        from flows.prediction.robustness import write_robustness

        write_robustness(_run_of(config), predictor, source, bags, config.robustness_known, out)
    write_resolved(out, config, "predict")
    pictures = pictures_for(config.page, PICTURES)
    page = prediction_page(predictor, rows, panels, cohort, embedded.outcome, external, pictures)
    write_page(out, PAGE, page, pictures, PICTURES)
    return {"by": predictor.origin, "num_bags": len(rows), **external._asdict()}


def _page_identity(keys: PageKeys) -> tuple[object, ...]:
    """What of the page's keys predictions are identified by: what version 0.1 knew, then the others if they are set."""
    others = {name: value for name, value in to_plain(keys).items() if name not in ("max_heatmaps", "top_tiles")}
    return (keys.max_heatmaps, keys.top_tiles, *([others] if others else []))


def predictor_of(config: PredictConfig) -> Predictor:
    """The run's fold models, or the registry's model."""
    run = _run_of(config)
    if run is not None:
        return predictor_of_run(run)
    return predictor_of_model(open_registry(config.registry, config.trust), config.model)


def _run_of(config: PredictConfig) -> Run | None:
    if not config.run:
        return None
    return read_run(config.run, spare_store=config.store, predict_with=config.chosen.predict_with)


def predict_bags(
    predictor: Predictor, source: "PatientBags", bags: Sequence[NewBag], out: Storage
) -> list[PredictedBag]:
    """Predict every bag by all models, and write the attention of each of its slides to `attention/`."""
    from mhim_core.registry.ensemble import pooled_logits
    from mhim_core.train.inference import predict_tables

    predicted_at = datetime.now(UTC).isoformat(timespec="seconds")
    predicted = []
    for bag in bags:
        tables = source.read_tables(bag.bag_id)
        prediction = predict_tables(tables, predictor.voters)
        for table, attention in zip(tables, slide_attention(tables, prediction), strict=True):
            out.put(f"attention/{table.slide_id}.parquet", attention)
        line = (
            ({"slide_id": bag.bag_id} if predictor.by_slide else {})
            | {"patient_id": bag.patient_id, "site": bag.site}
            | ({} if predictor.by_slide else {"slide_ids": ";".join(bag.slide_ids)})
            | _known(predictor, bag)
            | _predicted(predictor, prediction)
            | {
                "num_slides": len(tables),
                "num_tiles": sum(len(table.features) for table in tables),
                "num_models": len(predictor.voters),
                "encoder": predictor.encoder["id"],
                **predictor.origin,
                "predicted_at": predicted_at,
            }
        )
        predicted.append(PredictedBag(bag, line, pooled_logits(prediction.logits_MC, predictor.task.kind)))
    return predicted


def _known(predictor: Predictor, bag: NewBag) -> dict[str, Any]:
    """The table's value for the bag; None if its slides disagree."""
    if predictor.task.kind is TaskKind.survival:
        times, events = {row.time for row in bag.rows}, {row.event for row in bag.rows}
        agree = len(times) == len(events) == 1
        return {"time": times.pop() if agree else None, "event": events.pop() if agree else None}
    labels = {row.label for row in bag.rows}
    return {"label": labels.pop() if len(labels) == 1 else None}


def _predicted(predictor: Predictor, prediction: "BagPrediction") -> dict[str, Any]:
    if predictor.task.kind is TaskKind.survival:
        return {"risk": float(prediction.outputs[0]), "risk_spread": float(prediction.spread[0])}
    if predictor.task.kind is TaskKind.regression:
        return {"prediction": float(prediction.outputs[0]), "prediction_spread": float(prediction.spread[0])}
    from mhim_core.registry.ensemble import calibrated_probabilities, decide

    probabilities = prediction.outputs.tolist()
    calibrated = calibrated_probabilities(prediction.logits_MC, predictor.card.members).tolist()
    return {
        "predicted": predictor.classes[int(prediction.outputs.argmax())],
        "decision": predictor.classes[decide(probabilities, predictor.card)],
        **dict(zip(class_columns("probability", predictor.task), probabilities, strict=True)),
        **dict(zip(class_columns("spread", predictor.task), prediction.spread.tolist(), strict=True)),
        **dict(zip(class_columns("calibrated", predictor.task), calibrated, strict=True)),
    }


def _print_metrics(predictor: Predictor, external: External) -> None:
    """Lines on what was left out, and on the main metric."""
    metrics, notes = external
    for note in notes:
        print(note)
    if metrics is None:
        return
    name = {TaskKind.survival: "harrell_c", TaskKind.regression: "mae"}.get(predictor.task.kind, "auroc")
    estimate = metrics["estimates"][name]
    value = f"undefined ({estimate['reason']})" if estimate["value"] is None else f"{estimate['value']:.3f}"
    interval = "" if estimate["low"] is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    title = metrics_of(predictor.task.kind)[name].title
    print(f"{metrics['num_bags']} of them are labelled and new to the models: {title} {value}{interval}")


def _check_same(present: dict[str, Any], predictor: Predictor, out: Storage) -> None:
    """Raises ConflictError if `out` holds predictions by another run or model."""
    before = present.get("by") or {}
    if before == predictor.origin:
        return
    advice = "choose another out="
    if {"model", "version"} <= before.keys():
        by = f"{before['model']}@{before['version']}"
        advice += f", or model={by} to go on with that version" * (before["model"] == predictor.origin.get("model"))
    elif before.get("run") == predictor.origin.get("run"):
        by = f"the run with predict_with={before.get('predict_with', 'as it was trained')}"
    else:
        by = "another run"
    raise ConflictError(f"{out.uri} holds predictions by {by}, and these are to be by {predictor.words}; {advice}")


def _models(predictor: Predictor) -> str:
    num = f"{len(predictor.fits)} models" if len(predictor.fits) > 1 else "one model"
    return num if "run" in predictor.origin else f"{predictor.words} ({num})"


def _read_summary(out: Storage) -> dict[str, Any] | None:
    try:
        return parse_object(out.get(SUMMARY), out.locate(SUMMARY))
    except NotFoundError:
        return None
