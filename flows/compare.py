"""mhim compare runs=[runs/a,runs/b] out=comparisons/ab: paired differences between models, with intervals.

Inputs: training runs that held out the same bags; those without an evaluation are evaluated first. Outputs, in out:
`comparison.html`, the page; `comparison.csv` and `.parquet` (a row per pair and metric), `comparison.png`,
`comparison.json`. If only one run is given, its models are compared: the student, its teacher, the plain baseline.
Cost: seconds; no Ray. Exit code: 0, 2, 6.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.commands import CompareConfig
from flows.config.files import write_resolved
from flows.engine.result import FlowResult
from flows.runs.evaluation import ensure_evaluated, read_held_out, train_targets
from flows.runs.fits import model_names
from flows.runs.folder import Run, has_model, read_run
from mhim_core.errors import InputError, NotFoundError
from mhim_core.evaluation.comparison import Difference, compare
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.fingerprint import canonical_json
from mhim_core.metrics import METRICS
from mhim_core.storage import Storage
from mhim_core.tables import write_csv, write_parquet
from mhim_core.train.prediction import PredictWith

TABLE_CSV, TABLE_PARQUET, FIGURE, SUMMARY = "comparison.csv", "comparison.parquet", "comparison.png", "comparison.json"
PAGE = "comparison.html"


class ComparedModel(NamedTuple):
    """One model of one run, with a name that distinguishes it from the others."""

    name: str
    run: Run
    model: str


def run(config: CompareConfig) -> FlowResult:
    """Raises InputError (2) if a run is not finished, or if the runs did not hold out the same bags."""
    contenders = choose_contenders([_read(uri, config) for uri in config.run_uris], config.model_names)
    _check_same_task(contenders)
    task = contenders[0].run.task
    rows = {contender.name: _rows(contender) for contender in contenders}
    differences = compare(
        rows,
        task,
        train_targets={contender.name: train_targets(contender.run) for contender in contenders},
        replicates=config.bootstrap_replicates,
    )
    storage = open_storage(config.out)
    summary = canonical_json(_summary(contenders, rows, differences, config.bootstrap_replicates))
    recomputed = _maybe_get(storage, SUMMARY) != summary
    write_resolved(storage, config, "compare")
    _write(storage, contenders, differences, summary)
    _print(differences)
    outputs = {
        "comparison": storage.locate(SUMMARY),
        "table": storage.locate(TABLE_CSV),
        "page": storage.locate(PAGE),
    }
    print(f"comparison: {storage.locate(PAGE)}")
    return FlowResult(outputs=outputs, recomputed=recomputed)


def choose_contenders(runs: Sequence[Run], models: Sequence[str]) -> list[ComparedModel]:
    """Each run's reported model, or all models of a single run; if `models` are named, those of them that each run has.

    Raises InputError if fewer than two are left, or if a named model is in no run.
    """
    labels = _labels([candidate.storage.uri for candidate in runs])
    if models:
        known = {name for candidate in runs for name in model_names(candidate)}
        if unknown := [name for name in models if name not in known]:
            raise InputError(f"models={','.join(unknown)} is in none of the runs; they have {', '.join(sorted(known))}")
    chosen = []
    for label, candidate in zip(labels, runs, strict=True):
        own = model_names(candidate)
        wanted = [name for name in own if name in models] if models else (own if len(runs) == 1 else own[:1])
        chosen += [(label, candidate, name) for name in wanted]
    if len(chosen) < 2:
        raise InputError(
            f"there is one model to compare, {chosen[0][2]} of {chosen[0][0]}; give another run, or models= it has"
            if chosen
            else "there is no model to compare"
        )
    distinct = {name for _, _, name in chosen}
    return [
        ComparedModel(_name(label, name, len(runs), len(distinct)), candidate, name)
        for label, candidate, name in chosen
    ]


def _read(uri: str, config: CompareConfig) -> Run:
    """The run; where `models=` names the pair, with its models evaluated as one, which its own evaluation may lack."""
    run, pair = read_run(uri, store=config.store), PredictWith.pair
    wants_pair = pair.model_name in config.model_names and has_model(run.method, pair)
    return dataclasses.replace(run, named_predict_with=pair) if wants_pair else run


def _rows(contender: ComparedModel) -> list[HeldOut]:
    """The model's held-out predictions; the run is evaluated first if it is not yet."""
    ensure_evaluated(contender.run)
    return [row for row in read_held_out(contender.run) if row.model == contender.model]


