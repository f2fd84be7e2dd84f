"""The page: self-contained, escaped, reproducible, complete, and honest about what is missing."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mhim_core.metrics import CLASSIFICATION_METRICS, Estimate, MeanStd, Metric
from mhim_core.report.data import (
    CalibrationResult,
    ClassOutput,
    CohortSummary,
    FailedSlide,
    FoldResult,
    ModelResult,
    NumberOutput,
    Prediction,
    ReportData,
    ReportFigure,
    RiskGroups,
    RiskOutput,
    SiteResult,
    SlidePanel,
    UpsampledSlide,
)
from mhim_core.report.frame import RESEARCH_USE
from mhim_core.report.images import encode_png
from mhim_core.report.model_card import model_card
from mhim_core.report.page import render_report
from mhim_core.report.predictions import sort_by_error
from mhim_core.task import TaskKind

PNG = encode_png(np.zeros((4, 4, 3), dtype=np.uint8))
ATTACK = "<script>alert(1)</script>"


def report(**changes) -> ReportData:
    estimates = {name: Estimate(0.75, 0.5, 0.9) for name in CLASSIFICATION_METRICS}
    data = ReportData(
        title="Tumour detection",
        task="Tells tumour from normal.",
        protocol="Five folds.",
        classes=("normal", "tumour"),
        cohort=CohortSummary(
            name="cohort.csv",
            num_slides=5,
            num_patients=4,
            num_ok=3,
            num_empty=1,
            num_failed=1,
            num_per_class={"normal": 3, "tumour": 2},
            failures=(FailedSlide("s4", "no_mpp", "states no resolution"),),
            empty=("s5",),
            upsampled=(UpsampledSlide("s1", 2.1),),
        ),
        models=(
            ModelResult(name="MHIM", estimates=estimates, over_folds={"auroc": MeanStd(0.7, 0.1, 5)}, is_reported=True),
            ModelResult(name="plain", estimates={"auroc": Estimate(None, None, None, 0, "all 3 are of class 1")}),
        ),
        folds=(FoldResult(2021, 0, 3, 1, 1, {"auroc": Metric(None, "one class only")}, 11),),
        figures=(ReportFigure("ROC", PNG, "caption"),),
        predictions=(
            Prediction("good", "p1", ClassOutput("tumour", "tumour", (0.1, 0.9)), 0),
            Prediction("wrong", "p2", ClassOutput("normal", "tumour", (0.2, 0.8)), 0),
            Prediction("open", "p3", ClassOutput(None, "normal", (0.6, 0.4))),
        ),
        panels=(
            SlidePanel(
                slide_id="good",
                overview=PNG,
                heatmap=PNG,
                top_tiles=PNG,
                prediction=Prediction("good", "p1", ClassOutput("tumour", "tumour", (0.1, 0.9)), 0),
                num_tiles=7,
            ),
        ),
        encoder={"id": "hed-texture", "transform": {"mean": [0.5, 0.5]}, "licence": None},
        provenance={"mhim": "0.1.0"},
        notes=("Small cohort.",),
    )
    return replace(data, **changes)


def survival(**changes) -> ReportData:
    """By patient, two seeds, one model whose groups cannot be compared."""
    prediction = Prediction("p1", "p1", RiskOutput(12.5, True, -1.25, 0.1), 0, "north", 3)
    groups = (RiskGroups(2021, 3, 2, 4.567, 0.0326), RiskGroups(2022, 5, 0, None, None, "there is 1 group"))
    estimates = {"harrell_c": Estimate(0.7, 0.6, 0.8), "uno_c": Estimate(None, None, None, 0, "no training patients")}
    common = {
        "title": "cohort.csv: survival",
        "cohort": replace(report().cohort, num_per_class={}, targets={"Events": "1 of 2 patients"}),
        "kind": TaskKind.survival,
        "classes": (),
        "unit": "patient",
        "num_seeds": 2,
        "models": (
            ModelResult(name="mhim", estimates=estimates, is_reported=True, risk_groups=groups),
            ModelResult(name="plain", estimates=estimates, risk_reason="no validation prediction"),
        ),
        "folds": tuple(
            FoldResult(seed, 0, 3, 1, 1, {"harrell_c": Metric(0.7)}, 4, {"Median risk": Metric(-2.5)})
            for seed in (2021, 2022)
        ),
        "predictions": (
            prediction,
            Prediction("p2", "p2", RiskOutput(20.0, False, -0.5, 0.2), 0, "south"),
            Prediction("p3", "p3", RiskOutput(None, None, -2.0, 0.3), None, None),
        ),
        "averaged": "2 seeds",
        "panels": (
            SlidePanel(
                slide_id="s1", overview=PNG, heatmap=PNG, prediction=prediction, attention_share=0.634, num_tiles=9
            ),
        ),
    }
    return report(**common | changes)


def regression(**changes) -> ReportData:
    prediction = Prediction("s1", "p1", NumberOutput(1200.0, 1234.56))
    estimates = {"mae": Estimate(1234.56, 1000.4, 2000.6), "r2": Estimate(-0.25, -0.5, 0.1)}
    common = {
        "title": "cohort.csv: regression",
        "cohort": replace(report().cohort, num_per_class={}),
        "kind": TaskKind.regression,
        "classes": (),
        "models": (ModelResult(name="mhim", estimates=estimates, is_reported=True),),
        "folds": (),
        "predictions": (prediction, Prediction("s2", "p2", NumberOutput(None, 0.00012345))),
        "panels": (SlidePanel(slide_id="s1", overview=PNG, heatmap=PNG, prediction=prediction),),
    }
    return report(**common | changes)


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "style") or key.startswith("on")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere():
    parsed = _Tags(render_report(report()))
    assert parsed.open == []
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert all(source.startswith(("data:image/png;base64,", "#", "width:")) for source in parsed.sources)


def test_the_page_says_what_it_must():
    page = render_report(report())
    assert page.count(RESEARCH_USE) == 2
    for text in ("0.750", "0.500 – 0.900", "folds 0.700 ± 0.100", "all 3 are of class 1", "one class only"):
        assert text in page
    for text in ("no_mpp", "states no resolution", "no tissue found", "s1 (×2.10)", "transform.mean", "0.5, 0.5"):
        assert text in page
    assert ">12</td>" in page, "epochs are counted from 1 for people"


@pytest.mark.fault(49)
def test_untrusted_text_is_escaped_wherever_it_stands():
    attack = Prediction(ATTACK, ATTACK, ClassOutput(ATTACK, ATTACK, (0.5, 0.5)), site=ATTACK)
    attacked = report(
        title=ATTACK,
        task=ATTACK,
        classes=(ATTACK, "b"),
        notes=(ATTACK,),
        encoder={ATTACK: {ATTACK: ATTACK}},
        predictions=(attack,),
        sites=(SiteResult(ATTACK, 1, 1, {}, {}),),
        site_note=ATTACK,
        panels=(SlidePanel(slide_id='"><script>', overview=PNG, heatmap=PNG, prediction=attack, caption=ATTACK),),
    )
    for data in (attacked, replace(attacked, unit="patient"), survival(title=ATTACK, sites=attacked.sites)):
        page = render_report(data)
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert _Tags(page).open == []
        assert "<script" not in model_card(data)


def test_the_same_data_gives_the_same_page():
    assert render_report(report()) == render_report(report())


def test_a_page_of_predictions_alone_has_no_results():
    page = render_report(report(models=(), folds=(), figures=(), panels=(), predictions=report().predictions[2:]))
    assert 'id="results"' not in page
    assert 'href="#results"' not in page
    assert "AUROC" not in page
    assert 'id="predictions"' in page


def test_the_smallest_report_is_a_page():
    cohort = CohortSummary(name="c", num_slides=0, num_patients=0, num_ok=0, num_empty=0, num_failed=0)
    data = ReportData(title="t", task="x", cohort=cohort)
    assert _Tags(render_report(data)).open == []
    assert "Not evaluated." in model_card(data)


def test_predictions_are_sorted_by_error_and_cut_with_a_word_about_it():
    data = report()
    rows = sort_by_error(data.predictions, data.classes)
    assert [row.prediction.bag_id for row in rows] == ["wrong", "good", "open"]
    assert [row.error for row in rows] == [pytest.approx(0.8), pytest.approx(0.1), None]
    many = tuple(data.predictions[0]._replace(bag_id=f"s{index}") for index in range(502))
    assert "; 2 more are in the exported table" in render_report(report(predictions=many))


def test_multiclass_predictions_show_every_class():
    page = render_report(
        report(
            classes=("a", "b", "c"),
            predictions=(Prediction("s", "p", ClassOutput("a", "b", (0.2, 0.5, 0.3))),),
            panels=(),
        )
    )
    assert re.findall(r"P\((\w)\)", page) == ["a", "b", "c"]


def test_a_page_of_survival_speaks_of_risks_and_never_of_classes():
    page = render_report(survival())
    assert _Tags(page).open == []
    shown = text_of(page)
    for text in (
        "Harrell's C ↑ 0.700 0.600 – 0.800",
        "no training patients",
        "Risk groups",
        "Median risk",
        "Events 1 of 2",
    ):
        assert text in shown
    for text in ("2021 3 2 4.57 0.033", "2022 5 0 – – there is 1 group", "– no validation prediction"):
        assert text in shown
    assert "p1 3 north 0 12.5 event −1.250 ± 0.100 1.000" in shown
    assert "p2 1 south 0 20 censored −0.500 ± 0.200 1.000" in shown
    assert "p3 1 – – – – −2.000 ± 0.300 –" in shown
    assert "s1 · patient p1 · risk −1.250 · event at 12.5 · 9 tiles, 63 % of the patient's attention" in shown
    assert "means over 2 seeds" in shown
    for text in ("AUROC", "P(", "Label", "Positive class", "Probabilities", "Threshold"):
        assert text not in shown
    assert "Predictions are patient-level risks" in model_card(survival())
    assert "| **mhim** | 2021 | 3 | 2 | 4.57 | 0.033 |" in model_card(survival())


def test_a_page_of_a_regression_shows_true_and_predicted_numbers_of_any_size():
    page = render_report(regression())
    assert _Tags(page).open == []
    shown = text_of(page)
    for text in ("MAE ↓ 1235 1000 – 2001", "R² ↑ −0.250", "s1 p1 1200 1235 +34.56", "s2 p2 – 0.0001234 –"):
        assert text in shown
    assert "s1 · predicted 1235 · true 1200" in shown
    for text in ("AUROC", "P(", "Positive class", "Probabilities", "Risk"):
        assert text not in shown
    assert "| **mhim** | 1235 \\[1000, 2001] | −0.250" in model_card(regression())


def test_several_seeds_are_named_in_every_table_and_one_seed_in_none():
    shown = text_of(render_report(survival()))
    assert "Per seed and fold: mhim Seed Fold" in shown
    assert "2022 0 3 1 1 5 0.700" in shown
    assert "Seed" not in text_of(render_report(report()))


def test_sites_have_a_line_each_with_what_is_undefined_and_why():
    north = SiteResult("north", 5, 4, {"auroc": Estimate(0.8, 0.7, 0.9)}, {"sensitivity": Estimate(0.6, None, None)})
    south = SiteResult("south", 2, 1, {"auroc": Estimate(None, None, None, 0, "all 2 are of class 1")}, {})
    models = (replace(report().models[0], decisions={"sensitivity": Estimate(0.5, 0.4, 0.6)}),)
    data = report(sites=(north, south), site_note="Seen sites.", models=models)
    shown = text_of(render_report(data))
    assert "north 5 4 0.800 0.700 – 0.900" in shown
    assert "south 2 1 – all 2 are of class 1" in shown
    assert "Seen sites." in shown
    assert "Sensitivity ↑ north 5 4 0.600" in shown
    card = model_card(data)
    assert "| north | 5 | 4 | 0.800 \\[0.700, 0.900]" in card
    assert "Sites" not in text_of(render_report(report()))


def test_calibration_stands_before_and_after_and_decisions_at_their_thresholds():
    after = {"brier": Estimate(0.111, 0.1, 0.2), "expected_calibration_error": Estimate(None, None, None, 0, "no fit")}
    model = replace(
        report().models[0],
        calibration=CalibrationResult(report().models[0].estimates, after),
        decisions={"specificity": Estimate(0.25, 0.1, 0.4), "sensitivity": Estimate(0.875, 0.8, 0.9)},
    )
    folds = (report().folds[0]._replace(chosen={"Temperature": Metric(1.5), "Threshold": Metric(None, "one class")}),)
    data = report(models=(model,), folds=folds)
    shown = text_of(render_report(data))
    assert "MHIM 0.750 0.500 – 0.900 0.111 0.100 – 0.200 0.750 0.500 – 0.900 – no fit" in shown
    assert "Sensitivity ↑ 0.875 0.800 – 0.900 Specificity ↑ 0.250" in shown
    assert "0 1 1.500 – one class" in shown
    card = model_card(data)
    assert "| **MHIM** | after temperature | 0.111 \\[0.100, 0.200] | – |" in card
    assert "| Model | Sensitivity | Specificity |" in card


def test_calibrated_probabilities_and_decisions_stand_beside_the_prediction_where_there_are_any():
    prediction = Prediction("s1", "p1", ClassOutput("tumour", "normal", (0.6, 0.4), (0.1, 0.1), (0.7, 0.3), "tumour"))
    shown = text_of(render_report(report(predictions=(prediction,), averaged="3 models")))
    assert "Label Predicted Decided P(tumour) Calibrated Error" in shown
    assert "s1 p1 tumour normal ✗ tumour ✓ 0.400 ± 0.100 0.300 0.600" in shown
    plain = text_of(render_report(report()))
    assert "Decided" not in plain
    assert "Calibrated" not in plain
    several = prediction._replace(output=ClassOutput("a", "a", (0.5, 0.3, 0.2), (), (0.4, 0.35, 0.25), "a"))
    shown = text_of(render_report(report(classes=("a", "b", "c"), predictions=(several,), panels=())))
    assert "a a ✓ 0.500 calibrated 0.400 0.300 calibrated 0.350 0.200 calibrated 0.250" in shown
    assert "Decided" not in shown


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ValueError, match="neither PNG, JPEG nor WebP"):
        render_report(report(figures=(ReportFigure("x", b"<svg>"),)))


def test_the_model_card_holds_results_data_and_limits():
    card = model_card(report(), licence="Apache-2.0", model_sha256="ab" * 32)
    assert card.startswith("# Tumour detection\n\n> Research use only")
    assert "| **MHIM** | 0.750 \\[0.500, 0.900]" in card
    for text in ("positive class is **tumour**", "5 slides of 4 patients", "Small cohort.", "ab" * 32, "Five folds."):
        assert text in card
    assert model_card(report(title="a|b\n# c")).startswith("# a\\|b \\# c\n")


def test_importing_the_light_modules_loads_nothing_heavy():
    names = ["cohort.task_options", "cohort.check", "cohort.splits", "metrics", "tables"]
    names += [f"report.{name}" for name in ("model_card", "figures", "heatmap", "page", "predictions", "run_figures")]
    heavy = ["sklearn", "scipy", "matplotlib", "jinja2", "pyarrow", "PIL", "torch", "ray", "hydra", "omegaconf"]
    code = f"import sys, {', '.join(f'mhim_core.{name}' for name in names)}; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
