"""mhim evaluate run=runs/first: every slide by the model that held it out.

Inputs: a finished training run, its pinned features. Outputs, in the run's `evaluation/`: predictions (Parquet, CSV),
metrics with patient-clustered bootstrap intervals, the attention of each evaluated forward pass. Beside the reported
model stand its teacher and the stage-1 baseline. Cost: one pass over the test bags a model; no Ray.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from flows.config import EvaluateConfig
from flows.models import load_fold, model_digests, model_names, results_of
from flows.result import FlowResult
from flows.run_folder import Run, read_run
from mhim_core.errors import NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.metrics import CLASSIFICATION_METRICS, METRICS, evaluate_metric, evaluate_predictions, mean_and_std
from mhim_core.tables import write_csv, write_parquet

METRICS_KEY = "evaluation/metrics.json"
DEFAULT_REPLICATES = 2000


class SlideResult(NamedTuple):
    """One slide by one model."""

    model: str
    fold: int
    slide_id: str
    patient_id: str
    site: str | None
    label_index: int
    probabilities: tuple[float, ...]

    @property
    def predicted_index(self) -> int:
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


def run(config: EvaluateConfig) -> FlowResult:
    """Raises InputError (2) where the run is not finished, IntegrityError where a file is damaged."""
    given = read_run(config.run)
    before = read_metrics(given)
    metrics = ensure_evaluated(given, config.bootstrap_replicates)
    _print(metrics)
    print(f"evaluation: {given.storage.locate('evaluation')}")
    outputs = {"metrics": given.storage.locate(METRICS_KEY), "predictions": given.storage.locate("evaluation")}
    return FlowResult(outputs=outputs, recomputed=metrics != before)


def ensure_evaluated(given: Run, replicates: int | None = None) -> dict[str, Any]:
    """The run's metrics, computed if they are missing or of other models (or, where given, other replicates)."""
    fits = results_of(given)
    digest = fingerprint(model_digests(fits))
    present = read_metrics(given)
    if present is not None and present["of"] == digest and replicates in (None, present["replicates"]):
        return present
    folds = zip(given.splits, fits, strict=True)
    rows = [row for split, results in folds for row in _fold(given, split.fold, results)]
    metrics = _summarise(given, rows, digest, DEFAULT_REPLICATES if replicates is None else replicates)
    _write_predictions(given, rows)
    given.storage.put(METRICS_KEY, canonical_json(metrics))  # last: it says that the rest is there
    return metrics


def read_metrics(given: Run) -> dict[str, Any] | None:
    """The run's evaluation, or None if there is none."""
    try:
        found: dict[str, Any] = json.loads(given.storage.get(METRICS_KEY))
    except NotFoundError:
        return None
    return found


def attention_key(slide_id: str) -> str:
    return f"evaluation/attention/{slide_id}.parquet"


def _fold(given: Run, fold: int, results: Any) -> list[SlideResult]:
    from mhim_core.store.bags import ParquetBags
    from mhim_core.train.inference import encode_attention, predict_table
    from mhim_core.types import BagId

    test = set(next(split.test for split in given.splits if split.fold == fold))
    bags = ParquetBags(given.feature_store, given.manifest().bags())
    models = load_fold(given, fold, results)
    index = {label: position for position, label in enumerate(given.classes)}
    rows = []
    for slide in (slide for slide in given.slides if slide.slide_id in test):
        table = bags.read_table(BagId(slide.slide_id))
        assert slide.label is not None
        for position, name in enumerate(model_names(given)):
            found = predict_table(table, [models.voters[name]])
            if position == 0:
                given.storage.put(attention_key(slide.slide_id), encode_attention(table, found.attention))
            rows.append(
                SlideResult(
                    name,
                    fold,
                    slide.slide_id,
                    slide.patient_id,
                    slide.site,
                    index[slide.label],
                    tuple(found.probabilities.tolist()),
                )
            )
    return rows


def _summarise(given: Run, rows: Sequence[SlideResult], digest: str, replicates: int) -> dict[str, Any]:
    models = {}
    for name in model_names(given):
        own = [row for row in rows if row.model == name]
        truth, scores = [row.label_index for row in own], [row.probabilities for row in own]
        estimates = evaluate_predictions(truth, scores, [row.patient_id for row in own], replicates=replicates)
        folds = [_fold_metrics([row for row in own if row.fold == split.fold]) for split in given.splits]
        over_folds = {key: mean_and_std([one[key]["value"] for one in folds]) for key in CLASSIFICATION_METRICS}
        models[name] = {"pooled": estimates, "over_folds": over_folds, "folds": folds}
    summary = {
        "of": digest,
        "classes": given.classes,
        "num_slides": len({row.slide_id for row in rows}),
        "num_patients": len({row.patient_id for row in rows}),
        "replicates": replicates,
        "reported": model_names(given)[0],
        "models": models,
    }
    plain: dict[str, Any] = json.loads(canonical_json(summary))  # as it will be read back
    return plain


def _fold_metrics(rows: Sequence[SlideResult]) -> dict[str, dict[str, Any]]:
    truth, scores = [row.label_index for row in rows], [row.probabilities for row in rows]
    predicted = [row.predicted_index for row in rows]
    return {
        name: evaluate_metric(name, truth, predicted if definition.takes_classes else scores)._asdict()
        for name, definition in CLASSIFICATION_METRICS.items()
    }


def _write_predictions(given: Run, rows: Sequence[SlideResult]) -> None:
    table = [
        {
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "site": row.site,
            "fold": row.fold,
            "model": row.model,
            "label": given.classes[row.label_index],
            "predicted": given.classes[row.predicted_index],
            **{f"probability_{label}": value for label, value in zip(given.classes, row.probabilities, strict=True)},
        }
        for row in sorted(rows, key=lambda one: (model_names(given).index(one.model), one.slide_id))
    ]
    given.storage.put("evaluation/predictions.parquet", write_parquet(table))
    given.storage.put("evaluation/predictions.csv", write_csv(table))


def _print(metrics: dict[str, Any]) -> None:
    print(f"{metrics['num_slides']} held-out slides of {metrics['num_patients']} patients, pooled over folds:")
    for name, model in metrics["models"].items():
        shown = []
        for metric in ("auroc", "average_precision", "accuracy", "balanced_accuracy", "f1_macro"):
            one = model["pooled"][metric]
            if one["value"] is None:
                shown.append(f"{METRICS[metric].title} undefined ({one['reason']})")
            else:
                interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
                shown.append(f"{METRICS[metric].title} {one['value']:.3f}{interval}")
        print(f"  {name}: " + ", ".join(shown))
