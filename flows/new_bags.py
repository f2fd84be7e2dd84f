"""New bags, and how good their predictions are where the table has targets that no model has seen."""

import json
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from flows.predictor import Predictor
from mhim_core.cohort.table import CohortRow, natural_key
from mhim_core.cohort.values import number_of
from mhim_core.evaluation.judge import metrics_of
from mhim_core.fingerprint import canonical_json
from mhim_core.metrics import evaluate_predictions, evaluate_regression, evaluate_survival
from mhim_core.store.record import CommitRecord
from mhim_core.task import TaskKind
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


def external_metrics(
    given: Predictor, bags: Sequence[NewBag], rows: Sequence[dict[str, Any]], entries: Mapping[SlideId, CommitRecord]
) -> dict[str, Any] | None:
    """The metrics of the bags with a target that no model has ever seen; None where there is none.

    Bags of patients, or with the content of slides, that some of the models were trained on are predicted, and left
    out here.
    """
    trained_on = given.card.trained_on
    labelled = [(bag, row) for bag, row in zip(bags, rows, strict=True) if _has_target(row)]
    known = {
        bag.bag_id
        for bag, _ in labelled
        if trained_on.knows_patient(bag.patient_id)
        or any(trained_on.knows_source(entries[slide_id].source) for slide_id in bag.slide_ids)
    }
    fresh = [row for bag, row in labelled if bag.bag_id not in known]
    judged = [row for row in fresh if _is_readable(given, row)]
    notes = []
    if known:
        notes.append(
            f"{len(known)} labelled {bag_words(given)} are of patients that models were trained on; no metric counts "
            "them."
        )
    if foreign := sorted({str(row["label"]) for row in fresh if not _is_readable(given, row)}):
        what = "class of the models" if given.classes else "number"
        notes.append(f"Labels that are no {what}, and count in no metric: {', '.join(foreign[:10])}.")
    if not judged:
        for note in notes:
            print(note)
        return None
    found = {"num_bags": len(judged), "estimates": _estimates(given, judged), "notes": notes}
    plain: dict[str, Any] = json.loads(canonical_json(found))
    return plain


def _has_target(row: dict[str, Any]) -> bool:
    if "time" in row:
        return row["time"] is not None and row["event"] is not None
    return row["label"] is not None


def _is_readable(given: Predictor, row: dict[str, Any]) -> bool:
    if given.task.kind is TaskKind.classification:
        return row["label"] in given.classes
    return given.task.kind is TaskKind.survival or number_of(row["label"]) is not None


def _estimates(given: Predictor, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    patients = [row["patient_id"] for row in rows]
    if given.task.kind is TaskKind.survival:
        times, events = [row["time"] for row in rows], [row["event"] for row in rows]
        return dict(evaluate_survival(times, events, [row["risk"] for row in rows], patients))
    if given.task.kind is TaskKind.regression:
        truth = [float(row["label"]) for row in rows]
        return dict(evaluate_regression(truth, [row["prediction"] for row in rows], patients))
    classes = [given.classes.index(row["label"]) for row in rows]
    scores = [[row[f"probability_{name}"] for name in given.classes] for row in rows]
    return dict(evaluate_predictions(classes, scores, patients))


def print_metrics(given: Predictor, metrics: dict[str, Any] | None) -> None:
    """The main one, in a line."""
    if metrics is None:
        return
    name = {TaskKind.survival: "harrell_c", TaskKind.regression: "mae"}.get(given.task.kind, "auroc")
    one = metrics["estimates"][name]
    value = f"undefined ({one['reason']})" if one["value"] is None else f"{one['value']:.3f}"
    interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    for note in metrics["notes"]:
        print(note)
    title = metrics_of(given.task.kind)[name].title
    print(f"{metrics['num_bags']} of them are labelled and new to the models: {title} {value}{interval}")


def bag_words(given: Predictor) -> str:
    """What a bag is, in the plural."""
    return "slides" if given.by_slide else "patients"
