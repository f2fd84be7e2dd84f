"""mhim predict run=runs/first cohort=new.csv out=predictions/new: new slides through the run's fold models.

Inputs: a finished run, a cohort table (labels are not needed; where it has them, metrics are given). The slides are
embedded with exactly the run's tiling and encoder card, into the run's store unless store= says otherwise. Outputs, in
out: predictions (Parquet, CSV; a row a slide, or a patient where the run was trained on patients) with the mean over
the models of all folds and seeds and its spread, the mean attention, a page with heat maps. Cost: embedding what is not
in the store yet, then one pass a model.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.storage import open_storage
from flows.config import PredictConfig, part
from flows.embed import embed_cohort
from flows.inputs import load_cohort
from flows.models import FoldModels, load_fold, model_digests, model_names, results_of
from flows.new_bags import NewBag, bag_words, external_metrics, new_bags, print_metrics
from flows.result import FlowResult
from flows.run_folder import Run, read_run, run_tiling
from mhim_core.cohort.options import BagUnit
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import ConflictError, EncoderError, InputError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage
from mhim_core.tables import write_csv, write_parquet
from mhim_core.task import TaskKind
from mhim_core.types import Status

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import PatientBags
    from mhim_core.train.inference import BagPrediction

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
            "table": [(row.slide_id, row.patient_id, row.label, row.time, row.event) for row in cohort.cohort.rows],
            "page": (config.max_heatmaps, config.top_tiles),
        }
    )
    places = {"predictions": out.locate("predictions.csv"), "page": out.locate(PAGE)}
    recomputed = present is None or present["of"] != digest
    if recomputed:
        from flows.prediction_page import draw_panels, prediction_page
        from mhim_core.store.bags import ParquetBags, PatientBags

        bags = new_bags(given, cohort.cohort.rows, entries)
        members = {bag.bag_id: bag.slide_ids for bag in bags}
        source = PatientBags(ParquetBags(open_storage(store), entries), members)
        rows = predict_bags(given, [load_fold(given, one) for one in fits], source, bags, out)
        metrics = external_metrics(given, bags, rows, entries)
        panels = draw_panels(given, rows, source, cohort, out, config.max_heatmaps, config.top_tiles)
        out.put("predictions.parquet", write_parquet(rows))
        out.put("predictions.csv", write_csv(rows))
        out.put(PAGE, prediction_page(given, rows, panels, cohort, embedded.outcome, metrics).encode())
        present = {"of": digest, "run": given.record["fingerprint"], "num_bags": len(rows), "metrics": metrics}
        out.put(SUMMARY, canonical_json(present))  # last: it says that the rest is there
    assert present is not None
    print(f"{present['num_bags']} {bag_words(given)} predicted by {len(fits)} models: {places['predictions']}")
    print_metrics(given, present["metrics"])
    print(f"page: {places['page']}")
    return FlowResult(
        exit_code=embedded.result.exit_code,
        outputs=embedded.result.outputs | places,
        recomputed=recomputed or embedded.result.recomputed,
    )


def predict_bags(
    given: Run, models: Sequence[FoldModels], source: "PatientBags", bags: Sequence[NewBag], out: Storage
) -> list[dict[str, Any]]:
    """One row per bag by all fold models; the attention of each of its slides beside it in `attention/`."""
    from mhim_core.train.inference import encode_attention, predict_tables

    reported = model_names(given)[0]
    voters = [fold.voters[reported] for fold in models]
    rows = []
    for bag in bags:
        tables = source.read_tables(bag.bag_id)
        found = predict_tables(tables, voters)
        for table, attention in zip(tables, found.attention, strict=True):
            out.put(f"attention/{table.slide_id}.parquet", encode_attention(table, attention))
        by_slide = given.identity["target"]["bags"] == BagUnit.slide.value
        rows.append(
            ({"slide_id": bag.bag_id} if by_slide else {})
            | {"patient_id": bag.patient_id, "site": bag.site}
            | _known(given, bag)
            | _predicted(given, found)
            | {
                "num_slides": len(tables),
                "num_tiles": sum(len(table.features) for table in tables),
                "num_models": len(voters),
                "encoder": given.feature_set.encoder_id,
                "run": given.record["fingerprint"],
            }
        )
    return rows


def _known(given: Run, bag: NewBag) -> dict[str, Any]:
    """What the table says of the bag; None where its slides disagree."""
    if given.task.kind is TaskKind.survival:
        times, events = {row.time for row in bag.rows}, {row.event for row in bag.rows}
        agree = len(times) == len(events) == 1
        return {"time": times.pop() if agree else None, "event": events.pop() if agree else None}
    labels = {row.label for row in bag.rows}
    return {"label": labels.pop() if len(labels) == 1 else None}


def _predicted(given: Run, found: "BagPrediction") -> dict[str, Any]:
    if given.task.kind is TaskKind.survival:
        return {"risk": float(found.outputs[0]), "risk_spread": float(found.spread[0])}
    if given.task.kind is TaskKind.regression:
        return {"prediction": float(found.outputs[0]), "prediction_spread": float(found.spread[0])}
    return {
        "predicted": given.classes[int(found.outputs.argmax())],
        **{f"probability_{c}": float(p) for c, p in zip(given.classes, found.outputs, strict=True)},
        **{f"spread_{c}": float(s) for c, s in zip(given.classes, found.spread, strict=True)},
    }


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
