"""Metrics of a prediction are of bags that the models have never seen, or there are none."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mhim_core import metrics
from mhim_core.cohort.rows import CohortRow
from mhim_core.features import SourceIdentity
from mhim_core.registry.card import TrainedOn
from mhim_core.registry.external import External, NewBag, PredictedBag, external_metrics
from mhim_core.registry.gate_options import HoldoutOptions
from mhim_core.registry.holdout import Holdout, HoldoutSlide
from mhim_core.task import SurvivalTarget, Task, TaskKind, ValueTarget
from mhim_core.types import BagId, PatientId, SlideId

TRAINED_ON = TrainedOn.of(
    cohort="c",
    feature_set="f",
    manifest_version=1,
    manifest_sha256="m",
    patients=["p-old"],
    sources=[SourceIdentity(10, "old bytes")],
)
BINARY = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
MEMBER = SimpleNamespace(temperature=2.0, threshold=0.3)
WITHOUT = SimpleNamespace(temperature=None, threshold=None)


def predictor(
    task: Task = BINARY,
    members: Sequence[Any] = (MEMBER, WITHOUT),
    train: Sequence[Any] = (),
    holdout: Holdout | None = None,
) -> Any:
    members = [SimpleNamespace(model_name="mhim", **vars(member)) for member in members]
    card = SimpleNamespace(trained_on=TRAINED_ON, members=members, task=task, unit="slide")
    return SimpleNamespace(card=card, holdout=holdout, train_targets=tuple(train))


def entry(source: str) -> SourceIdentity:
    return SourceIdentity(10, source)


def bag_of(name: str, patient_id: str, line: dict[str, Any], logits: tuple[float, ...], site: str | None) -> Any:
    row = CohortRow(SlideId(name), f"/slides/{name}.svs", PatientId(patient_id))
    bag = NewBag(BagId(name), PatientId(patient_id), site, (row.slide_id,), (row,))
    return PredictedBag(bag, {"slide_id": name, "patient_id": patient_id, "site": site} | line, logits)


def row(name: str, patient_id: str, label: str | None, tumour: float, site: str | None = None) -> Any:
    line = {"label": label, "decision": "tumour" if tumour >= 0.3 else "normal"}
    line |= {"calibrated_normal": 0.75 - tumour / 2, "calibrated_tumour": 0.25 + tumour / 2}
    return bag_of(name, patient_id, line, (math.log(1 - tumour), math.log(tumour)), site)


RUN = predictor()
NEW = [row("a", "p1", "normal", 0.1), row("b", "p2", "tumour", 0.9), row("c", "p3", None, 0.5)]
SOURCES = {SlideId(name): entry(f"{name} bytes") for name in "abcdefgh"}


def judge(run: Any, rows: Sequence[Any], sources: Any) -> External:
    return external_metrics(run.card, rows, sources, holdout=run.holdout, train_targets=run.train_targets)


def metrics_of(run: Any, rows: Sequence[Any], sources: Any = None) -> dict[str, Any] | None:
    metrics, notes = judge(run, rows, SOURCES if sources is None else sources)
    return None if metrics is None else metrics | {"notes": notes}


def test_labelled_new_slides_are_judged() -> None:
    metrics = metrics_of(RUN, NEW, SOURCES)
    assert metrics is not None
    assert metrics["num_bags"] == 2
    assert metrics["estimates"]["auroc"]["value"] == 1.0
    assert metrics["notes"] == []


def test_slides_of_the_runs_patients_or_contents_count_in_no_metric() -> None:
    rows = [*NEW, row("d", "p-old", "normal", 0.99), row("e", "p9", "normal", 0.99)]
    metrics = metrics_of(RUN, rows, SOURCES | {SlideId("e"): entry("old bytes")})
    assert metrics is not None
    assert metrics["num_bags"] == 2
    assert "2 labelled slides" in metrics["notes"][0]


HOLDOUT = Holdout(
    name="lung",
    task=BINARY,
    options=HoldoutOptions(),
    slides=(
        HoldoutSlide(
            slide_id=SlideId("h"),
            patient_id=PatientId("p-frozen"),
            label="tumour",
            time=None,
            event=None,
            source=SourceIdentity(10, "h bytes"),
        ),
    ),
)


@pytest.mark.parametrize(
    ("frozen", "source"),
    [
        (row("h", "p-frozen", "tumour", 0.2), "h bytes"),
        (row("d", "p-frozen", "tumour", 0.2), "d bytes"),  # a later slide of the patient
        (row("d", "p9", "tumour", 0.2), "h bytes"),  # a copy under other names
        (row("h", "p9", "tumour", 0.2), "rescanned"),  # its patient was renamed
    ],
)
def test_the_frozen_holdout_is_predicted_and_counts_in_no_metric(frozen: Any, source: str) -> None:
    entries = SOURCES | {frozen.bag.slide_ids[0]: entry(source)}
    model = predictor(holdout=HOLDOUT)
    metrics, notes = judge(model, [*NEW, frozen], entries)
    assert metrics is not None
    assert metrics["num_bags"] == 2
    assert metrics["estimates"] == metrics_of(RUN, NEW)["estimates"]  # type: ignore[index]
    (note,) = notes
    assert note.startswith("1 labelled slides are of the frozen holdout of lung")
    assert not {"p-frozen", "tumour"} & set(note.split())
    assert judge(model, [frozen], entries) == (None, [note]), "what was left out is told in any case"
    assert metrics_of(RUN, [*NEW, frozen], entries)["num_bags"] == 3, "a run has no such holdout"  # type: ignore[index]


def test_a_label_that_is_no_class_is_named() -> None:
    metrics = metrics_of(RUN, [*NEW, row("d", "p4", "Tumour", 0.9)], SOURCES)
    assert metrics is not None
    assert "Tumour" in metrics["notes"][0]


def test_a_cohort_of_known_or_unlabelled_slides_has_no_metrics() -> None:
    assert metrics_of(RUN, [row("c", "p3", None, 0.5)], SOURCES) is None
    assert metrics_of(RUN, [row("a", "p-old", "normal", 0.1)], SOURCES) is None


MORE = [
    row("a", "p1", "normal", 0.1, "north"),
    row("b", "p2", "tumour", 0.9, "north"),
    row("d", "p4", "normal", 0.4, "south"),
    row("e", "p5", "tumour", 0.35, "south"),
    row("f", "p6", "normal", 0.2, "west"),
    row("g", "p6", "normal", 0.25),
]
TRUTH, TUMOUR = [0, 1, 0, 1, 0, 0], [0.1, 0.9, 0.4, 0.35, 0.2, 0.25]


def test_new_bags_get_the_protocol_of_held_out_ones() -> None:
    document = metrics_of(RUN, MORE)
    assert document is not None
    assert (document["num_bags"], document["num_patients"], document["num_bags_without_site"]) == (6, 5, 1)
    estimates = document["estimates"]
    assert estimates["auroc"]["value"] == metrics.auroc(TRUTH, TUMOUR)
    assert estimates["accuracy"]["value"] == 5 / 6, "the more probable class"
    assert estimates["auroc"]["low"] is not None
    assert document["calibration"]["before"]["brier"] == estimates["brier"]
    after = [0.25 + probability / 2 for probability in TUMOUR]
    assert document["calibration"]["after"]["brier"]["value"] == pytest.approx(metrics.brier(TRUTH, after))
    ece = metrics.expected_calibration_error(TRUTH, after)
    assert document["calibration"]["after"]["expected_calibration_error"]["value"] == pytest.approx(ece)
    decided = document["thresholded"]
    assert (decided["sensitivity"]["value"], decided["specificity"]["value"]) == (1.0, 0.75)
    assert decided["accuracy"]["value"] == 5 / 6
    assert {site: figures["num_bags"] for site, figures in document["sites"].items()} == {
        "north": 2,
        "south": 2,
        "west": 1,
    }
    assert document["sites"]["north"]["estimates"]["auroc"]["value"] == 1.0
    assert document["sites"]["south"]["estimates"]["auroc"]["value"] == 0.0
    assert document["sites"]["south"]["thresholded"]["specificity"]["value"] == 0.0
    assert "of class 0" in document["sites"]["west"]["estimates"]["auroc"]["reason"]


def test_what_validation_did_not_choose_is_null_with_the_reason() -> None:
    document = metrics_of(predictor(members=[WITHOUT]), MORE)
    assert document is not None
    after = document["calibration"]["after"]["brier"]
    assert (after["value"], after["reason"]) == (None, "validation chose no temperature for any of the models")
    decided = document["thresholded"]["sensitivity"]
    assert (decided["value"], decided["reason"]) == (None, "validation chose no threshold for any of the models")
    assert document["calibration"]["before"]["brier"]["value"] is not None


def test_new_bags_are_ranked_by_logits_where_probabilities_are_all_one() -> None:
    line = {"decision": "tumour", "calibrated_normal": 0.0, "calibrated_tumour": 1.0}
    certain = [
        bag_of(name, f"p{name}", line | {"label": ("normal", "tumour")[index // 2]}, (0.0, 40.0 + index), None)
        for index, name in enumerate("abde")
    ]
    document = metrics_of(RUN, certain)
    assert document is not None
    assert document["estimates"]["auroc"]["value"] == 1.0


def test_of_three_classes_the_most_probable_one_decides() -> None:
    task = Task(kind=TaskKind.classification, classes=("x", "y", "z"))
    bags = []
    for index, name in enumerate("abdefg"):
        line = {"label": "xyz"[index % 3], "decision": "xyz"[index % 2]}
        line |= {f"calibrated_{label}": 1 / 3 for label in "xyz"}
        bags.append(
            bag_of(
                name, f"p{name}", line, tuple(float(index_of_class == index % 2) for index_of_class in range(3)), None
            )
        )
    document = metrics_of(predictor(task, [WITHOUT]), bags)
    assert document is not None
    assert document["thresholded"]["accuracy"] == document["estimates"]["accuracy"]
    assert "sensitivity" not in document["thresholded"]


SURVIVAL = Task(kind=TaskKind.survival, time_bins=2)
FOLLOWED = [(1.0, True, 3.0), (2.0, True, 1.0), (3.0, False, 2.0), (5.0, True, 0.0), (6.0, True, -1.0)]


def survivors() -> list[Any]:
    return [
        bag_of(name, f"p{name}", {"time": time, "event": event, "risk": 0.0}, (high, high), "north")
        for name, (time, event, high) in zip("abdef", FOLLOWED, strict=True)
    ]


def test_unos_c_of_new_patients_takes_the_censoring_of_the_runs_training_patients() -> None:
    train = [SurvivalTarget(float(time), time % 2 == 0) for time in range(1, 6)]
    document = metrics_of(predictor(SURVIVAL, train=train), survivors())
    assert document is not None
    time, event, risk = (list(column) for column in zip(*FOLLOWED, strict=True))
    expected = metrics.uno_c(
        [target.time for target in train], [target.event for target in train], time, event, risk, tau=5.0
    )
    assert document["uno_tau"] == 5.0
    assert document["estimates"]["uno_c"]["value"] == pytest.approx(expected, abs=1e-12)
    assert document["estimates"]["harrell_c"]["value"] == pytest.approx(metrics.harrell_c(time, event, risk))
    assert document["sites"]["north"]["estimates"]["uno_c"]["value"] == pytest.approx(expected, abs=1e-12)
    assert "calibration" not in document
    of_a_model = metrics_of(predictor(SURVIVAL), survivors())
    assert of_a_model is not None
    assert of_a_model["estimates"]["uno_c"]["reason"] == "no training patients were given"


def test_numbers_are_judged_in_their_unit_and_words_are_no_numbers() -> None:
    labels = {"a": "10", "b": "20.5", "d": "30", "e": "high"}
    bags = [bag_of(name, f"p{name}", {"label": label}, (15.0,), None) for name, label in labels.items()]
    document = metrics_of(predictor(Task(kind=TaskKind.regression), train=[ValueTarget(1.0)]), bags)
    assert document is not None
    assert document["num_bags"] == 3
    assert document["estimates"]["mae"]["value"] == pytest.approx((5 + 5.5 + 15) / 3)
    assert document["notes"] == ["Labels that are no number, and count in no metric: high."]
