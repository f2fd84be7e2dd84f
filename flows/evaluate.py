"""mhim evaluate run=runs/first: predicts every bag by the models that held it out.

Inputs: a finished training run and its pinned features. Outputs, in the run's `evaluation/`: held-out and validation
predictions (Parquet; the held-out ones also as CSV), metrics with patient-clustered bootstrap intervals, calibration
and thresholds from validation (docs/evaluation.md), the attention of each evaluated forward pass; with explanation=true
what the attention explains (docs/explanation.md). The teacher and the stage-1 baseline are evaluated alongside the
reported model. Cost: one pass over test and validation bags per model, with explanation=true some eighty more over the
test bags; no Ray. Exit code: 0, 2, 6.
"""

from typing import Any

from flows.config.commands import EvaluateConfig
from flows.config.files import has_resolved, write_resolved
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_run
from flows.runs.evaluation import FOLDER, METRICS_KEY, evaluated
from flows.runs.explanation import ensure_explained, read_explanation
from flows.runs.folder import Run, read_run
from mhim_core.cohort.task_options import BagUnit
from mhim_core.evaluation.explanation import estimate_text
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.task import TaskKind

SHOWN = {
    TaskKind.classification: ("auroc", "average_precision", "accuracy", "balanced_accuracy", "f1_macro"),
    TaskKind.survival: ("harrell_c", "uno_c"),
    TaskKind.regression: ("mae", "rmse", "r2", "spearman"),
}
"""The metrics that the command prints; the page and the file have all of them."""


def run(config: EvaluateConfig) -> FlowResult:
    """Raises InputError (2) if the run is not finished or has no test part, IntegrityError for a damaged file."""
    trained_run = read_run(config.run, store=config.store, predict_with=config.chosen.predict_with)
    metrics, recomputed = evaluated(trained_run, config.bootstrap_replicates)
    if recomputed or not has_resolved(trained_run.storage, FOLDER):
        write_resolved(trained_run.storage, config, "evaluate", FOLDER)
    _print(trained_run, metrics)
    if config.explanation:
        recomputed = _explain(trained_run, config.bootstrap_replicates) or recomputed
    mirror_run(trained_run, config.tracking)
    print(f"evaluation: {trained_run.storage.locate(FOLDER)}")
    outputs = {"metrics": trained_run.storage.locate(METRICS_KEY), "predictions": trained_run.storage.locate(FOLDER)}
    return FlowResult(outputs=outputs, recomputed=recomputed)


def _explain(trained_run: Run, replicates: int) -> bool:
    """Whether anything was computed."""
    before = read_explanation(trained_run)
    document = ensure_explained(trained_run, replicates)
    print(f"of the {100 * document['top_share']:g} % most attended tiles, mean over {document['num_bags']} bags:")
    for name, estimate in document["estimates"].items():
        print(f"  {name}: {estimate_text(estimate)}")
    return before != document


def _print(trained_run: Run, metrics: dict[str, Any]) -> None:
    unit, again = str(trained_run.identity["target"]["bags"]), metrics["num_repeated_bags"]
    bags = f"{metrics['num_bags']} held-out slides of" if unit == BagUnit.slide.value else "held-out bags of"
    seeds = len(metrics["seeds"])
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    averaging = (
        f"mean ± deviation over fits ({again} are held out by several folds)" if again else f"pooled over folds{over}"
    )
    print(f"{bags} {metrics['num_patients']} patients, {averaging}:")
    titles = metrics_of(trained_run.task.kind)
    for name, model in metrics["models"].items():
        part, say = ("over_folds", _over_folds) if again else ("pooled", _pooled)
        shown = [f"{titles[metric].title} {say(model[part][metric])}" for metric in SHOWN[trained_run.task.kind]]
        print(f"  {name}: " + ", ".join(shown))


def _pooled(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined ({estimate['reason']})"
    interval = "" if estimate["low"] is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f}{interval}"


def _over_folds(estimate: dict[str, Any]) -> str:
    if estimate["mean"] is None:
        return "undefined in every fold"
    deviation = "" if estimate["std"] is None else f" ± {estimate['std']:.3f}"
    return f"{estimate['mean']:.3f}{deviation}"
