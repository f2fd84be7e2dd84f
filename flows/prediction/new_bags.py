"""New bags, and how good their predictions are where the table has targets that no model has seen."""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flows.prediction.predictor import Predictor
from mhim_core.cohort.table import CohortRow, natural_key
from mhim_core.cohort.values import number_of
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.judge import metrics_of
from mhim_core.evaluation.new_bags import Chosen, summarise_new
from mhim_core.fingerprint import canonical_json
from mhim_core.registry.holdout import split_off
from mhim_core.store.record import CommitRecord
from mhim_core.task import ClassTarget, SurvivalTarget, Target, TaskKind, ValueTarget
from mhim_core.types import BagId, PatientId, SlideId


class NewBag(NamedTuple):
    """What is predicted at once: a slide, or all slides of a patient that have tiles."""

    bag_id: BagId
    patient_id: PatientId
    site: str | None
    slide_ids: tuple[SlideId, ...]
    rows: tuple[CohortRow, ...]


def new_bags(given: Predictor, rows: Sequence[CohortRow], entries: Container[SlideId]) -> list[NewBag]:
    """The table's bags in natural order, in the unit that the models were trained on."""
    members: dict[str, list[CohortRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda one: natural_key(one.slide_id)):
        if row.slide_id in entries:
            members[row.slide_id if given.by_slide else row.patient_id].append(row)
    found = []
    for bag_id in sorted(members, key=natural_key):
        own = members[bag_id]
        sites = {row.site for row in own}
        site = sites.pop() if len(sites) == 1 else None
        slide_ids = tuple(row.slide_id for row in own)
        found.append(NewBag(BagId(bag_id), own[0].patient_id, site, slide_ids, tuple(own)))
    return found


class PredictedBag(NamedTuple):
    """One bag's prediction, the mean over the models."""

    bag: NewBag
    line: dict[str, Any]
    """Its row of the tables."""
    logits: tuple[float, ...]
    """Those that say the mean, as `registry.ensemble.pooled_logits` makes them."""


class External(NamedTuple):
    """How good predictions of new bags are."""

    metrics: dict[str, Any] | None
    """`evaluation.new_bags.summarise_new`'s document; None where no bag could be judged."""
    notes: list[str]
    """What was left out, and why."""


def external_metrics(
    given: Predictor, predicted: Sequence[PredictedBag], entries: Mapping[SlideId, CommitRecord]
) -> External:
    """The metrics of the bags with a target that no model has ever seen, and that are not set aside for the gate.

    Bags of patients, or with the content of slides, that some of the models were trained on are predicted, and left
    out here; so are those of the frozen holdout, each reading of which is to be on record.
    """
    labelled = [one for one in predicted if _has_target(one.line)]
    known = _trained_on(given, (one.bag for one in labelled), entries)
    frozen = _set_aside(given, (one.bag for one in labelled), entries) - known
    fresh = [one for one in labelled if one.bag.bag_id not in known | frozen]
    judged = [one for one in fresh if _maybe_target(given, one.line) is not None]
    notes = []
    if known:
        notes.append(
            f"{len(known)} labelled {bag_words(given)} are of patients that models were trained on; no metric counts "
            "them."
        )
    if frozen:
        assert given.holdout is not None
        notes.append(
            f"{len(frozen)} labelled {bag_words(given)} are of the frozen holdout of {given.holdout.name}, by which "
            "the gate judges its models; no metric here counts them, since each look at it makes it say less."
        )
    if foreign := sorted({str(one.line["label"]) for one in fresh if _maybe_target(given, one.line) is None}):
        what = "class of the models" if given.classes else "number"
        notes.append(f"Labels that are no {what}, and count in no metric: {', '.join(foreign[:10])}.")
    if not judged:
        return External(None, notes)
    rows = [_row(given, one) for one in judged]
    found = summarise_new(rows, given.task, chosen=_chosen(given, judged), train_targets=given.train_targets)
    return External(json.loads(canonical_json(found)), notes)


def _trained_on(given: Predictor, bags: Iterable[NewBag], entries: Mapping[SlideId, CommitRecord]) -> set[BagId]:
    trained_on = given.card.trained_on
    return {
        bag.bag_id
        for bag in bags
        if trained_on.knows_patient(bag.patient_id)
        or any(trained_on.knows_source(entries[slide_id].source) for slide_id in bag.slide_ids)
    }


def _set_aside(given: Predictor, bags: Iterable[NewBag], entries: Mapping[SlideId, CommitRecord]) -> set[BagId]:
    """The bags with a slide of the holdout's patients, or with the content of one of its slides."""
    if given.holdout is None:
        return set()
    bags = list(bags)
    rows = [row for bag in bags for row in bag.rows]
    sources = {row.slide_id: entries[row.slide_id].source for row in rows}
    free = {row.slide_id for row in split_off(given.holdout, rows, sources).trainable}
    return {bag.bag_id for bag in bags if not free.issuperset(bag.slide_ids)}


def _has_target(line: dict[str, Any]) -> bool:
    if "time" in line:
        return line["time"] is not None and line["event"] is not None
    return line["label"] is not None


def _maybe_target(given: Predictor, line: dict[str, Any]) -> Target | None:
    """None for a label that is no class of the models, or no number."""
    if given.task.kind is TaskKind.survival:
        return SurvivalTarget(line["time"], line["event"])
    if given.task.kind is TaskKind.classification:
        return ClassTarget(given.classes.index(line["label"])) if line["label"] in given.classes else None
    value = number_of(line["label"])
    return None if value is None else ValueTarget(value)


def _row(given: Predictor, one: PredictedBag) -> HeldOut:
    target = _maybe_target(given, one.line)
    assert target is not None
    bag = one.bag
    return HeldOut(given.reported, 0, 0, bag.bag_id, bag.patient_id, bag.site, target, one.logits)


def _chosen(given: Predictor, predicted: Sequence[PredictedBag]) -> Chosen | None:
    """What the tables have of temperature and threshold; a model without one counts as at 1, and as at 0.5."""
    if given.task.kind is not TaskKind.classification:
        return None
    members, several = given.card.members, len(given.classes) > 2
    has_temperature = any(one.temperature is not None for one in members)
    has_threshold = several or any(one.threshold is not None for one in members)
    lines = {str(one.bag.bag_id): one.line for one in predicted}
    after = {bag: [line[f"calibrated_{name}"] for name in given.classes] for bag, line in lines.items()}
    decided = {bag: given.classes.index(line["decision"]) for bag, line in lines.items()}
    return Chosen(after if has_temperature else None, decided if has_threshold else None)


def print_metrics(given: Predictor, external: External) -> None:
    """What was left out, and the main metric in a line."""
    metrics, notes = external
    for note in notes:
        print(note)
    if metrics is None:
        return
    name = {TaskKind.survival: "harrell_c", TaskKind.regression: "mae"}.get(given.task.kind, "auroc")
    one = metrics["estimates"][name]
    value = f"undefined ({one['reason']})" if one["value"] is None else f"{one['value']:.3f}"
    interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    title = metrics_of(given.task.kind)[name].title
    print(f"{metrics['num_bags']} of them are labelled and new to the models: {title} {value}{interval}")


def bag_words(given: Predictor) -> str:
    """What a bag is, in the plural."""
    return "slides" if given.by_slide else "patients"
