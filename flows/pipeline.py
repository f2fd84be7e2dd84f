"""mhim pipeline cohort=my.csv store=./features out=runs: embeds, trains, evaluates and reports, as resumable steps.

With registry= and name=, it also makes the first champion: a holdout of patients is frozen before anything is trained,
the model of all other patients is registered, and promoted if it reaches the floor on the holdout. `mhim retrain` makes
later models.
Outputs: features in the store, training runs in out=, the model, its promotion and its assessment in the registry. The
state of the steps is in `flows/` of the registry, or of out= without a registry (`mhim flow status`). Cost: that of
embed, train (twice with a registry), evaluate and report; run again, it resumes, and does nothing if all is done.
Exit code: 0 (also if the floor is not reached and nothing is promoted), 2, 3, 4, 5, 6.
"""

import dataclasses
from typing import Any

from cluster.session import check_address, kept_alive
from cluster.storage import open_storage
from flows import embed, evaluate, report, train
from flows.config.files import write_resolved
from flows.config.flat import flat
from flows.config.lifecycle import PipelineConfig
from flows.engine.records import FlowPlace, StepOutput
from flows.engine.result import FlowResult
from flows.engine.runner import RetryPolicy, Step, StepCall, run_steps
from flows.lifecycle.discover import contents_of, read_features
from flows.lifecycle.gate_steps import SUPERSEDED, assess_step, judge_step, promote_step, register_step
from flows.lifecycle.training_steps import (
    CalledFlows,
    ModelWork,
    embed_step,
    evaluate_step,
    final_step,
    report_step,
    settled,
    train_step,
)
from flows.runs.as_begun import begun_note, earlier_defaults
from flows.runs.cohort import load_cohort, load_split_files
from flows.runs.devices import encodes_on_gpu
from flows.runs.regions import with_regions
from flows.runs.signed_registry import open_registry
from flows.runs.tiling import feature_set_of, settled_card, settled_spec, warn_of_scale
from mhim_core.cohort.split_files import check_known
from mhim_core.cohort.split_notes import require_split_column
from mhim_core.cohort.table import require_patients
from mhim_core.cohort.tasks import infer_task
from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint, to_plain
from mhim_core.printable import one_line
from mhim_core.registry.holdout import freeze
from mhim_core.registry.occasion import Against
from mhim_core.registry.promotions import history
from mhim_core.registry.snapshot import Snapshot, snapshot
from mhim_core.storage import Storage

FLOW, NO_NAME = "pipeline", "pipeline"


