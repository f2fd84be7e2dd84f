"""The quality of predictions on new bags, which no model was trained on: one prediction a bag, with the same metrics.

{num_bags, num_patients, num_bags_without_site, replicates, bootstrap_seed, uno_tau,
 estimates    {metric: {value, low, high, num_undefined, reason}}
 calibration  classification: {before: {metric: estimate}, after: …}
 thresholded  classification: {metric: estimate}
 sites        {site: {num_bags, num_patients, estimates, thresholded}}, where a row has a site
}
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mhim_core.evaluation.held_out import Rows, class_targets
from mhim_core.evaluation.probabilities import CALIBRATION_METRICS, decision_metrics
from mhim_core.evaluation.row_metrics import Bind, Bootstrap, bind_rows, censoring_of, estimate_pooled
from mhim_core.metrics import BoundMetric, Estimate, bind_classification, undefined
from mhim_core.task import Target, Task, TaskKind

_NONE_CHOSEN = "validation chose no {} for any of the models"


class Chosen(NamedTuple):
    """A classification's predictions with what validation chose, by bag."""

    probabilities: Mapping[str, Sequence[float]] | None
    """(C,) after temperature; None: no model has one."""
    decisions: Mapping[str, int] | None
    """The class decided for at the threshold, of more than two classes the most probable; None: no model has one."""


def summarise_new(
    rows: Rows,
    task: Task,
    *,
    chosen: Chosen | None = None,
    train_targets: Sequence[Target] = (),
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """The document above, of values that `canonical_json` takes.

    `rows`: at least one, every bag once; seed and fold are ignored. `train_targets`: of all bags that the models
    were trained on, each once, for Uno's C. Raises InputError for a bag that occurs twice.
    """
    bootstrap = bootstrap or Bootstrap()
    rows = [row._replace(seed=0, fold=0) for row in rows]
    censoring = censoring_of({0: train_targets} if train_targets else None) if task.kind is TaskKind.survival else None
    bind = partial(bind_rows, task=task, censoring=censoring)
    document: dict[str, Any] = {
        "num_bags": len(rows),
        "num_patients": len({row.patient_id for row in rows}),
        "num_bags_without_site": sum(not row.site for row in rows),
        "replicates": bootstrap.replicates,
        "bootstrap_seed": bootstrap.seed,
        "uno_tau": None if censoring is None else censoring.tau,
        "estimates": estimate_pooled(rows, bind, bootstrap),
    }
    chosen = chosen or Chosen(None, None)
    if task.kind is TaskKind.classification:
        after = partial(_bind_calibrated, probabilities=chosen.probabilities)
        document["calibration"] = {
            "before": {name: document["estimates"][name] for name in CALIBRATION_METRICS},
            "after": estimate_pooled(rows, after, bootstrap),
        }
        document["thresholded"] = _decided(rows, task, chosen, bootstrap)
    if sites := sorted({row.site for row in rows if row.site}):
        document["sites"] = {site: _site(site, rows, task, bind, chosen, bootstrap) for site in sites}
    return document


def _site(site: str, rows: Rows, task: Task, bind: Bind, chosen: Chosen, bootstrap: Bootstrap) -> dict[str, Any]:
    own = [row for row in rows if row.site == site]
    document: dict[str, Any] = {
        "num_bags": len(own),
        "num_patients": len({row.patient_id for row in own}),
        "estimates": estimate_pooled(own, bind, bootstrap),
    }
    if task.kind is TaskKind.classification:
        document["thresholded"] = _decided(own, task, chosen, bootstrap)
    return document


def _decided(rows: Rows, task: Task, chosen: Chosen, bootstrap: Bootstrap) -> dict[str, Estimate]:
    names = decision_metrics(len(task.classes) == 2)
    return estimate_pooled(rows, partial(_bind_decisions, decisions=chosen.decisions, names=names), bootstrap)


def _bind_calibrated(rows: Rows, probabilities: Mapping[str, Sequence[float]] | None) -> dict[str, BoundMetric]:
    if probabilities is None:
        return {name: undefined(_NONE_CHOSEN.format("temperature")) for name in CALIBRATION_METRICS}
    after_NC = [probabilities[row.bag_id] for row in rows]
    return bind_classification(class_targets(rows), after_NC, names=CALIBRATION_METRICS)


def _bind_decisions(rows: Rows, decisions: Mapping[str, int] | None, names: Sequence[str]) -> dict[str, BoundMetric]:
    if decisions is None:
        return {name: undefined(_NONE_CHOSEN.format("threshold")) for name in names}
    return bind_classification(class_targets(rows), y_pred=[decisions[row.bag_id] for row in rows], names=names)
