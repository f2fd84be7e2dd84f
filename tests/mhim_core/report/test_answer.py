"""The first screen: the main figure beside the baseline's on one scale, counts, and which slide is shown."""

import pytest

from mhim_core.metrics import Estimate
from mhim_core.report.answer import compared, counts_of, finding_of, headline_of, shown_slide
from mhim_core.report.data import (
    ClassOutput,
    CohortSummary,
    ModelResult,
    Prediction,
    ReportData,
    RiskOutput,
    SlidePanel,
)
from mhim_core.task import TaskKind

COHORT = CohortSummary(name="c", num_slides=9, num_patients=8, num_ok=6, num_empty=1, num_failed=2)


def predicted(name: str, label: str | None, probability: float) -> Prediction:
    word = "b" if probability > 0.5 else "a"
    return Prediction(name, name, ClassOutput(label, word, (1 - probability, probability)), 0)


def report(*predictions: Prediction, **changes: object) -> ReportData:
    panels = tuple(
        SlidePanel(slide_id=prediction.bag_id, overview=b"", heatmap=b"", prediction=prediction)
        for prediction in predictions
    )
    content = {"title": "t", "task": "t", "classes": ("a", "b"), "cohort": COHORT, "panels": panels}
    return ReportData(**content | {"predictions": predictions} | changes)  # type: ignore[arg-type]


def test_the_reported_model_stands_first_and_the_plain_one_is_called_the_baseline() -> None:
    models = (
        ModelResult(name="plain", estimates={"auroc": Estimate(0.7, 0.6, 0.8)}),
        ModelResult(
            name="mhim",
            estimates={"auroc": Estimate(0.9, 0.8, 1.0), "balanced_accuracy": Estimate(0.75, None, None)},
            is_reported=True,
        ),
    )
    finding = finding_of(report(models=models))
    assert finding is not None
    assert [bar.name for bar in finding.bars] == ["mhim", "plain (baseline)"]
    assert finding.main.is_main
    assert (finding.main.low, finding.main.at, finding.main.high) == (60.0, 80.0, 100.0)
    assert (finding.scale.low, finding.scale.high, finding.scale.chance) == ("0.5", "1", 0.0)
    assert "0.750" in finding.second
    assert finding_of(report()) is None


def test_a_value_below_chance_widens_the_scale_and_what_is_undefined_has_its_reason() -> None:
    finding = compared("harrell_c", {"x": Estimate(0.45, 0.3, 0.6), "y": Estimate(None, None, None, 0, "no pairs")})
    assert finding.scale.chance == 50.0
    assert finding.bars[0].at == 45.0
    assert finding.bars[1].at is None
    assert finding.bars[1].reason == "no pairs"
    assert finding.bars[1].interval == ""
    errors = compared("mae", {"x": Estimate(20.0, 10.0, 40.0)})
    assert errors.scale.chance is None
    assert (errors.bars[0].low, errors.bars[0].at, errors.bars[0].high) == (25.0, 50.0, 100.0)
    assert compared("mae", {"x": Estimate(0.0, None, None)}).bars[0].at == 0.0
    with pytest.raises(ValueError, match="no estimate"):
        compared("auroc", {})


def test_counts_say_how_many_were_wrong_or_what_was_predicted_and_what_failed() -> None:
    models = (ModelResult(name="mhim", estimates={"auroc": Estimate(0.9, 0.8, 1.0)}, is_reported=True),)
    labelled = report(predicted("x", "a", 0.9), predicted("y", "b", 0.8), predicted("z", None, 0.8), models=models)
    assert headline_of(labelled) is None
    numbers = [(count.number, count.is_bad) for count in counts_of(labelled)]
    assert numbers == [("9", False), ("1", True), ("2", True)]
    new = report(predicted("x", None, 0.9), predicted("y", None, 0.1))
    headline = headline_of(new)
    assert headline is not None
    assert headline.number == "1"
    assert headline.words.endswith("predicted b")
    assert headline not in counts_of(new)
    risks = report(
        Prediction("p", "p", RiskOutput(None, None, -1.0)), Prediction("q", "q", RiskOutput(None, None, 2.0)),
        kind=TaskKind.survival, classes=(),
    )  # fmt: skip
    headline = headline_of(risks)
    assert headline is not None
    assert headline.number == "−1.000 to 2.000"


@pytest.mark.parametrize(
    ("predictions", "name"),
    [
        ([("wrong", "a", 0.99), ("sure", "b", 0.9), ("less", "b", 0.8), ("negative", "a", 0.01)], "sure"),
        ([("wrong", "a", 0.99), ("negative", "a", 0.01)], "negative"),
        ([("wrong", "a", 0.99), ("other", "b", 0.3)], "wrong"),
        ([("low", None, 0.2), ("high", None, 0.8)], "high"),
    ],
)
def test_the_slide_shown_is_the_surest_right_positive_of_those_with_pictures(
    predictions: list[tuple[str, str | None, float]], name: str
) -> None:
    shown = shown_slide(report(*(predicted(*prediction) for prediction in predictions)))
    assert shown is not None
    assert shown.panel.slide_id == name


def test_a_page_without_pictures_shows_none() -> None:
    assert shown_slide(report(predicted("x", "a", 0.2), panels=())) is None
