"""mhim retrain name=lung registry=… cohort=my.csv store=…: trains a challenger on new data and puts it to the gate.

Inputs: a name that has a champion and a frozen holdout (`mhim pipeline` makes both), and a cohort that has grown.
Steps: discover, embed (with the champion's encoder and tiling), train, evaluate, report (the estimate over folds),
final (the challenger, trained on every patient outside the holdout), register, judge (champion and challenger on the
holdout), promote, assess (one page). Outputs: features in the store, runs in out=, the rest in the registry. Keys that
are not given are the champion's. If nothing is new, or these data were judged before, nothing is done. However
often it is started or killed, there is one retraining and one promotion.
Exit code: 0 (also if the champion is kept), 2, 3, 4 (too many slides failed, nothing is trained), 5, 6.
"""

import dataclasses
from enum import Enum
from typing import Any

from cluster.session import check_address, kept_alive
from cluster.storage import open_storage
from flows import embed, evaluate, report, train
from flows.config.commands import TrainConfig
from flows.config.files import write_resolved
from flows.config.flat import keys_of
from flows.config.lifecycle import RetrainConfig
from flows.config.roles import Role
from flows.engine.records import FlowPlace, StepOutput, list_flows
from flows.engine.result import FlowResult
from flows.engine.runner import RetryPolicy, Step, StepCall, run_steps
from flows.lifecycle.discover import read_features, with_prefix
from flows.lifecycle.gate_steps import (
    SUPERSEDED,
    assess_step,
    judge_step,
    promote_step,
    read_frozen,
    register_step,
    trained_data,
)
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
from flows.lifecycle.trigger import as_before, discover, made_from, num_waiting
from flows.prediction.predictor import Predictor, predictor_of_model
from flows.runs.cohort import load_cohort
from flows.runs.regions import with_regions
from flows.runs.signed_registry import open_registry
from mhim_core.cohort.spellings import spell_as
from mhim_core.cohort.table import require_patients
from mhim_core.errors import ConfigError, ConflictError, InputError, IntegrityError
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.fingerprint import fingerprint, neutral_values
from mhim_core.mil.model_options import ModelOptions
from mhim_core.printable import one_line
from mhim_core.registry.claims import judged_base, read_claim
from mhim_core.registry.occasion import Occasion
from mhim_core.registry.promotions import Promotion, champion
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.train.prediction import PredictOptions
from mhim_core.train.sections import known_options

FLOW = "retrain"
_MAX_ROUNDS = 4
"""How often a challenger is judged anew because the champion was replaced meanwhile."""


def run(config: RetrainConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray.ray_address)
    config.embedding.check_room(config.ray)
    config.execution.check_room(config.ray)
    registry = open_registry(config.registry, config.trust, config.signing)
    retry_policy = RetryPolicy(config.steps.retries, config.steps.retry_wait_s)
    result = _finish(config, registry, retry_policy)
    for _ in range(_MAX_ROUNDS):
        if result is not None:
            return result
        result = _retrain(config, registry, retry_policy)
    raise ConflictError(f"{config.name}: the champion was replaced {_MAX_ROUNDS} times while challengers were judged")


def _retrain(config: RetrainConfig, registry: Storage, retry_policy: RetryPolicy) -> FlowResult | None:
    """One retraining against the present champion; None if that was replaced meanwhile."""
    present = _champion(registry, config.name)
    config = as_before(config, registry)
    model = predictor_of_model(registry, f"{config.name}@{present.version}")
    holdout = read_frozen(registry, config.name)
    work = _work(config, registry, model)
    features = read_features(work.store, work.feature_set.fingerprint)
    occasion = discover(work, registry, present, holdout, features, config)
    print(f"{config.name}@{present.version}, number {present.number}: {one_line(occasion.words)}", flush=True)
    judged = _judged_flow(work, registry, occasion) if occasion.trains else None
    if judged is not None:
        if not is_complete(judged):
            return _complete(judged, config, retry_policy)
        words = (
            f"{occasion.words}; judged against this champion before, by retraining {judged.fingerprint[:16]}: not again"
        )
        print(f"nothing to do: {words}", flush=True)
        occasion = occasion._replace(words=words, trains=False, embeds=num_waiting(work, features) > 0)
    work = _another_seed(work, config, occasion)
    others = fingerprint(
        sorted((row.slide_id, row.uri) for row in work.cohort_input.cohort.rows if not row.is_labelled)
    )
    inputs = occasion.inputs(_keys(config, work), others)
    work = work.at(fingerprint(inputs))
    steps = _steps(work, registry, occasion, present)
    if work.place.read_flow() is None:
        write_resolved(work.place.storage, config, FLOW, work.place.folder)
    work.place.begin([step.name for step in steps], inputs)
    with kept_alive():
        result = run_steps(work.place, steps, retry_policy)
    if not result.recomputed:
        print("nothing to do: everything was done before", flush=True)
    return _unless_superseded(work.place, settled(result, config))


