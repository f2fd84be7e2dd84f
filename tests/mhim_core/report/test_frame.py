"""What every page has in common: a strict policy, no script, nothing from elsewhere, pictures with words and sizes."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from mhim_core.evaluation.comparison import Difference
from mhim_core.metrics import Estimate
from mhim_core.report.assessment import Assessment, render_assessment
from mhim_core.report.comparison_page import ComparisonPage, render_comparison
from mhim_core.report.data import ClassOutput, CohortSummary, ModelResult, Prediction, ReportData, SlidePanel
from mhim_core.report.foci_page import FociPage, FociPanel, render_foci
from mhim_core.report.frame import RESEARCH_USE
from mhim_core.report.images import encode_png
from mhim_core.report.page import render_report
from mhim_core.report.pictures import PicturesBeside
from mhim_core.report.step_figure import StepBar
from mhim_core.task import TaskKind

PNG = encode_png(np.zeros((4, 6, 3), dtype=np.uint8))
ATTACK = '"><img src=x onerror=alert(1)><script>'


def run_page(pictures: PicturesBeside | None = None) -> str:
    prediction = Prediction(ATTACK, ATTACK, ClassOutput("b", "b", (0.2, 0.8)), 0)
    return render_report(
        ReportData(
            title=ATTACK,
            task=ATTACK,
            classes=("a", "b"),
            cohort=CohortSummary(name=ATTACK, num_slides=2, num_patients=2, num_ok=2, num_empty=0, num_failed=0),
            models=(ModelResult(name=ATTACK, estimates={"auroc": Estimate(0.8, 0.6, 0.9)}, is_reported=True),),
            predictions=(prediction,),
            panels=tuple(
                SlidePanel(slide_id=name, overview=PNG, heatmap=PNG, top_tiles=PNG, prediction=prediction)
                for name in ("s1", ATTACK)
            ),
        ),
        pictures,
    )


def comparison() -> str:
    low = Difference("auroc", ATTACK, "b", 0.9, 0.7, 0.2, 0.1, 0.3, 0.01, "DeLong", 0, "")
    none = Difference("brier", ATTACK, "b", None, None, None, None, None, None, "", 0, "one class")
    models = [{"name": name, "run": "f00", "model": "mhim", "seeds": [1]} for name in (ATTACK, "b")]
    return render_comparison(
        ComparisonPage(
            kind=TaskKind.classification,
            classes=("a", ATTACK),
            unit="slide",
            num_bags=9,
            num_patients=8,
            replicates=100,
            models=models,
            differences=[low, none],
            figure=PNG,
        )
    )


def assessment() -> str:
    auroc = {"value": 0.9, "low": 0.8, "high": 1.0, "num_undefined": 0, "reason": ""}
    record = {
        "champion": {"number": 1, "version": "aaaa1111"},
        "challenger": "bbbb2222",
        "reading": 2,
        "holdout": {"slides": 3, "patients": 3},
        "training": {"slides": 9, "patients": 8},
        "changes": [ATTACK],
        "new": "one",
        "decision": {
            "checks": [{"name": "floor", "passed": True, "reason": ATTACK}],
            "figures": {"metric": "auroc", "champion": {"auroc": auroc}, "challenger": {"auroc": auroc}, "gain": auroc},
        },
    }
    return render_assessment(
        Assessment(
            name=ATTACK,
            flow="retrain",
            outcome="promoted",
            sentence=ATTACK,
            record=record,
            steps=(StepBar("embed", "done", 1.0),),
            places={"store": ATTACK},
        )
    )


def foci() -> str:
    figures = {"auroc": {"all": 0.5, "quiet": 0.5, "loud": 1.0}, "dice": {"quiet": 0.1, "loud": None}}
    figures["top_ten"] = figures["dice"]
    summary = {
        "num": {"none": 1, "quiet": 1, "loud": 1},
        "possible": {"quiet": 0.6, "loud": None},
        "models": {"plain": figures},
    }
    return render_foci(
        FociPage(summary, {"plain": "plain"}, 3, [FociPanel(ATTACK, "quiet", 5, {"plain": ATTACK}, PNG)])
    )


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.fault(49)
@pytest.mark.parametrize("make", [run_page, comparison, assessment, foci])
def test_a_page_needs_nothing_from_elsewhere_and_its_policy_allows_no_more_than_it_has(make: Callable[[], str]) -> None:
    text = make()
    page = _Page(text)
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "base"}
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert {attributes["href"][:1] for attributes in page.of("a") if attributes["href"]} == {"#"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(attributes["href"])[1:] for attributes in page.of("a")} <= set(ids)
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style
    assert text.count(RESEARCH_USE) == 2
    assert text == make()


@pytest.mark.parametrize("make", [run_page, comparison, assessment, foci])
def test_every_picture_has_words_a_size_and_waits_until_it_is_looked_at(make: Callable[[], str]) -> None:
    pictures = _Page(make()).of("img")
    assert pictures
    for picture in pictures:
        assert picture["alt"]
        assert int(picture["width"] or 0) > 0
        assert int(picture["height"] or 0) > 0
    eager = [picture for picture in pictures if picture.get("loading") != "lazy"]
    assert len(eager) <= 2, "those of the first screen"


def test_pictures_beside_the_page_are_files_that_its_policy_allows() -> None:
    pictures = PicturesBeside("report")
    text = run_page(pictures)
    sources = {str(picture["src"]) for picture in _Page(text).of("img")}
    assert sources == set(pictures.files)
    assert all(re.fullmatch(r"report/[a-z]+/[A-Za-z0-9._-]+\.png", source) for source in sources)
    assert "img-src 'self' file: data:;" in text
    assert "base64," not in text
