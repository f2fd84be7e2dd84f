"""mhim predict run=runs/first cohort=new.csv out=predictions/new: new slides through the run's fold models.

Inputs: a finished run, a cohort table (labels are not needed; where it has them, metrics are given). The slides are
embedded with exactly the run's tiling and encoder card, into the run's store unless store= says otherwise. Outputs, in
out: predictions (Parquet, CSV) with the mean probability over the fold models and its spread, the mean attention, a
page with heat maps. Cost: embedding what is not in the store yet, then one pass a model.
"""

import json
from typing import TYPE_CHECKING, Any

from cluster.storage import open_storage
from flows.config import PredictConfig, part
from flows.embed import embed_cohort
from flows.inputs import CohortInput, load_cohort
from flows.models import FoldModels, load_fold, model_digests, model_names, results_of
from flows.result import FlowResult
from flows.run_folder import Run, read_run, run_tiling
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import ConflictError, EncoderError, InputError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import evaluate_predictions
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage
from mhim_core.store.record import CommitRecord
from mhim_core.tables import write_csv, write_parquet
from mhim_core.types import SlideId, Status

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import ParquetBags

SUMMARY, PAGE = "summary.json", "report.html"


def run(config: PredictConfig) -> FlowResult:
    """Raises InputError (2), EncoderError (2) where the run's encoder cannot be had here, ConflictError (5)."""
    given = read_run(config.run)
    fits = results_of(given)
    out = open_storage(config.out)
    present = _read_summary(out)
    if present is not None and present["run"] != given.record["fingerprint"]:
        raise ConflictError(f"{out.uri} holds predictions of another run; choose another out=")
    cohort = load_cohort(config.cohort, strict=config.strict)
    card = run_card(given, config.encoder_weights or None)
    store = config.store or given.store_uri
    embedded = embed_cohort(cohort, card, run_tiling(given), part(config, SlidePolicy), config, store)
    entries = {key: one for key, one in embedded.entries.items() if one.status is Status.OK}
    if not entries:
        raise InputError(f"none of the slides of {cohort.cohort.name} has tiles to predict from")
    digest = fingerprint(
        {
            "models": model_digests(fits),
            "features": {key: one.sha256 for key, one in entries.items()},
            "table": [(row.slide_id, row.patient_id, row.label) for row in cohort.cohort.rows],
            "page": (config.max_heatmaps, config.top_tiles),
        }
    )
    places = {"predictions": out.locate("predictions.csv"), "page": out.locate(PAGE)}
    recomputed = present is None or present["of"] != digest
    if recomputed:
        from flows.prediction_page import draw_panels, prediction_page
        from mhim_core.store.bags import ParquetBags

        models = [load_fold(given, split.fold, results) for split, results in zip(given.splits, fits, strict=True)]
        bags = ParquetBags(open_storage(store), entries)
        rows = predict_slides(given, models, bags, cohort, out)
        metrics = external_metrics(given, rows, entries)
        panels = draw_panels(given, rows, bags, cohort, out, config.max_heatmaps, config.top_tiles)
        out.put("predictions.parquet", write_parquet(rows))
        out.put("predictions.csv", write_csv(rows))
        out.put(PAGE, prediction_page(given, rows, panels, cohort, embedded.outcome, metrics).encode())
        present = {"of": digest, "run": given.record["fingerprint"], "num_slides": len(rows), "metrics": metrics}
        out.put(SUMMARY, canonical_json(present))  # last: it says that the rest is there
    assert present is not None
    print(f"{present['num_slides']} slides predicted by {len(fits)} models: {places['predictions']}")
    _print_metrics(present["metrics"])
    print(f"page: {places['page']}")
    return FlowResult(
        exit_code=embedded.result.exit_code,
        outputs=embedded.result.outputs | places,
        recomputed=recomputed or embedded.result.recomputed,
    )


def external_metrics(
    given: Run, rows: list[dict[str, Any]], entries: dict[SlideId, CommitRecord]
) -> dict[str, Any] | None:
    """The metrics of the labelled slides that the run has never seen; None where there is none.

    Slides of the run's patients, or with the content of the run's slides, were trained on by some of its fold models:
    they are predicted, and left out here.
    """
    patients = {slide.patient_id for slide in given.slides}
    manifest = given.manifest().entries
    sources = {manifest[slide.slide_id].source for slide in given.slides}
    labelled = [row for row in rows if row["label"] is not None]
    known = [row for row in labelled if row["patient_id"] in patients or entries[row["slide_id"]].source in sources]
    fresh = [row for row in labelled if row not in known]
    foreign = sorted({row["label"] for row in fresh} - set(given.classes))
    judged = [row for row in fresh if row["label"] in given.classes]
    notes = []
    if known:
        notes.append(f"{len(known)} labelled slides are of patients the run was trained on; no metric counts them.")
    if foreign:
        notes.append(f"Labels that are no class of the run, and count in no metric: {', '.join(foreign[:10])}.")
    if not judged:
        for note in notes:
            print(note)
        return None
    truth = [given.classes.index(row["label"]) for row in judged]
    scores = [[row[f"probability_{name}"] for name in given.classes] for row in judged]
    estimates = evaluate_predictions(truth, scores, [row["patient_id"] for row in judged])
    found = {"num_slides": len(judged), "estimates": estimates, "notes": notes}
    plain: dict[str, Any] = json.loads(canonical_json(found))
    return plain


def _print_metrics(metrics: dict[str, Any] | None) -> None:
    if metrics is None:
        return
    auroc = metrics["estimates"]["auroc"]
    value = f"undefined ({auroc['reason']})" if auroc["value"] is None else f"{auroc['value']:.3f}"
    interval = "" if auroc["low"] is None else f" [{auroc['low']:.3f}, {auroc['high']:.3f}]"
    for note in metrics["notes"]:
        print(note)
    print(f"{metrics['num_slides']} of them are labelled and new to the run: AUROC {value}{interval}")


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


def _read_summary(out: Storage) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(out.get(SUMMARY))
    except NotFoundError:
        return None
    return found