def _judged_flow(work: ModelWork, registry: Storage, occasion: Occasion) -> FlowPlace | None:
    """The flow that judged these data against this champion; None if there is none or it was interrupted before."""
    claim = read_claim(registry, occasion.marker(work.name))
    if claim is None:
        return None
    place = dataclasses.replace(work.place, fingerprint=claim.flow)
    return place if "judge" in place.done_steps() else None


def _another_seed(work: ModelWork, config: RetrainConfig, occasion: Occasion) -> ModelWork:
    """The work with another seed, if age is the only reason: the same seed would train the champion again."""
    if (
        occasion.period is None
        or config.changes.seed is not None
        or config.warm_start
        or "seed" not in config.gate.may_change
    ):
        return work
    seed = work.keys["seed"] + occasion.period[1] * work.keys["seeds"]
    print(f"seed={seed}: the champion's own would train it again", flush=True)
    return dataclasses.replace(work, keys=work.keys | {"seed": seed})


def _steps(work: ModelWork, registry: Storage, occasion: Occasion, present: Promotion) -> list[Step]:
    discovered = _discover_step(occasion)
    if not occasion.embeds:
        return [discovered]
    embed = _unless_unchanged(embed_step(work, occasion.data), work, registry, occasion, present)
    if not occasion.trains:
        return [discovered, embed]
    against, options = occasion.against, work.config.gate
    return [
        discovered,
        embed,
        train_step(work, ("embed",)),
        evaluate_step(work),
        report_step(work),
        final_step(work, ("embed",)),
        register_step(work, registry, against, options),
        judge_step(work, registry, against, options, words=occasion.words, marker=occasion.marker(work.name)),
        promote_step(work.place, registry, against.number),
        assess_step(work.place, work.config.tracking),
    ]


def _discover_step(occasion: Occasion) -> Step:
    def run(call: StepCall) -> StepOutput:
        return StepOutput(identity={"data": occasion.data}, note=occasion.words, is_last=not occasion.embeds)

    return Step("discover", {"data": occasion.data}, run)


def _unless_unchanged(step: Step, work: ModelWork, registry: Storage, occasion: Occasion, present: Promotion) -> Step:
    """The embed step; it is the last one if nothing new can be trained on."""

    def run(call: StepCall) -> StepOutput:
        output = step.work(call)
        if not occasion.trains:
            return dataclasses.replace(output, is_last=True)
        before = made_from(registry, present).get("trained")
        if occasion.period is not None:
            return output
        features = read_features(work.store, work.feature_set.fingerprint)
        if trained_data(work, registry, features).trained != before:
            return output
        note = f"{output.note}; what is new has no features, so there is nothing new to train on"
        return dataclasses.replace(output, note=note, is_last=True)

    return step._replace(work=run)


def _finish(config: RetrainConfig, registry: Storage, retry_policy: RetryPolicy) -> FlowResult | None:
    """Complete the newest retraining that was judged but then interrupted, whatever champion and cohort are by now.

    Data that are new since are for the next run. An older retraining is completed when its data come up again.
    """
    for place in list_flows(registry, FLOW, config.name):
        if "judge" in place.done_steps():
            return None if is_complete(place) else _complete(place, config, retry_policy)
    return None


def is_complete(place: FlowPlace) -> bool:
    """Whether a judged flow has no steps left."""
    done = place.done_steps()
    return "assess" in done or any(record.output.is_last for record in done.values())


def _complete(place: FlowPlace, config: RetrainConfig, retry_policy: RetryPolicy) -> FlowResult | None:
    """Run the steps after a judgement, from its record alone; None if its champion was replaced meanwhile."""
    print(f"{config.name}: a retraining that was interrupted after its judgement is completed", flush=True)
    known = {step: record.output for step, record in place.done_steps().items() if step not in ("promote", "assess")}
    base = judged_base(place.storage, place.folder, known["judge"].identity["assessment"])
    steps = [promote_step(place, place.storage, base), assess_step(place, config.tracking)]
    return _unless_superseded(place, settled(run_steps(place, steps, retry_policy, known), config))


def _unless_superseded(place: FlowPlace, result: FlowResult) -> FlowResult | None:
    """The result, or None if this run promoted too late and has to be judged again."""
    promoted = place.done_steps().get("promote")
    is_late = promoted is not None and promoted.output.identity["outcome"] == SUPERSEDED
    return None if is_late and result.recomputed else result


def _champion(registry: Storage, name: str) -> Promotion:
    present = champion(registry, name)
    if present is None:
        raise InputError(
            f"{registry.uri}: {name} has no champion to challenge; mhim pipeline registry=… name={name} makes the first"
        )
    return present