def run(config: PipelineConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5: the name has a champion of other data or keys), StorageError (6)."""
    check_address(config.ray.ray_address)
    config.embedding.check_room(config.ray)
    config.execution.check_room(config.ray)
    work, data = _prepare(config)
    steps = [
        embed_step(work, data.fingerprint),
        *([] if work.registry is None else [_holdout_step(work, config, work.registry)]),
        train_step(work, ("embed",) if work.registry is None else ("embed", "holdout")),
        evaluate_step(work),
        report_step(work),
        *([] if work.registry is None else _model_steps(work, work.registry)),
    ]
    if work.place.read_flow() is None:
        write_resolved(work.place.storage, config, FLOW, work.place.folder)
    work.place.begin([step.name for step in steps], {"data": data.fingerprint, "keys": work.identity()})
    with kept_alive():  # starting a Ray costs five seconds: the first step that needs it leaves it to the next
        result = run_steps(work.place, steps, RetryPolicy(config.steps.retries, config.steps.retry_wait_s))
    promoted = work.place.done_steps().get("promote")
    if promoted is not None and promoted.output.identity["outcome"] == SUPERSEDED:
        raise ConflictError(f"{work.name}: {promoted.output.note}; mhim retrain judges these data against it")
    return settled(result, config)


def _prepare(config: PipelineConfig) -> tuple[ModelWork, Snapshot]:
    """Read and check everything before any work; returns it with the snapshot of the data."""
    cohort_input = load_cohort(
        config.data.cohort,
        strict=config.failures.strict,
        labels_uri=config.data.labels,
        options=config.table,
    )
    for line in (*cohort_input.cohort.notes, *(f"warning: {finding}" for finding in cohort_input.warnings)):
        print(one_line(line))
    require_patients(cohort_input.cohort)
    if files := config.protocol.split_files:  # now: patients of the holdout are not in the table that is trained on
        check_known(load_split_files(files), cohort_input.cohort.rows, partial=config.protocol.partial_splits)
    else:
        require_split_column(cohort_input.cohort, config.splits)
    infer_task(cohort_input.cohort.rows, config.target)
    store, out = open_storage(config.store), open_storage(config.out)
    (encoder,) = config.encoder.each()
    spec = config.regions.settled(config.tiles)
    warn_of_scale(encoder, spec)
    on_gpu = encodes_on_gpu(encoder, spec, store, config.embedding, config.ray)
    card = settled_card(encoder, spec, store, on_gpu=on_gpu)
    spec = settled_spec(spec, card, store)
    feature_set = feature_set_of(spec, card)
    cohort_input = with_regions(cohort_input, spec, config.regions)
    contents = contents_of(cohort_input, read_features(store, feature_set.fingerprint))
    data = snapshot(
        cohort_input.cohort.rows,
        contents,
        config.policy,
        cohort_input.region_digests(),
        takes_unannotated=config.regions.takes_unannotated,
    )
    registry = open_registry(config.registry, config.trust, config.signing) if config.registry else None
    work = ModelWork(
        flows=CalledFlows(embed.embed_cohort, train.run, evaluate.run, report.run),
        config=config,
        cohort_input=cohort_input,
        encoder=card,
        spec=spec,
        feature_set=feature_set,
        keys=_train_keys(config),
        scheme=config.splits.scheme,
        folds=config.splits.folds,
        store=store,
        work=out,
        place=FlowPlace(storage=registry or out, flow=FLOW, name=config.name or NO_NAME),
        registry=registry,
    )
    identity: dict[str, Any] = {
        "data": data.fingerprint,
        "keys": work.identity(),
        "feature_set": feature_set.fingerprint,
    }
    if registry is not None:
        identity |= {"holdout": config.holdout, "gate": config.gate}
    work = _as_begun(work.at(fingerprint(identity)), identity, config)
    if registry is not None:
        _check_first(registry, work.place)
    return work, data


def _as_begun(work: ModelWork, identity: dict[str, Any], config: PipelineConfig) -> ModelWork:
    """The work with the defaults of an earlier version, where the pipeline was begun with them."""
    earlier = earlier_defaults(config)
    if not earlier or work.place.read_flow() is not None:
        return work
    before = dataclasses.replace(work, keys=work.keys | earlier)
    before = before.at(fingerprint(identity | {"keys": before.identity()}))
    if before.place.read_flow() is None:
        return work
    print(begun_note("pipeline", config, earlier))
    return before


def _train_keys(config: PipelineConfig) -> dict[str, Any]:
    """The keys of `mhim train` that identify a training."""
    keys: dict[str, Any] = {"method": config.method}
    for shared in (
        config.splits,
        config.target,
        config.model,
        config.mhim,
        config.fit,
        config.prediction,
        config.protocol,
    ):
        keys |= flat(shared)
    return keys


def _check_first(registry: Storage, place: FlowPlace) -> None:
    records = history(registry, place.name)
    if records and records[0].by_fingerprint != place.fingerprint:
        raise ConflictError(
            f"{place.name} has a champion in {registry.uri} already, made by {records[0].by_flow} of other data or "
            "keys; mhim retrain judges a challenger against it, or choose another name"
        )


def _holdout_step(work: ModelWork, config: PipelineConfig, registry: Storage) -> Step:
    """Set patients aside for good, before anything is trained; a holdout that exists is kept."""
    options, task_options = config.holdout, config.target

    def run(call: StepCall) -> StepOutput:
        features = read_features(work.store, work.feature_set.fingerprint).with_tiles()
        rows = [row for row in work.labelled if row.slide_id in features]
        task = infer_task(work.cohort_input.cohort.rows, task_options).task
        sources = {row.slide_id: features[row.slide_id].reading.source for row in rows}
        frozen = freeze(registry, work.name, rows, task, sources, options)
        note = f"{len(frozen.slides)} slides of {len(frozen.patients)} patients are set aside"
        if frozen.options != options:
            stands = ", ".join(f"{key}={value}" for key, value in vars(frozen.options).items())
            note += f", as they were before ({stands}): a holdout is frozen once"
        return StepOutput(identity={"holdout": frozen.fingerprint}, note=note)

    return Step("holdout", {"name": work.name, "task": to_plain(task_options)}, run, ("embed",))


def _model_steps(work: ModelWork, registry: Storage) -> list[Step]:
    no_champion, options = Against(0, ""), work.config.gate
    return [
        final_step(work, ("embed", "holdout")),
        register_step(work, registry, no_champion, options),
        judge_step(work, registry, no_champion, options, words="the first model"),
        promote_step(work.place, registry, 0),
        assess_step(work.place, work.config.tracking),
    ]
