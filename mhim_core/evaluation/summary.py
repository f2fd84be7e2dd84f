"""From held-out rows to one JSON document: docs/evaluation.md defines every number.

{schema, task, classes, num_bags, num_patients, num_bags_without_site, num_repeated_bags, seeds, folds, replicates,
 bootstrap_seed, uno_tau,
 models: {name: {
   pooled       {metric: {value, low, high, num_undefined, reason}}
   over_folds   {metric: {mean, std, num}}
   folds        [{seed, fold, num_bags, num_patients, metrics: {metric: {value, reason}}}]
   calibration  classification; see `probabilities`
   thresholded  classification; see `probabilities`
   risk_groups  survival: {fits: [{seed, fold, median}], reason,
                           log_rank: [{seed, num_high, num_low, statistic, p, reason}]}
   sites        {site: {num_bags, num_patients, pooled, thresholded}}, where a row has a site
 }}}
"""

import json
from functools import partial
from typing import Any

from mhim_core.errors import InputError
from mhim_core.evaluation import probabilities
from mhim_core.evaluation.held_out import Rows, by_fit, repeated_bags
from mhim_core.evaluation.risk_groups import log_rank_of, median_risks, risk_groups
from mhim_core.evaluation.row_metrics import (
    Bind,
    Bootstrap,
    TrainTargets,
    bind_fold,
    bind_rows,
    censoring_of,
    estimate_pooled,
    metrics_of,
)
from mhim_core.fingerprint import canonical_json
from mhim_core.metrics import UndefinedMetricError, mean_and_std
from mhim_core.task import Task, TaskKind

SCHEMA = 2
"""Of the document. Version 1, which had no such key, ranked bags by probabilities."""


def summarise(
    test_rows: Rows,
    validation_rows: Rows,
    task: Task,
    *,
    train_targets: TrainTargets | None = None,
    replicates: int = 2000,
    seed: int = 2021,
) -> dict[str, Any]:
    """All numbers of all models as plain JSON; what is undefined is null with a reason.

    `test_rows`: for each model and seed every held-out bag by the fit of its fold; where several folds hold out a bag,
    as repeated random splits do, what is pooled is null. `validation_rows`: the same models on the validation bags of
    each fit, from which temperatures, thresholds and risk medians are taken; a bag may be in the validation of several
    folds. `train_targets`: by fold, for Uno's C. `replicates`, `seed`: of the bootstrap. Raises InputError if the seeds
    of a model hold out different bags.
    """
    if not test_rows:
        raise InputError("there are no held-out predictions to summarise")
    bootstrap = Bootstrap(replicates, seed)
    censoring = censoring_of(train_targets) if task.kind is TaskKind.survival else None
    bind = partial(bind_rows, task=task, censoring=censoring)
    bags = {row.bag_id: row for row in test_rows}
    summary = {
        "schema": SCHEMA,
        "task": task.kind,
        "classes": task.classes,
        "num_bags": len(bags),
        "num_patients": len({row.patient_id for row in bags.values()}),
        "num_bags_without_site": sum(not row.site for row in bags.values()),
        "num_repeated_bags": len(repeated_bags(test_rows)),
        "seeds": sorted({row.seed for row in test_rows}),
        "folds": sorted({row.fold for row in test_rows}),
        "replicates": replicates,
        "bootstrap_seed": seed,
        "uno_tau": None if censoring is None else censoring.tau,
        "models": {
            name: _model(
                [row for row in test_rows if row.model == name],
                [row for row in validation_rows if row.model == name],
                task,
                bind,
                bootstrap,
            )
            for name in dict.fromkeys(row.model for row in test_rows)
        },
    }
    plain: dict[str, Any] = json.loads(canonical_json(summary))  # as it will be read back
    return plain


def _model(test_rows: Rows, validation_rows: Rows, task: Task, bind: Bind, bootstrap: Bootstrap) -> dict[str, Any]:
    folds: list[dict[str, Any]] = [
        {
            "seed": fit.seed,
            "fold": fit.fold,
            "num_bags": len(rows),
            "num_patients": len({row.patient_id for row in rows}),
            "metrics": {name: bound.metric for name, bound in bind_fold(rows, test_rows, bind).items()},
        }
        for fit, rows in by_fit(test_rows).items()
    ]
    document: dict[str, Any] = {
        "pooled": estimate_pooled(test_rows, bind, bootstrap),
        "over_folds": {
            name: mean_and_std([fold["metrics"][name].value for fold in folds]) for name in metrics_of(task.kind)
        },
        "folds": folds,
    }
    if task.kind is TaskKind.classification:
        document["calibration"] = probabilities.calibration(test_rows, validation_rows, bootstrap)
        document["thresholded"] = probabilities.thresholded(test_rows, validation_rows, task, bootstrap)
    if task.kind is TaskKind.survival:
        document["risk_groups"] = _risk_groups(test_rows, validation_rows)
    if sites := sorted({row.site for row in test_rows if row.site}):
        document["sites"] = {site: _site(site, test_rows, validation_rows, task, bind, bootstrap) for site in sites}
    return document


def _risk_groups(test_rows: Rows, validation_rows: Rows) -> dict[str, Any]:
    fits = [
        {"seed": fit.seed, "fold": fit.fold, "median": median} for fit, median in median_risks(validation_rows).items()
    ]
    try:
        groups = risk_groups(test_rows, validation_rows)
    except UndefinedMetricError as error:
        return {"fits": fits, "log_rank": [], "reason": str(error)}
    tests: list[dict[str, Any]] = []
    for seed, seed_groups in groups.items():
        num_high = sum(seed_groups.is_high)
        line: dict[str, Any] = {"seed": seed, "num_high": num_high, "num_low": len(seed_groups.is_high) - num_high}
        try:
            test = log_rank_of(seed_groups)
        except UndefinedMetricError as error:
            tests.append(line | {"statistic": None, "p": None, "reason": str(error)})
        else:
            tests.append(line | {"statistic": test.statistic, "p": test.p, "reason": ""})
    return {"fits": fits, "log_rank": tests, "reason": ""}


def _site(
    site: str, test_rows: Rows, validation_rows: Rows, task: Task, bind: Bind, bootstrap: Bootstrap
) -> dict[str, Any]:
    """The same models on the bags of one site alone; thresholds come from all validation bags."""
    own = [row for row in test_rows if row.site == site]
    document: dict[str, Any] = {
        "num_bags": len({row.bag_id for row in own}),
        "num_patients": len({row.patient_id for row in own}),
        "pooled": estimate_pooled(own, bind, bootstrap),
    }
    if task.kind is TaskKind.classification:
        document["thresholded"] = probabilities.thresholded(own, validation_rows, task, bootstrap)["pooled"]
    return document
