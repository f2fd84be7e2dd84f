"""Metrics of a prediction are of slides that the run has never seen, or there are none."""

from types import SimpleNamespace
from typing import Any

from flows.new_bags import NewBag
from flows.new_bags import external_metrics as metrics_of_bags
from mhim_core.features import SourceIdentity
from mhim_core.registry.card import TrainedOn
from mhim_core.task import Task, TaskKind
from mhim_core.types import BagId, PatientId, SlideId


def entry(source: str) -> Any:
    return SimpleNamespace(source=SourceIdentity(10, source))


def row(slide_id: str, patient_id: str, label: str | None, tumour: float) -> dict[str, Any]:
    probabilities = {"probability_normal": 1 - tumour, "probability_tumour": tumour}
    return {"slide_id": slide_id, "patient_id": patient_id, "label": label, **probabilities}


RUN: Any = SimpleNamespace(
    card=SimpleNamespace(
        trained_on=TrainedOn.of(
            cohort="c",
            feature_set="f",
            manifest_version=1,
            manifest_sha256="m",
            patients=["p-old"],
            sources=[SourceIdentity(10, "old bytes")],
        )
    ),
    classes=("normal", "tumour"),
    task=Task(kind=TaskKind.classification, classes=("normal", "tumour")),
    by_slide=True,
)
NEW = [row("a", "p1", "normal", 0.1), row("b", "p2", "tumour", 0.9), row("c", "p3", None, 0.5)]
SOURCES = {name: entry(f"{name} bytes") for name in "abcde"}


def external_metrics(run: Any, rows: list[dict[str, Any]], entries: Any) -> dict[str, Any] | None:
    bags = [
        NewBag(BagId(one["slide_id"]), PatientId(one["patient_id"]), None, (SlideId(one["slide_id"]),), ())
        for one in rows
    ]
    return metrics_of_bags(run, bags, rows, entries)


def test_labelled_new_slides_are_judged() -> None:
    found = external_metrics(RUN, NEW, SOURCES)
    assert found is not None
    assert found["num_bags"] == 2
    assert found["estimates"]["auroc"]["value"] == 1.0
    assert found["notes"] == []


def test_slides_of_the_runs_patients_or_contents_count_in_no_metric() -> None:
    rows = [*NEW, row("d", "p-old", "normal", 0.99), row("e", "p9", "normal", 0.99)]
    found = external_metrics(RUN, rows, SOURCES | {"e": entry("old bytes")})
    assert found is not None
    assert found["num_bags"] == 2
    assert "2 labelled slides" in found["notes"][0]


def test_a_label_that_is_no_class_is_named() -> None:
    found = external_metrics(RUN, [*NEW, row("d", "p4", "Tumour", 0.9)], SOURCES)
    assert found is not None
    assert "Tumour" in found["notes"][0]


def test_a_cohort_of_known_or_unlabelled_slides_has_no_metrics() -> None:
    assert external_metrics(RUN, [row("c", "p3", None, 0.5)], SOURCES) is None
    assert external_metrics(RUN, [row("a", "p-old", "normal", 0.1)], SOURCES) is None
