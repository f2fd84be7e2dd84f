"""mhim predict run=runs/first cohort=new.csv out=predictions/new: new slides through the run's fold models.

Inputs: a finished run, a cohort table (labels are not needed; where it has them, metrics are given). The slides are
embedded with exactly the run's tiling and encoder card, into the run's store unless store= says otherwise. Outputs, in
out: predictions (Parquet, CSV) with the mean probability over the fold models and its spread, the mean attention, a
page with heat maps. Cost: embedding what is not in the store yet, then one pass a model.
"""

import json
from typing import TYPE_CHECKING, Any

from cluster.session import check_address
from cluster.storage import open_storage
from flows.config import PredictConfig, part
from flows.embed import embed_cohort
from flows.inputs import CohortInput, load_cohort
from flows.models import FoldModels, load_fold, model_digests, model_names, results_of
from flows.result import FlowResult
from flows.run_folder import Run, read_run, versions
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import ConflictError, EncoderError, InputError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import Estimate, evaluate_predictions
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import read_manifest
from mhim_core.tables import write_csv, write_parquet
from mhim_core.types import BagId

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import ParquetBags

SUMMARY, PAGE = "summary.json", "report.html"


def run(config: PredictConfig) -> FlowResult:
    """Raises InputError (2), EncoderError (2) where the run's encoder cannot be had here, ConflictError (5)."""
    check_address(config.ray_address)
    given = read_run(config.run)
    fits = results_of(given)
    cohort = load_cohort(config.cohort, strict=config.strict)
    card = run_card(given, config.encoder_weights or None)
    spec = run_tiling(given)
    store = config.store or given.store_uri
    embedded = embed_cohort(cohort, card, spec, part(config, SlidePolicy), config, store)
    feature_set = _feature_set(card, spec)
    out = open_storage(config.out)
    bags = _bags(open_storage(store), feature_set, cohort)
    digest = fingerprint({"models": model_digests(fits), "features": {key: bags[key].sha256 for key in sorted(bags)}})
    present = _read_summary(out)
    outputs = embedded.outputs | {"predictions": out.locate("predictions.csv"), "page": out.locate(PAGE)}
    if present is not None and present["run"] != given.record["fingerprint"]:
        raise ConflictError(f"{out.uri} holds predictions of another run; choose another out=")
    if present is not None and present["of"] == digest:
        print(f"{out.uri}: predictions of {len(bags)} slides are there; nothing to do")
        _print_metrics(present["metrics"])
        return FlowResult(exit_code=embedded.exit_code, outputs=outputs, recomputed=embedded.recomputed)
    if not bags:
        raise InputError(
            f"none of the {len(cohort.cohort.rows)} slides of {cohort.cohort.name} has tiles to predict from"
        )
    from mhim_core.store.bags import ParquetBags

    models = [load_fold(given, split.fold, results) for split, results in zip(given.splits, fits, strict=True)]
    source = ParquetBags(open_storage(store), bags)
    rows = predict_slides(given, models, source, cohort, out)
    metrics = external_metrics(given, rows)
    out.put("predictions.parquet", write_parquet(rows))
    out.put("predictions.csv", write_csv(rows))
    out.put(PAGE, prediction_page(given, rows, source, cohort, out, config).encode())
    summary = {"of": digest, "run": given.record["fingerprint"], "num_slides": len(rows), "metrics": metrics}
    out.put(SUMMARY, canonical_json(summary))  # last: it says that the rest is there
    print(f"{len(rows)} slides predicted by {len(models)} models: {outputs['predictions']}")
    _print_metrics(metrics)
    print(f"page: {outputs['page']}")
    return FlowResult(exit_code=embedded.exit_code, outputs=outputs)


