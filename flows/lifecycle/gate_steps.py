"""The steps of a decision: judge challenger and champion on the frozen holdout, promote or keep, write the page.

The assessment, `assessment-<sha256>.json` in the flow's folder, holds both sets of figures, every check and the reason.
Later steps depend only on it, so that a flow that was interrupted here is completed even if its cohort has grown since.
Data are judged once against a champion: a marker, put if absent, names the assessment that counts.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.lifecycle import PipelineConfig, RetrainConfig
from flows.config.tracking import TrackingKeys
from flows.engine.records import Cost, FlowPlace, StepOutput
from flows.engine.runner import Step, StepCall
from flows.lifecycle.discover import Features, contents_of, read_features
from flows.lifecycle.training_steps import ModelWork
from flows.mlflow_mirror.send import mirror_promotion
from flows.prediction.packaging import PackagedModel, estimate_of, package_run
from flows.prediction.predictor import Predictor, contender, held_out, predictor_of_model, predictor_of_package
from flows.runs.cohort import CohortInput
from flows.runs.fits import model_names
from flows.runs.folder import read_run
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.tasks import BagMembers, make_bags
from mhim_core.errors import InputError
from mhim_core.fingerprint import canonical_json
from mhim_core.records import parse_object
from mhim_core.registry.changes import changes
from mhim_core.registry.claims import (
    Claim,
    assessment_key,
    keep_assessment,
    put_claim,
    read_assessment,
    read_claim,
)
from mhim_core.registry.gate import figures_alone, judge
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout, check_unchanged, read_holdout, record_reading, split_off
from mhim_core.registry.models import read_member_file, read_model_folder, register_model
from mhim_core.registry.occasion import Against
from mhim_core.registry.promotions import history, promote, withdrawn
from mhim_core.registry.snapshot import Snapshot, keep_snapshot, snapshot
from mhim_core.report.assessment import Assessment, render_assessment
from mhim_core.report.step_figure import StepBar
from mhim_core.storage import Storage
from mhim_core.train.card import weights_digest

PAGE = "report.html"
PROMOTED, KEPT, SUPERSEDED = "promoted", "kept", "superseded"


class Data(NamedTuple):
    """Fingerprints of the data that the challenger was made from, for comparison by later retrainings."""

    asked: str
    """The data fingerprint: of the snapshot."""
    trained: str
    """Of those slides of it that have features."""


def trained_data(work: ModelWork, registry: Storage, features: Features) -> Data:
    """The present data. Their snapshot is kept, so that a later retraining can tell what is new."""
    now = trainable_snapshot(work.cohort_input, features, read_frozen(registry, work.name), work.config)
    keep_snapshot(registry, work.name, now)
    return Data(now.fingerprint, now.of(features.with_tiles()))


def trainable_snapshot(
    cohort_input: CohortInput, features: Features, holdout: Holdout, config: PipelineConfig | RetrainConfig
) -> Snapshot:
    """The labelled slides that share no patient and no file with the holdout."""
    contents = contents_of(cohort_input, features)
    return snapshot(
        split_off(holdout, cohort_input.cohort.rows, contents).trainable,
        contents,
        config.policy,
        cohort_input.region_digests(),
        takes_unannotated=config.regions.takes_unannotated,
    )


def read_frozen(registry: Storage, name: str) -> Holdout:
    """Raises InputError if the name has no holdout."""
    holdout = read_holdout(registry, name)
    if holdout is None:
        raise InputError(
            f"{registry.uri} has no holdout of {name}: mhim pipeline freezes it before it makes the first champion; a "
            "champion made otherwise cannot be judged against"
        )
    return holdout


def register_step(work: ModelWork, registry: Storage, against: Against, options: GateOptions) -> Step:
    """Register the final fit's model, with the estimate and its figures on the holdout in its card."""

    def run(call: StepCall) -> StepOutput:
        trained_run = read_run(call.before["final"].places["final"])
        # by name: somebody may have evaluated the run by another of its models since
        estimate = estimate_of(open_storage(call.before["train"].places["train"]), model_names(trained_run)[0])
        packaged = package_run(trained_run, created_by=f"mhim {work.place.flow}", estimate=estimate)
        card = packaged.card
        if card.version != against.version:
            figures = _holdout_figures(work, registry, packaged, against, options)
            card = dataclasses.replace(card, holdout=figures)
        model = register_model(registry, work.name, card, packaged.files)
        mirror_promotion(registry, work.name, work.config.tracking)
        return StepOutput(
            identity={"version": model.version},
            places={"model": registry.locate(f"models/{model.name}/{model.version}")},
            cost=Cost(num_bytes=sum(map(len, packaged.files.values()))),
            note=f"{model.name}@{model.version}",
        )

    return Step("register", {"name": work.name}, run, ("final", "evaluate"))


