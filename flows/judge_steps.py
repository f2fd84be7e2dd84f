"""The steps that decide: the challenger and the champion on the frozen holdout, the gate, promoted or kept, the page.

The assessment, `assessment.json` in the flow's folder, holds both sets of figures, every check and the reason. Whatever
comes after it follows it alone, so that a flow that was cut off here is completed though its cohort has grown since.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config_parts import part
from flows.discover import Features, Snapshot, contents_of, keep_snapshot, read_features, snapshot
from flows.inputs import CohortInput
from flows.model_steps import ModelWork
from flows.predictor import Predictor, contender, held_out, predictor_of_model
from flows.step_records import FlowPlace, StepOutput, read_json
from flows.steps import Step, StepCall
from flows.tracking import mirror_promotion
from flows.tracking_config import TrackingKeys
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.tasks import BagMembers, make_bags
from mhim_core.errors import ConflictError, InputError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.registry.changes import changes
from mhim_core.registry.gate import judge
from mhim_core.registry.holdout import Holdout, check_unchanged, read_holdout, record_reading, split_off
from mhim_core.registry.names import check_name
from mhim_core.registry.options import GateOptions
from mhim_core.registry.promotions import history, promote, withdrawn
from mhim_core.report.assessment import Assessment, render_assessment
from mhim_core.report.step_figure import StepBar
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage

ASSESSMENT, PAGE = "assessment.json", "report.html"
PROMOTED, KEPT, SUPERSEDED = "promoted", "kept", "superseded"


class Against(NamedTuple):
    """The champion that a challenger is judged against."""

    number: int
    """Of its promotion; 0: there is none yet."""
    version: str
    """Empty: there is none yet."""


class Data(NamedTuple):
    """What the challenger was made from, as later retrainings compare it."""

    asked: str
    """The data fingerprint: of the snapshot."""
    trained: str
    """Of those slides of it that have features."""


def trained_data(work: ModelWork, registry: Storage) -> Data:
    """As the cohort and the store are now; the snapshot is kept, so that a later retraining can say what is new."""
    features = read_features(open_storage(work.config.store), work.feature_set.fingerprint)
    now = trainable_snapshot(work.given, features, read_frozen(registry, work.name), part(work.config, SlidePolicy))
    keep_snapshot(registry, work.name, now)
    return Data(now.fingerprint, now.of(features.with_tiles()))


def trainable_snapshot(given: CohortInput, features: Features, holdout: Holdout, policy: SlidePolicy) -> Snapshot:
    """Of the labelled slides that no patient or file of the holdout forbids."""
    contents = contents_of(given, features)
    return snapshot(split_off(holdout, given.cohort.rows, contents).trainable, contents, policy)


def read_frozen(registry: Storage, name: str) -> Holdout:
    """Raises InputError where the name has no holdout."""
    found = read_holdout(registry, name)
    if found is None:
        raise InputError(
            f"{registry.uri} has no holdout of {name}: mhim pipeline freezes it before it makes the first champion; a "
            "champion made otherwise cannot be judged against"
        )
    return found


def judge_step(
    work: ModelWork, registry: Storage, against: Against, options: GateOptions, *, words: str = "", marker: str = ""
) -> Step:
    """Read the holdout, ask the gate, write the assessment.

    `words`: what was new. `marker`: the key that says that these data were judged; empty: none is needed.
    """

    def run(call: StepCall) -> StepOutput:
        version = str(call.before["register"].identity["version"])
        if version == against.version:  # the holdout need not be read for that
            return StepOutput(is_last=True, note=f"the same data, keys and seed gave the champion itself, {version}")
        found = _judge(work, registry, read_frozen(registry, work.name), against, version, options)
        if marker and (other := _claim(registry, marker, work.place)) is not None:
            return StepOutput(is_last=True, note=f"another retraining, {other[:16]}, judged these data first")
        data = trained_data(work, registry)
        found |= {"data": data.asked, "trained": data.trained, "new": words}
        record = canonical_json(found | {"schema": 1})
        work.place.storage.put(f"{work.place.folder}/{ASSESSMENT}", record)
        verdict = "passed" if found["decision"]["promote"] else "refused"
        return StepOutput(
            identity={"promote": found["decision"]["promote"], "assessment": sha256(record)},
            places={"assessment": work.place.storage.locate(f"{work.place.folder}/{ASSESSMENT}")},
            note=f"{version} {verdict}: {found['reason']}",
        )

    inputs = {"against": against, "gate": options}
    return Step("judge", json.loads(canonical_json(inputs)), run, ("register",))


def promote_step(place: FlowPlace, registry: Storage, base: int) -> Step:
    """Put the promotion of a challenger that passed; where the champion was replaced meanwhile, say so and end."""

    def run(call: StepCall) -> StepOutput:
        found = read_assessment(place)
        if not found["decision"]["promote"]:
            kept = f"{found['champion']['version']} stays champion" if base else "there is no champion"
            return StepOutput(identity={"outcome": KEPT}, note=f"{kept}: {found['reason']}")
        decision = {key: found["decision"][key] for key in ("promote", "checks")}
        done = promote(
            registry,
            place.name,
            found["challenger"],
            base=base,
            by_flow=place.flow,
            by_fingerprint=place.fingerprint,
            reason=found["reason"],
            decision=decision | {key: found[key] for key in ("data", "trained")},
            figures=found["decision"]["figures"],
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
    """The page: verdict, figures, checks, and how long each step took; then the mirror, which shows it too."""

    def run(call: StepCall) -> StepOutput:
        found, outcome = read_assessment(place), call.before["promote"]
        states = [one for one in place.states() if one.step != "assess"]
        key = f"{place.folder}/{PAGE}"
        page = render_assessment(
            Assessment(
                name=place.name,
                flow=place.flow,
                outcome=str(outcome.identity["outcome"]),
                sentence=outcome.note,
                record=found,
                steps=tuple(StepBar(one.step, str(one.state), one.seconds) for one in states),
                places={what: where for output in call.before.values() for what, where in output.places.items()},
            )
        )
        place.storage.put(key, page.encode())
        mirror_promotion(place.storage, place.name, keys)
        return StepOutput(places={"assessment page": place.storage.locate(key)}, note=outcome.note)

    return Step("assess", {}, run, ("promote",))


def _claim(registry: Storage, marker: str, place: FlowPlace) -> str | None:
    """Say once which flow judges these data; the fingerprint of another flow that said so first, or None."""
    registry.put_if_absent(marker, canonical_json({"schema": 1, "flow": place.fingerprint}))
    first = judged_by(registry, marker)
    return None if first == place.fingerprint else first


def judged_by(registry: Storage, marker: str) -> str | None:
    """The fingerprint of the flow that judged these data, or None."""
    record = read_json(registry, marker)
    return None if record is None else str(record["flow"])


def marker_key(name: str, version: str, data: str, period: Sequence[int] | None) -> str:
    """Of data judged against a champion; by age again in each period of each of its promotions."""
    age = "" if period is None else "-" + "-".join(map(str, period))
    return f"flows/judged/{check_name(name)}/{version}-{data[:16]}{age}.json"


def read_assessment(place: FlowPlace) -> dict[str, Any]:
    """Raises ConflictError where it is gone: the judgement is then done, and what it said cannot be followed."""
    found = read_json(place.storage, f"{place.folder}/{ASSESSMENT}")
    if found is None:
        raise ConflictError(f"{place.storage.locate(place.folder)}/{ASSESSMENT} is gone, and what it said with it")
    return found


def _judge(
    work: ModelWork, registry: Storage, holdout: Holdout, against: Against, version: str, options: GateOptions
) -> dict[str, Any]:
    """Both contenders on the holdout's bags. That it is read is recorded before anything is predicted."""
    reading = {
        "flow": work.place.flow,
        "fingerprint": work.place.fingerprint,
        "champion": against.version,
        "challenger": version,
    }
    number = record_reading(registry, work.name, reading)
    challenger = predictor_of_model(registry, f"{work.name}@{version}")
    champion = predictor_of_model(registry, f"{work.name}@{against.version}") if against.version else None
    features = read_features(open_storage(work.config.store), work.feature_set.fingerprint)
    bags = _holdout_bags(work, holdout, challenger, features)
    source = _source(work, features, bags)
    never_miss = _never_miss_bags(work, holdout, challenger, features, options)
    decision = judge(
        None if champion is None else contender(champion, bags, source),
        contender(challenger, bags, source),
        holdout,
        options,
        holdout_changes=check_unchanged(holdout, work.given.cohort.rows, contents_of(work.given, features)),
        never_miss_rows=held_out(challenger, never_miss, _source(work, features, never_miss)) if never_miss else (),
        withdrawn=withdrawn(history(registry, work.name)),
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
        "changes": [change.words for change in differing] + _started(challenger),
        "estimate": challenger.card.estimate,
        "decision": decision.to_dict(),
        "reason": decision.reason,
    }


def _started(model: Predictor) -> list[str]:
    return [f"training started from {model.card.started_from}"] if model.card.started_from else []


def _holdout_bags(work: ModelWork, holdout: Holdout, model: Predictor, features: Features) -> tuple[BagMembers, ...]:
    """The frozen slides that have features, with the targets that were frozen; sites are the table's."""
    sites = {row.slide_id: row.site for row in work.given.cohort.rows}
    present = features.with_tiles()
    rows = [
        CohortRow(
            one.slide_id, "", one.patient_id, one.label, site=sites.get(one.slide_id), time=one.time, event=one.event
        )
        for one in holdout.slides
        if one.slide_id in present
    ]
    return make_bags(rows, holdout.task, model.unit)


def _never_miss_bags(
    work: ModelWork, holdout: Holdout, model: Predictor, features: Features, options: GateOptions
) -> tuple[BagMembers, ...]:
    """Those of the list that are in the table and have features, and are not the holdout's."""
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
    return PatientBags(ParquetBags(open_storage(work.config.store), entries), members)
