"""The page of a judgement: both sets of figures, every check, the reason; one file, the same bytes, nothing run."""

from typing import Any

import pytest

from mhim_core.report.assessment import Assessment, render_assessment
from mhim_core.report.step_figure import StepBar


def estimate(value: float | None, reason: str = "") -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"value": value, "low": low, "high": high, "num_undefined": 0, "reason": reason}


def check(name: str, passed: bool | None, reason: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "found": None, "limit": None, "reason": reason}


FIGURES = {
    "metric": "auroc",
    "champion": {"auroc": estimate(0.8), "brier": estimate(None, "no patient of one class")},
    "challenger": {"auroc": estimate(0.9), "brier": estimate(0.2)},
    "gain": estimate(0.1),
}
RECORD: dict[str, Any] = {
    "champion": {"number": 3, "version": "aaaa1111bbbb2222"},
    "challenger": "cccc3333dddd4444",
    "reading": 7,
    "holdout": {"slides": 12, "patients": 10, "sha": "0"},
    "training": {"slides": 90, "patients": 80},
    "changes": ["data", "epochs (20 → 40)"],
    "new": "5 new slides",
    "reason": "non_inferior: too low",
    "decision": {
        "promote": False,
        "figures": FIGURES,
        "checks": [
            check("same_encoder", True, "the same"),
            check("non_inferior/site <b>", False, "AUROC better by -0.3"),
            check("brier", None, "no classes"),
        ],
    },
}


def page(outcome: str = "kept", **changes: Any) -> str:
    return render_assessment(
        Assessment(
            name="lung",
            flow="retrain",
            outcome=outcome,
            sentence="aaaa1111 stays champion",
            record=RECORD | changes,
            steps=(StepBar("embed", "done", 3.0), StepBar("assess", "started", None)),
            places={"store": "s3://bucket/store"},
        )
    )


def test_the_page_has_both_figures_every_check_and_the_outcome() -> None:
    text = page()
    for words in ("Not promoted", "aaaa1111", "cccc3333", "number 3", "reading number 7", "5 new slides", "90"):
        assert words in text
    for words in ("0.900 [0.800, 1.000]", "0.800 [0.700, 0.900]", "no patient of one class", "+0.1"):
        assert words in text
    assert text.count('class="good">passed') == 1
    assert text.count('class="bad">failed') == 1
    assert text.count('class="soft">not made') == 1
    assert "epochs (20 → 40)" in text
    assert "s3://bucket/store" in text


def test_the_page_is_one_file_without_scripts_and_the_same_each_time() -> None:
    text = page()
    assert text == page()
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "site &lt;b&gt;" in text


def test_a_first_model_has_no_champion_beside_it() -> None:
    figures = {"metric": "auroc", "challenger": {"auroc": estimate(0.9)}}
    decision = {"promote": True, "figures": figures, "checks": [check("floor", True, "AUROC 0.9")]}
    text = page("promoted", champion={"number": 0, "version": ""}, decision=decision, changes=[])
    assert "the first model of its name" in text
    assert "Champion " not in text
    assert "Absolute floor" in text


@pytest.mark.parametrize("outcome", ["promoted", "kept"])
def test_predictions_that_cannot_be_compared_leave_the_checks(outcome: str) -> None:
    decision = {"promote": False, "figures": {}, "checks": [check("finite", False, "2 of the challenger's are NaN")]}
    text = page(outcome, decision=decision)
    assert "2 of the challenger&#39;s are NaN" in text
    assert 'id="figures"' not in text