def _holdout_figures(
    work: ModelWork, registry: Storage, packaged: PackagedModel, against: Against, options: GateOptions
) -> dict[str, Any]:
    """The model's own figures, before the comparison; both count as one recorded reading of the holdout."""
    holdout = read_frozen(registry, work.name)
    record_reading(registry, work.name, _reading(work, against, packaged.card.version))
    model = predictor_of_package(packaged, work.name)
    features = read_features(work.store, work.feature_set.fingerprint)
    bags = _holdout_bags(work, holdout, model, features)
    return figures_alone(contender(model, bags, _source(work, features, bags)), options)


def _reading(work: ModelWork, against: Against, version: str) -> dict[str, Any]:
    return {
        "flow": work.place.flow,
        "fingerprint": work.place.fingerprint,
        "champion": against.version,
        "challenger": version,
    }


def judge_step(
    work: ModelWork, registry: Storage, against: Against, options: GateOptions, *, words: str = "", marker: str = ""
) -> Step:
    """Predict the holdout, apply the gate, write the assessment.

    `words`: what is new. `marker`: the key under which these data count as judged; empty: none is needed.
    """

    def run(call: StepCall) -> StepOutput:
        version = str(call.before["register"].identity["version"])
        if version == against.version:  # the holdout need not be read for that
            return StepOutput(is_last=True, note=f"the same data, keys and seed gave the champion itself, {version}")
        claim = read_claim(registry, marker) if marker else None
        if claim is None:
            features = read_features(work.store, work.feature_set.fingerprint)
            assessment = _judge(work, registry, features, against, version, options)
            data = trained_data(work, registry, features)
            record = canonical_json(
                assessment | {"data": data.asked, "trained": data.trained, "new": words, "schema": 1}
            )
            place = keep_assessment(work.place.storage, work.place.folder, record)
            claim = put_claim(registry, marker, Claim(work.place.fingerprint, place)) if marker else None
        if claim is not None:
            other = dataclasses.replace(work.place, fingerprint=claim.flow)
            if claim.flow != work.place.fingerprint and "judge" in other.done_steps():
                return StepOutput(is_last=True, note=f"another retraining, {claim.flow[:16]}, judged these data first")
            # ours of a moment ago, or that of a flow that was cut off right here: its judgement counts, and is kept
            record = read_assessment(other.storage, other.folder, claim.assessment)
            place = keep_assessment(work.place.storage, work.place.folder, record)
            if claim.flow != work.place.fingerprint:
                registry.put(marker, Claim(work.place.fingerprint, place).to_bytes())
        assessment = parse_object(record, f"assessment {place[:16]}")
        verdict = "passed" if assessment["decision"]["promote"] else "refused"
        return StepOutput(
            identity={"promote": assessment["decision"]["promote"], "assessment": place},
            places={"assessment": work.place.storage.locate(assessment_key(work.place.folder, place))},
            note=f"{assessment['challenger']} {verdict}: {assessment['reason']}",
        )

    inputs = {"against": against, "gate": options}
    return Step("judge", json.loads(canonical_json(inputs)), run, ("register",))


def promote_step(place: FlowPlace, registry: Storage, base: int) -> Step:
    """Promote a challenger that passed; if the champion was replaced meanwhile, the flow ends with a note."""

    def run(call: StepCall) -> StepOutput:
        assessment = _assessment(place, call)
        if not assessment["decision"]["promote"]:
            kept = f"{assessment['champion']['version']} stays champion" if base else "there is no champion"
            return StepOutput(identity={"outcome": KEPT}, note=f"{kept}: {assessment['reason']}")
        decision = {key: assessment["decision"][key] for key in ("promote", "checks")}
        done = promote(
            registry,
            place.name,
            assessment["challenger"],
            base=base,
            by_flow=place.flow,
            by_fingerprint=place.fingerprint,
            reason=assessment["reason"],
            decision=decision | {key: assessment[key] for key in ("data", "trained", "settings")},
            figures=assessment["decision"]["figures"],
        )
        if not done.is_ours:
            note = f"{done.record.version} became champion meanwhile; nothing was promoted"
            return StepOutput(identity={"outcome": SUPERSEDED}, note=note, is_last=True)
        return StepOutput(
            identity={"outcome": PROMOTED, "number": done.record.number, "version": done.record.version},
            note=f"{place.name}@{done.record.version} is champion, number {done.record.number}",
        )

    return Step("promote", {"base": base}, run, ("judge",))


def assess_step(place: FlowPlace, keys: TrackingKeys) -> Step:
    """Write the page (verdict, figures, checks, duration of each step), then mirror it."""

    def run(call: StepCall) -> StepOutput:
        assessment, outcome = _assessment(place, call), call.before["promote"]
        states = [state for state in place.states() if state.step != "assess"]
        key = f"{place.folder}/{PAGE}"
        page = render_assessment(
            Assessment(
                name=place.name,
                flow=place.flow,
                outcome=str(outcome.identity["outcome"]),
                sentence=outcome.note,
                record=assessment,
                steps=tuple(StepBar(state.step, str(state.state), state.seconds) for state in states),
                places={name: where for output in call.before.values() for name, where in output.places.items()},
            )
        )
        place.storage.put(key, page.encode())
        mirror_promotion(place.storage, place.name, keys)
        return StepOutput(places={"assessment page": place.storage.locate(key)}, note=outcome.note)

    return Step("assess", {}, run, ("promote",))


