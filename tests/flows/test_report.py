"""The run's page and the prediction's page of every task, of runs that were fitted in this process, not by Ray."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.keys import PageKeys
from flows.prediction.page import as_prediction, draw_panels, prediction_page
from flows.prediction.predictor import predictor_of_run
from flows.runs.folder import Run, read_run
from mhim_core.cohort.table import Cohort
from mhim_core.outcome import Outcome
from mhim_core.registry.external import External
from mhim_core.store.bags import ParquetBags, PatientBags
from mhim_core.train.context import SingleProcess
from mhim_core.train.loop import run_fits
from mhim_core.types import SlideId, Status, StatusRow

TRAINING = ("method=plain", "folds=2", "epochs=2", "embed_dim=8")


@pytest.fixture
def trained(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Run]:
    """trained(rows, "seeds=2", …): a run of these slides, evaluated, with its page."""

    def fit_all(run: Run, plan: Any, _: object) -> Any:
        return run_fits(plan, run.bag_source(), run.storage, SingleProcess())

    def run(rows: list[dict[str, object]], *words: str) -> Run:
        monkeypatch.setattr("flows.train.fit_all", fit_all)
        store = made_store([str(row["slide_id"]) for row in rows])
        out = tmp_path / "run"
        for command in (
            ("train", f"cohort={write_table(rows)}", store, f"out={out}", *TRAINING, *words),
            ("evaluate", f"run={out}", "bootstrap_replicates=20"),
            ("report", f"run={out}", "max_heatmaps=3"),
        ):
            ended = mhim(*command)
            assert ended.code == 0, ended
        return read_run(str(out))

    return run


def slides(num: int, **columns: Callable[[int], object]) -> list[dict[str, object]]:
    """Two slides a patient."""
    return [
        {"slide_id": f"s{index:02}", "path": f"s{index:02}.svs", "patient_id": f"p{index // 2:02}"}
        | {name: of_patient(index // 2) for name, of_patient in columns.items()}
        for index in range(num)
    ]


def shown(page: bytes | str) -> str:
    """What a reader sees, in one line."""
    text = page.decode() if isinstance(page, bytes) else page
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text[text.index("<body>") :])).split())


def test_a_classification_page_of_one_seed_tells_no_seeds(trained: Callable[..., Run]) -> None:
    run = trained(slides(16, label=lambda patient: ("normal", "tumour")[patient % 2]))
    page = shown(run.storage.get("report.html"))
    assert "Telling normal, tumour apart from whole slides, by plain ABMIL on features of toy." in page
    for text in (
        "AUROC",
        "Per fold: plain",
        "Temperature",
        "Threshold",
        "Sensitivity",
        "P(tumour)",
        "Validation AUROC",
    ):
        assert text in page or text == "Validation AUROC"  # the last is inside a picture
    for text in ("Seed", "seeds, ", "Sites", "Risk groups"):
        assert text not in page
    assert run.record["manifest"]["sha256"] in page
    card = run.storage.get("MODEL_CARD.md").decode()
    for text in (
        "## Intended use",
        "Out of scope",
        "### Calibration",
        "### Decisions at thresholds",
        "manifest sha256",
    ):
        assert text in card
    assert run.record["manifest"]["sha256"] in card


def test_a_survival_page_of_patients_seeds_and_sites(trained: Callable[..., Run], mhim: Callable[..., Any]) -> None:
    rows = slides(
        24,
        time=lambda patient: 3 + patient * 7 % 12,
        event=lambda patient: int(patient % 4 > 0),
        site=lambda patient: ("north", "<b>south")[patient % 2],
    )
    run = trained(rows, "bags=patient", "seeds=2", "time_bins=2")
    page = shown(run.storage.get("report.html"))
    assert "in 2 time bins, from all whole slides of a patient" in page
    assert "trained 2 times, with seeds 2021 to 2022: a pooled value is the mean over seeds" in page
    for text in (
        "Per seed and fold: plain",
        "Harrell's C",
        "Median risk",
        "log-rank p",
        "means over 2 seeds",
        "Events",
    ):
        assert text in page
    assert re.search(r"p\d\d 2 (north|<b>south) [01] ", page), "a patient's line has its two slides, site and fold"
    assert "Models were trained on other patients of the same sites" in page
    # the first patient's two slides and one of the next: their shares of a patient's attention make a whole
    shares = [int(share) for share in re.findall(r"(\d+) % of the patient's attention", page)]
    assert len(shares) == 3
    assert sum(shares[:2]) in (99, 100, 101)
    assert len(set(re.findall(r"s\d\d · patient (p\d\d)", page))) == 2
    assert "the attention is that of seed 2021" in page
    for text in ("AUROC", "P(", "Positive class", "Temperature"):
        assert text not in page
    before = run.storage.get("report.html")
    run.storage.delete("report.html")
    assert mhim("report", f"run={run.storage.uri}", "max_heatmaps=3").code == 0
    assert run.storage.get("report.html") == before


def test_a_regression_page_shows_errors_and_no_classes(trained: Callable[..., Run]) -> None:
    run = trained(slides(16, label=lambda patient: 100.5 * patient), "task=regression")
    page = shown(run.storage.get("report.html"))
    assert "Predicting a number from whole slides" in page
    for text in ("MAE ↓", "R² ↑", "Predicted and true", "Values 0 to 703.5", "chosen by loss on validation"):
        assert text in page
    assert re.search(r"s15 p07 [01] 703\.5 \S+ [+−]", page)
    for text in ("AUROC", "P(", "Temperature", "Risk groups"):
        assert text not in page


def test_predictions_of_patients_have_a_page_with_a_panel_a_slide(
    trained: Callable[..., Run], write_table: Callable[..., Path]
) -> None:
    rows = slides(16, time=lambda patient: 3 + patient * 5 % 8, event=lambda patient: int(patient % 4 > 0))
    run = trained(rows, "bags=patient", "seeds=2", "time_bins=2")
    cohort = Cohort(name="new.csv", rows=run.slides, header={})
    source = PatientBags(
        ParquetBags(run.feature_store, run.manifest.bags()), {bag.bag_id: bag.slide_ids for bag in run.bags}
    )
    rows_predicted = [
        {"patient_id": bag.patient_id, "site": None, "time": None, "event": None, "risk": -1.0 - index / 8}
        | {"risk_spread": 0.25, "num_slides": len(bag.slide_ids), "num_tiles": 6, "num_models": 4}
        for index, bag in enumerate(run.bags)
    ]
    for slide in run.slides:
        key = f"attention/{slide.slide_id}.parquet"
        run.storage.put(key, run.storage.get(f"evaluation/{key}"))
    predictor = predictor_of_run(run)
    assert as_prediction(predictor, rows_predicted[0]).num_slides == 2

    class Loaded:
        pass

    loaded: Any = Loaded()
    loaded.cohort = cohort
    panels = draw_panels(predictor, rows_predicted, source, loaded, run.storage, PageKeys(max_heatmaps=3, top_tiles=2))
    assert [panel.slide_id for panel in panels] == ["s00", "s01", "s02"], "the highest risk first"
    outcome = Outcome(rows=tuple(StatusRow(SlideId(slide.slide_id), Status.OK) for slide in run.slides))
    page = shown(prediction_page(predictor, rows_predicted, panels, loaded, outcome, External(None, [])))
    assert "by the mean of 4 models (2 folds, 2 seeds)" in page
    assert "p00 2 – – −1.000 ± 0.250 –" in page
    assert "s01 · patient p00 · risk −1.000" in page
    assert "Results" not in page