def external_metrics(given: Run, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The metrics of the slides whose table gives a label of the run's classes; None where none does."""
    labelled = [row for row in rows if row["label"] in given.classes]
    if not labelled:
        return None
    truth = [given.classes.index(row["label"]) for row in labelled]
    scores = [[row[f"probability_{name}"] for name in given.classes] for row in labelled]
    estimates = evaluate_predictions(truth, scores, [row["patient_id"] for row in labelled])
    plain: dict[str, Any] = json.loads(canonical_json({"num_slides": len(labelled), "estimates": estimates}))
    return plain


def prediction_page(
    given: Run,
    rows: list[dict[str, Any]],
    bags: "ParquetBags",
    cohort: CohortInput,
    out: Storage,
    config: PredictConfig,
) -> str:
    """One HTML page: the predictions, and a heat map of the mean attention for the surest slides."""
    from flows.panels import slide_panel
    from mhim_core.report.data import CohortSummary, ModelResult, Prediction, ReportData
    from mhim_core.report.page import render_report

    predictions = [
        Prediction(
            row["slide_id"],
            row["patient_id"],
            row["label"],
            row["predicted"],
            tuple(row[f"probability_{name}"] for name in given.classes),
        )
        for row in rows
    ]
    uris = {str(row.slide_id): row.uri for row in cohort.cohort.rows}
    shown = sorted(predictions, key=lambda one: (-max(one.probabilities), one.slide_id))[: config.max_heatmaps]
    panels = [
        slide_panel(
            prediction,
            uris[prediction.slide_id],
            bags.read_table(BagId(prediction.slide_id)),
            out.get(f"attention/{prediction.slide_id}.parquet"),
            run_tiling(given),
            config.top_tiles,
            f"patient {prediction.patient_id}",
        )
        for prediction in shown
    ]
    metrics = external_metrics(given, rows)
    estimates = {} if metrics is None else {key: Estimate(**one) for key, one in metrics["estimates"].items()}
    num_slides = len(cohort.cohort.rows)
    data = ReportData(
        title=f"Predictions for {cohort.cohort.name}",
        task=f"{', '.join(given.classes)}, by the mean of {len(given.splits)} fold models of the run {config.run}.",
        cohort=CohortSummary(
            name=cohort.cohort.name,
            num_slides=num_slides,
            num_patients=len({row.patient_id for row in cohort.cohort.rows}),
            num_ok=len(rows),
            num_empty=0,
            num_failed=num_slides - len(rows),
        ),
        classes=given.classes,
        protocol="Labels, where the table has them, were used for the figures above and for nothing else.",
        models=(ModelResult(name=model_names(given)[0], estimates=estimates, is_reported=True),) if estimates else (),
        predictions=tuple(predictions),
        panels=tuple(panels),
        encoder=given.record["encoder"],
        tiling=given.record["tiling"],
        provenance={"run": given.record["fingerprint"], "versions": versions()},
        notes=(f"{num_slides - len(rows)} slides have no tiles or failed.",) if num_slides > len(rows) else (),
    )
    return render_report(data)


def _print_metrics(metrics: dict[str, Any] | None) -> None:
    if metrics is None:
        return
    auroc = metrics["estimates"]["auroc"]
    value = f"undefined ({auroc['reason']})" if auroc["value"] is None else f"{auroc['value']:.3f}"
    interval = "" if auroc["low"] is None else f" [{auroc['low']:.3f}, {auroc['high']:.3f}]"
    print(f"{metrics['num_slides']} of them are labelled: AUROC {value}{interval}")


def predict_slides(
    given: Run, models: list[FoldModels], bags: "ParquetBags", cohort: CohortInput, out: Storage
) -> list[dict[str, Any]]:
    """One row per slide with tiles; its attention beside it in `attention/`."""
    from mhim_core.train.inference import encode_attention, predict_table

    reported = model_names(given)[0]
    voters = [fold.voters[reported] for fold in models]
    row_of = {row.slide_id: row for row in cohort.cohort.rows}
    rows = []
    for bag_id in bags.lengths():
        table = bags.read_table(bag_id)
        found = predict_table(table, voters)
        out.put(f"attention/{bag_id}.parquet", encode_attention(table, found.attention))
        best = int(found.probabilities.argmax())
        rows.append(
            {
                "slide_id": bag_id,
                "patient_id": row_of[table.slide_id].patient_id,
                "label": row_of[table.slide_id].label,
                "predicted": given.classes[best],
                **{f"probability_{c}": float(p) for c, p in zip(given.classes, found.probabilities, strict=True)},
                **{f"spread_{c}": float(s) for c, s in zip(given.classes, found.spread, strict=True)},
                "num_tiles": len(table.features),
                "num_models": len(voters),
                "encoder": given.feature_set.encoder_id,
                "run": given.record["fingerprint"],
            }
        )
    return rows


def run_card(given: Run, weights: str | None) -> EncoderCard:
    """The run's encoder, checked against what can be had here. Raises EncoderError if that is another one."""
    stored = EncoderCard.from_dict(given.record["encoder"])
    device = "cuda" if stored.runtime == "torch-cuda" else "cpu"
    here = encoder_card(stored.id, weights=weights, revision=stored.revision or None, device=device)
    if here.identity() != stored.identity():
        wrong = [key for key, value in stored.identity().items() if here.identity().get(key) != value]
        raise EncoderError(
            f"the run was trained on features of {stored.id} with another {', '.join(wrong)} than is found here; "
            "give the same weights with encoder_weights="
        )
    return stored


def run_tiling(given: Run) -> TileSpec:
    """The run's tile spec. Raises InputError if this version cuts tiles otherwise."""
    stored = given.record["tiling"]
    spec = TileSpec(**{name: stored[name] for name in TileSpec.__dataclass_fields__})
    if tiling_identity(spec) != stored:
        raise InputError(
            "the run's slides were tiled by another version of the tissue finder; use that version of mhim"
        )
    return spec


def _feature_set(card: EncoderCard, spec: TileSpec) -> FeatureSet:
    return FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())


def _bags(store: Storage, feature_set: FeatureSet, cohort: CohortInput) -> dict[Any, Any]:
    present = read_manifest(store, feature_set.fingerprint).bags()
    return {row.slide_id: present[row.slide_id] for row in cohort.cohort.rows if BagId(row.slide_id) in present}


def _read_summary(out: Storage) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(out.get(SUMMARY))
    except NotFoundError:
        return None
    return found