def _assessment(place: FlowPlace, call: StepCall) -> dict[str, Any]:
    digest = call.before["judge"].identity["assessment"]
    return parse_object(read_assessment(place.storage, place.folder, digest), f"assessment {digest[:16]}")


def _judge(
    work: ModelWork, registry: Storage, features: Features, against: Against, version: str, options: GateOptions
) -> dict[str, Any]:
    """Compare both models on the holdout's bags. That the holdout is read is recorded before any prediction."""
    holdout = read_frozen(registry, work.name)
    number = record_reading(registry, work.name, _reading(work, against, version))
    challenger = predictor_of_model(registry, f"{work.name}@{version}")
    champion = predictor_of_model(registry, f"{work.name}@{against.version}") if against.version else None
    bags = _holdout_bags(work, holdout, challenger, features)
    source = _source(work, features, bags)
    never_miss = _never_miss_bags(work, holdout, challenger, features, options)
    decision = judge(
        None if champion is None else contender(champion, bags, source),
        contender(challenger, bags, source),
        holdout,
        options,
        holdout_changes=check_unchanged(
            holdout, work.cohort_input.cohort.rows, contents_of(work.cohort_input, features)
        ),
        never_miss_rows=held_out(challenger, never_miss, _source(work, features, never_miss)) if never_miss else (),
        withdrawn=_withdrawn_models(registry, work.name, version),
    )
    differing = () if champion is None else changes(champion.card, challenger.card)
    return {
        "champion": {"number": against.number, "version": against.version},
        "challenger": version,
        "reading": number,
        "holdout": {"slides": len(holdout.slides), "patients": len(holdout.patients), "sha": holdout.fingerprint},
        "training": {
            "slides": challenger.card.trained_on.num_slides,
            "patients": challenger.card.trained_on.num_patients,
        },
        "settings": work.settings(options),
        "changes": [change.words for change in differing] + _started(challenger),
        "estimate": challenger.card.estimate,
        "decision": decision.to_dict(),
        "reason": decision.reason,
    }


def _withdrawn_models(registry: Storage, name: str, version: str) -> frozenset[str]:
    """The versions that were rolled back, and the challenger's own if it predicts the same as one of them.

    A model's version depends on the manifest of its features, which any new slide changes.
    """
    versions = withdrawn(history(registry, name))
    same = _content(registry, name, version)
    return (
        versions | {version}
        if any(_content(registry, name, taken_back) == same for taken_back in versions)
        else versions
    )


def _content(registry: Storage, name: str, version: str) -> list[tuple[Any, ...]]:
    """Weights, model, temperature and threshold of every member: what predicts."""
    model = read_model_folder(registry, name, version)
    files = {file: weights_digest(read_member_file(registry, model, file)) for file in model.card.files}
    return [
        (*(files[file] for file in member.files), member.predict_with, member.temperature, member.threshold)
        for member in model.card.members
    ]


def _started(model: Predictor) -> list[str]:
    return [f"training started from {model.card.started_from}"] if model.card.started_from else []


def _holdout_bags(work: ModelWork, holdout: Holdout, model: Predictor, features: Features) -> tuple[BagMembers, ...]:
    """The frozen slides that have features, with their frozen targets; sites are those of the table."""
    sites = {row.slide_id: row.site for row in work.cohort_input.cohort.rows}
    present = features.with_tiles()
    rows = [
        CohortRow(
            slide.slide_id,
            "",
            slide.patient_id,
            slide.label,
            site=sites.get(slide.slide_id),
            time=slide.time,
            event=slide.event,
        )
        for slide in holdout.slides
        if slide.slide_id in present
    ]
    return make_bags(rows, holdout.task, model.unit)


def _never_miss_bags(
    work: ModelWork, holdout: Holdout, model: Predictor, features: Features, options: GateOptions
) -> tuple[BagMembers, ...]:
    """The bags of `never_miss` that are in the table, have features, and are not in the holdout."""
    wanted, present = set(options.never_miss), features.with_tiles()
    rows = [
        row
        for row in work.labelled
        if row.slide_id in present
        and row.slide_id not in holdout.by_slide
        and (row.slide_id if model.by_slide else row.patient_id) in wanted
        and (model.by_slide or row.patient_id not in holdout.patients)
    ]
    return make_bags(rows, holdout.task, model.unit) if rows else ()


def _source(work: ModelWork, features: Features, bags: Sequence[BagMembers]) -> Any:
    from mhim_core.store.bags import ParquetBags, PatientBags

    members = {bag.bag_id: bag.slide_ids for bag in bags}
    entries = {slide_id: features.entries[slide_id] for slide_ids in members.values() for slide_id in slide_ids}
    return PatientBags(ParquetBags(work.store, entries), members)
