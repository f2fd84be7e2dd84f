"""How good predictions of new bags are, where the table has targets that no model has seen."""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.table import natural_key
from mhim_core.cohort.task_options import BagUnit
from mhim_core.cohort.values import number_of
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.new_bags import Chosen, summarise_new
from mhim_core.evaluation.prediction_table import class_values
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.holdout import Holdout, split_off
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.types import BagId, PatientId, SlideId

Sources = Mapping[SlideId, SourceIdentity]


class NewBag(NamedTuple):
    """A slide, or all slides of a patient that have tiles."""

    bag_id: BagId
    patient_id: PatientId
    site: str | None
    slide_ids: tuple[SlideId, ...]
    rows: tuple[CohortRow, ...]


def new_bags(unit: BagUnit, rows: Sequence[CohortRow], slide_ids: Container[SlideId]) -> list[NewBag]:
    """The table's bags in natural order; `slide_ids`: those with tiles, bags without tiles are left out."""
    members: dict[str, list[CohortRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: natural_key(row.slide_id)):
        if row.slide_id in slide_ids:
            members[row.slide_id if unit is BagUnit.slide else row.patient_id].append(row)
    bags = []
    for bag_id in sorted(members, key=natural_key):
        own = members[bag_id]
        sites = {row.site for row in own}
        site = sites.pop() if len(sites) == 1 else None
        bags.append(NewBag(BagId(bag_id), own[0].patient_id, site, tuple(row.slide_id for row in own), tuple(own)))
    return bags


class PredictedBag(NamedTuple):
    """One bag's prediction, the mean over the models."""

    bag: NewBag
    line: dict[str, Any]
    """Its row of the tables."""
    logits: tuple[float, ...]
    """That express the mean: `registry.ensemble.pooled_logits`."""


class External(NamedTuple):
    """How good predictions of new bags are."""

    metrics: dict[str, Any] | None
    """`evaluation.new_bags.summarise_new`'s document; None where no bag could be judged."""
    notes: list[str]
    """What was left out, and why."""


def external_metrics(
    card: RegistryCard,
    predicted: Sequence[PredictedBag],
    sources: Sources,
    *,
    holdout: Holdout | None = None,
    train_targets: Sequence[Target] = (),
) -> External:
    """The metrics of the bags with a target that no model has ever seen, and that are not set aside for the gate.

    Bags of patients, or with the content of slides, that some of the models were trained on are predicted, but left out
    here; so are those of the frozen holdout, since each use of it must be recorded. `sources`: the content of each
    predicted slide. `train_targets`: of the models' training bags, where they are known (Uno's C).
    """
    task, words = card.task, bag_words(BagUnit(card.unit))
    labelled = [item for item in predicted if _has_target(item.line)]
    known = _trained_on(card, (item.bag for item in labelled), sources)
    frozen = _set_aside(holdout, [item.bag for item in labelled], sources) - known
    fresh = [item for item in labelled if item.bag.bag_id not in known | frozen]
    judged = [item for item in fresh if _maybe_target(task, item.line) is not None]
    notes = []
    if known:
        notes.append(
            f"{len(known)} labelled {words} are of patients that models were trained on; no metric counts them."
        )
    if frozen:
        assert holdout is not None
        notes.append(
            f"{len(frozen)} labelled {words} are of the frozen holdout of {holdout.name}, by which the gate judges its "
            "models; no metric here counts them, since each use of the holdout makes it less reliable."
        )
    if foreign := sorted({str(item.line["label"]) for item in fresh if _maybe_target(task, item.line) is None}):
        noun = "class of the models" if task.classes else "number"
        notes.append(f"Labels that are no {noun}, and count in no metric: {', '.join(foreign[:10])}.")
    if not judged:
        return External(None, notes)
    rows = [_row(card, item) for item in judged]
    metrics = summarise_new(rows, task, chosen=_chosen(card, judged), train_targets=train_targets)
    return External(json.loads(canonical_json(metrics)), notes)


def bag_words(unit: BagUnit) -> str:
    """What a bag is, in the plural."""
    return "slides" if unit is BagUnit.slide else "patients"


def _trained_on(card: RegistryCard, bags: Iterable[NewBag], sources: Sources) -> set[BagId]:
    return {
        bag.bag_id
        for bag in bags
        if card.trained_on.knows_patient(bag.patient_id)
        or any(card.trained_on.knows_source(sources[slide_id]) for slide_id in bag.slide_ids)
    }


def _set_aside(holdout: Holdout | None, bags: Sequence[NewBag], sources: Sources) -> set[BagId]:
    """The bags with a slide of the holdout's patients, or with the content of one of its slides."""
    if holdout is None:
        return set()
    rows = [row for bag in bags for row in bag.rows]
    free = {
        row.slide_id
        for row in split_off(holdout, rows, {row.slide_id: sources[row.slide_id] for row in rows}).trainable
    }
    return {bag.bag_id for bag in bags if not free.issuperset(bag.slide_ids)}


def _has_target(line: Mapping[str, Any]) -> bool:
    if "time" in line:
        return line["time"] is not None and line["event"] is not None
    return line["label"] is not None


def _maybe_target(task: Task, line: Mapping[str, Any]) -> Target | None:
    """None for a label that is no class of the models, or no number."""
    if task.kind is TaskKind.survival:
        return SurvivalTarget(line["time"], line["event"])
    if task.kind is TaskKind.classification:
        return ClassTarget(task.classes.index(line["label"])) if line["label"] in task.classes else None
    value = number_of(line["label"])
    return None if value is None else ValueTarget(value)


def _row(card: RegistryCard, item: PredictedBag) -> HeldOut:
    target = _maybe_target(card.task, item.line)
    assert target is not None
    bag = item.bag
    return HeldOut(card.members[0].model_name, 0, 0, bag.bag_id, bag.patient_id, bag.site, target, item.logits)


def _chosen(card: RegistryCard, predicted: Sequence[PredictedBag]) -> Chosen | None:
    """The tables' calibrated probabilities and decisions; a model without temperature or threshold has 1 or 0.5."""
    task = card.task
    if task.kind is not TaskKind.classification:
        return None
    has_temperature = any(member.temperature is not None for member in card.members)
    has_threshold = len(task.classes) > 2 or any(member.threshold is not None for member in card.members)
    lines = {str(item.bag.bag_id): item.line for item in predicted}
    after = {bag_id: class_values(line, "calibrated", task) for bag_id, line in lines.items()}
    decided = {bag_id: task.classes.index(line["decision"]) for bag_id, line in lines.items()}
    return Chosen(after if has_temperature else None, decided if has_threshold else None)