def _work(config: RetrainConfig, registry: Storage, model: Predictor) -> ModelWork:
    """Read and check everything before any work; the keys are the champion's with the config's changes."""
    cohort_input = load_cohort(
        config.data.cohort,
        strict=config.failures.strict,
        labels_uri=config.data.labels,
        options=config.table,
    )
    require_patients(cohort_input.cohort)
    cohort_input = cohort_input._replace(
        cohort=spell_as(cohort_input.cohort, model.classes, config.table.label_spellings)
    )
    for line in (*cohort_input.cohort.notes, *(f"warning: {finding}" for finding in cohort_input.warnings)):
        print(one_line(line))
    if config.slides_prefix:
        cohort_input = with_prefix(cohort_input, config.slides_prefix)
    spec = config.regions.settled(model.tile_spec(), fixed=True)
    cohort_input = with_regions(cohort_input, spec, config.regions, named_here=False)
    keys = champion_keys(model)
    _check_changes(keys, config)
    if config.warm_start:
        _check_start(model, keys | config.changes.changed())
    known = [name for name in metrics_of(model.task.kind) if name != "uno_c"]
    if config.gate.gate_metric and config.gate.gate_metric not in known:
        raise ConfigError(f"gate_metric={config.gate.gate_metric} is none of a {model.task.kind}: {', '.join(known)}")
    out = config.out or f"{registry.uri}/runs/{config.name}"
    return ModelWork(
        flows=CalledFlows(embed.embed_cohort, train.run, evaluate.run, report.run),
        config=config,
        cohort_input=cohort_input,
        encoder=model.encoder_here(config.encoder.weights_of(str(model.encoder["id"]))),
        spec=spec,
        feature_set=FeatureSet(
            tiling=model.tiling, encoder=model.encoder, encoder_identity=model.card.encoder_identity
        ),
        keys=keys | config.changes.changed(),
        scheme=config.scheme,
        folds=keys["folds"] if config.folds is None else config.folds,
        store=open_storage(config.store),
        work=open_storage(out),
        place=FlowPlace(storage=registry, flow=FLOW, name=config.name),
        registry=registry,
        starts_from=model.card.version if config.warm_start else "",
    )


def champion_keys(model: Predictor) -> dict[str, Any]:
    """The keys of `mhim train` that made a registered model."""
    kinds = keys_of(TrainConfig)
    # a section that is left out as a whole means its neutral values, whatever the defaults are by now
    flat = dict(neutral_values(PredictOptions)) | known_options(model.card.recipe, model.words)
    seeds = flat.pop("seeds")
    if unknown := sorted(flat.keys() - kinds.keys()):
        raise IntegrityError(f"{model.words} was made with {', '.join(unknown)}, which this version of mhim lacks")
    # a card is another's words: it says what a model is, never which file is run or which address is asked
    if foreign := sorted(name for name in flat if kinds[name].role is not Role.identity):
        raise IntegrityError(f"{model.words} has a card with {', '.join(foreign)}, which are no keys of a recipe")
    keys = {}
    for name, value in flat.items():
        kind = kinds[name].kind
        keys[name] = kind[value] if issubclass(kind, Enum) and value is not None else value
    del keys["scheme"]  # of the final training; how the estimate is split is the retraining's own
    return keys | {"seed": seeds[0], "seeds": len(seeds)}


def _check_changes(keys: dict[str, Any], config: RetrainConfig) -> None:
    """Raises ConfigError, before any work, for a changed key that the gate would refuse."""
    allowed = {*config.gate.may_change, *(("seed", "seeds") if "seed" in config.gate.may_change else ())}
    changed = {name: value for name, value in config.changes.changed().items() if keys[name] != value}
    if wrong := sorted(changed.keys() - allowed):
        listed = ", ".join(f"{name} ({keys[name]} → {changed[name]})" for name in wrong)
        raise ConfigError(f"the gate would refuse a challenger with another {listed}; name it in may_change= first")


def _check_start(model: Predictor, keys: dict[str, Any]) -> None:
    """Raises ConfigError, before any work, if the challenger could not start from the champion's weights."""
    members, wanted = model.card.members, {keys["seed"] + index for index in range(keys["seeds"])}
    seeds = {member.seed for member in members}
    if len(seeds) < len(members):
        raise ConfigError(
            f"warm_start=true: {model.words} votes with one model a fold; only a model of every patient can be "
            "started from, so retrain without it once"
        )
    if missing := sorted(wanted - seeds):
        raise ConfigError(f"warm_start=true: {model.words} has no model of the seeds {', '.join(map(str, missing))}")
    made = {**neutral_values(ModelOptions), **model.card.recipe["model"]}
    if changed := sorted(key for key, value in made.items() if keys[key] != value):
        raise ConfigError(f"warm_start=true: weights of {model.words} do not fit another {', '.join(changed)}")


def _keys(config: RetrainConfig, work: ModelWork) -> str:
    return fingerprint({"train": work.identity(), "gate": config.gate})
