"""mhim pipeline cohort=my.csv store=./features out=runs: a cohort table → features → models → page, step by step.

With registry= and name= the first champion too: a holdout of patients is frozen before anything is trained, the model
of all other patients is registered, and promoted if it reaches the floor on the holdout. Later models come by
`mhim retrain`.
Outputs: the store's, training runs in out=, the model, its promotion and its assessment in the registry; the state of
the steps is in `flows/` of the registry, or of out= where there is none (`mhim flow status`). Cost: that of embed,
train (twice with a registry), evaluate and report; run again, it goes on where it was, and does nothing where all is
done. Exit code: 0 (also where the floor is not reached: nothing is promoted), 2, 3, 4, 5, 6.
"""

import dataclasses
from typing import Any

from cluster.session import check_address, kept_alive
from cluster.storage import open_storage
from flows import embed, evaluate, report, train
from flows.config.commands import TrainConfig
from flows.config.keys import (
    CohortKeys,
    FeatureChoice,
    LabelKeys,
    OutKeys,
    PluginFile,
    StoreKeys,
    TrainExecution,
    part,
)
from flows.config.lifecycle import PipelineConfig
from flows.config.tracking import TrackingKeys
from flows.engine.records import FlowPlace, StepOutput
from flows.engine.result import FlowResult
from flows.engine.runner import Patience, Step, StepCall, run_steps
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
from flows.runs.cohort import load_cohort
from mhim_core.cohort.options import TaskOptions
from mhim_core.cohort.tasks import infer_task
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import ConflictError
from mhim_core.fingerprint import fingerprint, to_plain
from mhim_core.registry.holdout import freeze
from mhim_core.registry.occasion import Against
from mhim_core.registry.options import GateOptions, HoldoutOptions
from mhim_core.registry.promotions import history
from mhim_core.registry.snapshot import Snapshot, snapshot
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet

FLOW, NO_NAME = "pipeline", "pipeline"


def run(config: PipelineConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5: the name has a champion of another making), StorageError (6)."""
    check_address(config.ray_address)
    config.check_room()
    work, data = _prepare(config)
    steps = [
        embed_step(work, data.fingerprint),
        *([] if work.registry is None else [_holdout_step(work, work.registry)]),
        train_step(work, ("embed",) if work.registry is None else ("embed", "holdout")),
        evaluate_step(work),
        report_step(work),
        *([] if work.registry is None else _model_steps(work, work.registry)),
    ]
    work.place.found([step.name for step in steps], {"data": data.fingerprint, "keys": work.identity()})
    with kept_alive():  # starting a Ray costs five seconds: the first step that needs it leaves it to the next
        found = run_steps(work.place, steps, Patience(config.retries, config.retry_wait_s))
    promoted = work.place.done_steps().get("promote")
    if promoted is not None and promoted.output.identity["outcome"] == SUPERSEDED:
        raise ConflictError(f"{work.name}: {promoted.output.note}; mhim retrain judges these data against it")
    return settled(found, config)


def _prepare(config: PipelineConfig) -> tuple[ModelWork, Snapshot]:
    """Everything that is settled before any work."""
    given = load_cohort(config.cohort, strict=config.strict, labels_uri=config.labels)
    for line in (*given.cohort.notes, *(f"warning: {finding}" for finding in given.warnings)):
        print(line)
    infer_task(given.cohort.rows, part(config, TaskOptions))
    card = encoder_card(
        config.encoder,
        weights=config.encoder_weights or None,
        revision=config.encoder_revision or None,
        device="cuda" if config.gpus_per_actor else "cpu",
    )
    spec = part(config, TileSpec)
    feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    contents = contents_of(given, read_features(open_storage(config.store), feature_set.fingerprint))
    data = snapshot(given.cohort.rows, contents, part(config, SlidePolicy))
    registry = open_storage(config.registry) if config.registry else None
    work = ModelWork(
        flows=CalledFlows(embed.embed_cohort, train.run, evaluate.run, report.run),
        config=config,
        given=given,
        encoder=card,
        spec=spec,
        feature_set=feature_set,
        keys=_train_keys(config),
        scheme=config.scheme,
        folds=config.folds,
        work=open_storage(config.out),
        place=FlowPlace(storage=registry or open_storage(config.out), flow=FLOW, name=config.name or NO_NAME),
        registry=registry,
    )
    identity: dict[str, Any] = {
        "data": data.fingerprint,
        "keys": work.identity(),
        "feature_set": feature_set.fingerprint,
    }
    if registry is not None:
        identity |= {"holdout": part(config, HoldoutOptions), "gate": part(config, GateOptions)}
    work = work.at(fingerprint(identity))
    if registry is not None:
        _check_first(registry, work.place)
    return work, data


def _train_keys(config: PipelineConfig) -> dict[str, Any]:
    """The keys of `mhim train` that the pipeline has too, places, features and execution aside."""
    own, trains = ({field.name for field in dataclasses.fields(kind)} for kind in (PipelineConfig, TrainConfig))
    others = (CohortKeys, StoreKeys, OutKeys, LabelKeys, FeatureChoice, TrainExecution, PluginFile, TrackingKeys)
    left_out = {field.name for kind in others for field in dataclasses.fields(kind)} | {"scheme", "registry"}
    return {name: getattr(config, name) for name in sorted((own & trains) - left_out)}


def _check_first(registry: Storage, place: FlowPlace) -> None:
    records = history(registry, place.name)
    if records and records[0].by_fingerprint != place.fingerprint:
        raise ConflictError(
            f"{place.name} has a champion in {registry.uri} already, made by {records[0].by_flow} of other data or "
            "keys; mhim retrain judges a challenger against it, or choose another name"
        )


def _holdout_step(work: ModelWork, registry: Storage) -> Step:
    """Set patients aside for good, before anything is trained; where that was done before, what stands counts."""
    config = work.config
    options, task_options = part(config, HoldoutOptions), part(config, TaskOptions)

    def run(call: StepCall) -> StepOutput:
        features = read_features(open_storage(config.store), work.feature_set.fingerprint).with_tiles()
        rows = [row for row in work.labelled if row.slide_id in features]
        task = infer_task(work.given.cohort.rows, task_options).task
        sources = {row.slide_id: features[row.slide_id].source for row in rows}
        frozen = freeze(registry, work.name, rows, task, sources, options)
        note = f"{len(frozen.slides)} slides of {len(frozen.patients)} patients are set aside"
        if frozen.options != options:
            stands = ", ".join(f"{key}={value}" for key, value in vars(frozen.options).items())
            note += f", as they were before ({stands}): a holdout is frozen once"
        return StepOutput(identity={"holdout": frozen.fingerprint}, note=note)

    return Step("holdout", {"name": work.name, "task": to_plain(task_options)}, run, ("embed",))


def _model_steps(work: ModelWork, registry: Storage) -> list[Step]:
    nobody, options = Against(0, ""), part(work.config, GateOptions)
    return [
        final_step(work, ("embed", "holdout")),
        register_step(work, registry, nobody, options),
        judge_step(work, registry, nobody, options, words="the first model"),
        promote_step(work.place, registry, 0),
        assess_step(work.place, work.config),
    ]