def _labels(uris: Sequence[str]) -> list[str]:
    """The last parts of each address, as many as are needed to tell them apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(segments[-depth:]) for segments in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise InputError(f"a run is given twice: {', '.join(uris)}")


def _name(label: str, model: str, num_runs: int, num_models: int) -> str:
    if num_runs == 1:
        return model
    return label if num_models == 1 else f"{label}: {model}"


def _check_same_task(contenders: Sequence[ComparedModel]) -> None:
    for a, b in combinations(contenders, 2):
        first, second = a.run.task, b.run.task
        if (first.kind, first.classes) != (second.kind, second.classes):
            raise InputError(
                f"{a.name} and {b.name} are of different tasks: {first.kind.value} ({', '.join(first.classes)}) and "
                f"{second.kind.value} ({', '.join(second.classes)})"
            )


def _summary(
    contenders: Sequence[ComparedModel], rows: Mapping[str, Sequence[HeldOut]], differences: object, replicates: int
) -> dict[str, Any]:
    first = rows[contenders[0].name]
    return {
        "task": contenders[0].run.task.kind,
        "classes": contenders[0].run.task.classes,
        "num_bags": len({row.bag_id for row in first}),
        "num_patients": len({row.patient_id for row in first}),
        "replicates": replicates,
        "models": [
            {
                "name": contender.name,
                "run": contender.run.record["fingerprint"],
                "model": contender.model,
                "seeds": sorted({row.seed for row in rows[contender.name]}),
            }
            for contender in contenders
        ],
        "differences": differences,
    }


def _write(
    storage: Storage, contenders: Sequence[ComparedModel], differences: Sequence[Difference], summary: bytes
) -> None:
    from mhim_core.report.comparison_page import ComparisonPage, render_comparison
    from mhim_core.report.evaluation_figures import comparison_figure

    figure, document, run = comparison_figure(differences), json.loads(summary), contenders[0].run
    page = ComparisonPage(
        kind=run.task.kind,
        classes=run.classes,
        unit=str(run.identity["target"]["bags"]),
        num_bags=document["num_bags"],
        num_patients=document["num_patients"],
        replicates=document["replicates"],
        models=document["models"],
        differences=differences,
        figure=figure,
    )
    storage.put(TABLE_CSV, write_csv(differences))
    storage.put(TABLE_PARQUET, write_parquet(differences))
    storage.put(FIGURE, figure)
    storage.put(PAGE, render_comparison(page).encode())
    storage.put(SUMMARY, summary)  # last: it says that the rest is there


def _print(differences: Sequence[Difference]) -> None:
    for a, b in dict.fromkeys((difference.a, difference.b) for difference in differences):
        print(f"{a} − {b}")
        for difference in (difference for difference in differences if (difference.a, difference.b) == (a, b)):
            print(f"  {METRICS[difference.metric].title:<18} {_line(difference)}")


def _line(result: Difference) -> str:
    if result.difference is None:
        return f"undefined ({result.reason})"
    interval = "" if result.low is None or result.high is None else f" [{result.low:+.3f}, {result.high:+.3f}]"
    p = "" if result.p is None else f", p {result.p:.2g}"
    dropped = f", {result.num_undefined} replicates undefined" if result.num_undefined else ""
    return (
        f"{result.difference:+.3f}{interval}  ({result.value_a:.3f}, {result.value_b:.3f}; {result.method}{p}{dropped})"
    )


def _maybe_get(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except NotFoundError:
        return None
