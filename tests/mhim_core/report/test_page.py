"""The page: self-contained, escaped, reproducible, complete, and honest about what is missing."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mhim_core.metrics import METRICS, Estimate, MeanStd, Metric
from mhim_core.report.card import model_card
from mhim_core.report.data import (
    CohortSummary,
    FailedSlide,
    FoldResult,
    ModelResult,
    Prediction,
    ReportData,
    ReportFigure,
    SlidePanel,
    UpsampledSlide,
)
from mhim_core.report.images import encode_png
from mhim_core.report.page import RESEARCH_USE, render_report, sort_by_error

PNG = encode_png(np.zeros((4, 4, 3), dtype=np.uint8))
ATTACK = "<script>alert(1)</script>"


def report(**changes) -> ReportData:
    estimates = {name: Estimate(0.75, 0.5, 0.9) for name in METRICS}
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
        folds=(FoldResult(0, 3, 1, 1, {"auroc": Metric(None, "one class only")}, 11),),
        figures=(ReportFigure("ROC", PNG, "caption"),),
        predictions=(
            Prediction("good", "p1", "tumour", "tumour", (0.1, 0.9), 0),
            Prediction("wrong", "p2", "normal", "tumour", (0.2, 0.8), 0),
            Prediction("open", "p3", None, "normal", (0.6, 0.4)),
        ),
        panels=(SlidePanel(slide_id="good", overview=PNG, heatmap=PNG, top_tiles=PNG, label="tumour"),),
        encoder={"id": "hed-texture", "transform": {"mean": [0.5, 0.5]}, "licence": None},
        provenance={"mhim": "0.1.0"},
        notes=("Small cohort.",),
    )
    return replace(data, **changes)


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


def test_untrusted_text_is_escaped_wherever_it_stands():
    attacked = report(
        title=ATTACK,
        task=ATTACK,
        classes=(ATTACK, "b"),
        notes=(ATTACK,),
        encoder={ATTACK: {ATTACK: ATTACK}},
        predictions=(Prediction(ATTACK, ATTACK, ATTACK, ATTACK, (0.5, 0.5)),),
        panels=(SlidePanel(slide_id='"><script>', overview=PNG, heatmap=PNG, label=ATTACK, predicted=ATTACK),),
    )
    page = render_report(attacked)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert _Tags(page).open == []
    assert "<script" not in model_card(attacked)


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
    assert [row.prediction.slide_id for row in rows] == ["wrong", "good", "open"]
    assert [row.error for row in rows] == [pytest.approx(0.8), pytest.approx(0.1), None]
    many = tuple(data.predictions[0]._replace(slide_id=f"s{index}") for index in range(502))
    assert "2 more are in the exported table" in render_report(report(predictions=many))


def test_multiclass_predictions_show_every_class():
    page = render_report(
        report(classes=("a", "b", "c"), predictions=(Prediction("s", "p", "a", "b", (0.2, 0.5, 0.3)),))
    )
    assert re.findall(r"P\((\w)\)", page) == ["a", "b", "c"]


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        render_report(report(figures=(ReportFigure("x", b"<svg>"),)))


def test_the_model_card_holds_results_data_and_limits():
    card = model_card(report(), licence="Apache-2.0", model_sha256="ab" * 32)
    assert card.startswith("# Tumour detection\n\n> Research use only")
    assert "| **MHIM** | 0.750 \\[0.500, 0.900]" in card
    for text in ("positive class is **tumour**", "5 slides of 4 patients", "Small cohort.", "ab" * 32, "Five folds."):
        assert text in card
    assert model_card(report(title="a|b\n# c")).startswith("# a\\|b \\# c\n")


def test_importing_the_light_modules_loads_nothing_heavy():
    names = ["cohort.options", "cohort.check", "cohort.splits", "metrics", "tables"]
    names += ["report.card", "report.figures", "report.heatmap", "report.page"]
    heavy = ["sklearn", "scipy", "matplotlib", "jinja2", "pyarrow", "PIL", "torch", "ray", "hydra", "omegaconf"]
    code = f"import sys, {', '.join(f'mhim_core.{name}' for name in names)}; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
