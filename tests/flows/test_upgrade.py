"""What version 0.1 wrote: every later version opens it, goes on from it and gives its predictions again.

`tests/fixtures/0.1` is a store, a run, a registry of two champions and predictions, as 0.1 left them: see its README.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.registry.promotions import history
from mhim_core.storage import LocalStorage
from mhim_core.tables import read_parquet

FIXTURE = Path(__file__).parents[1] / "fixtures/0.1"
MADE_AT = "/tmp/mhim-0.1"
"""Where 0.1 made it: its run.json says so of the store."""
TINY = ("encoder=hed-texture", "epochs=3", "embed_dim=4", "gated=true", "folds=2", "learning_rate=0.003")
TRAIN = ("train", "cohort=cohort.csv", "store=store", *TINY)
NAME = ("registry=registry", "name=paint")
PIPELINE = ("pipeline", *TRAIN[1:3], "out=runs", *NAME, *TINY, "gate_floor=0", "max_heatmaps=0")
RETRAIN = ("retrain", "store=store", *NAME, "gate_delta=1", "gate_brier_epsilon=1", "max_heatmaps=0")

Mhim = Callable[..., Any]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may write to; it is the working directory."""
    folder = tmp_path / "old"
    shutil.copytree(FIXTURE, folder)
    for record in folder.rglob("run.json"):
        record.write_text(record.read_text().replace(MADE_AT, str(folder)))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def nothing_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding anything fails the test; that nothing is trained, the guard against Ray sees to."""

    def embed_pending(*_: object) -> None:
        raise AssertionError("a slide was to be embedded")

    monkeypatch.setattr("flows.embed.embed_pending", embed_pending)


@pytest.mark.fault(47)
def test_upgrade_embed_skips_every_slide(mhim: Mhim, old: Path, nothing_embedded: None) -> None:
    features, reports = contents(old / "store/features"), {*old.glob("store/reports/*")}
    ended = mhim("embed", "cohort=grown.csv", "store=store", "encoder=hed-texture")
    assert ended.code == 0, ended
    (report,) = {*old.glob("store/reports/*")} - reports
    counts = json.loads((report / "summary.json").read_text())["counts"]
    assert {name: number for name, number in counts.items() if number} == {"skipped": 24}
    assert contents(old / "store/features") == features


@pytest.mark.fault(47)
def test_upgrade_train_with_the_same_words_is_done(mhim: Mhim, old: Path) -> None:
    before = contents(old / "run")
    ended = mhim(*TRAIN, "out=run")
    assert ended.code == 0, ended
    assert "all 4 fits are finished" in ended.out
    assert contents(old / "run") == before


def test_upgrade_pipeline_with_the_same_words_is_done(mhim: Mhim, old: Path, nothing_embedded: None) -> None:
    before = contents(old)
    ended = mhim(*PIPELINE)
    assert ended.code == 0, ended
    assert contents(old) == before


def test_upgrade_train_takes_the_run_s_first_stage_for_a_student_of_its_own(
    mhim: Mhim, old: Path, train_here: None
) -> None:
    (newest,) = old.glob("store/manifests/*/00000003.parquet")
    newest.unlink()  # new slides were embedded since; a teacher and its student see the same manifest
    ended = mhim(*TRAIN, "teacher=run", "out=student", "consistency_weight=0.2")
    assert ended.code == 0, ended
    assert len([*old.glob("student/fits/**/mhim/result.json")]) == 2
    stage_one = {path.relative_to(old / "run"): path for path in old.glob("run/fits/**/plain/result.json")}
    assert len(stage_one) == 2
    for place, path in stage_one.items():
        assert (old / "student" / place).read_bytes() == path.read_bytes(), "taken over, not trained again"


def test_upgrade_evaluate_finds_the_same_figures_and_report_shows_them(mhim: Mhim, old: Path) -> None:
    stored = old / "evaluation"
    (old / "run/evaluation").rename(stored)
    ended = mhim("evaluate", "run=run")
    assert ended.code == 0, ended
    check_predictions(old / "run/evaluation/predictions.csv", stored / "predictions.csv", num_rows=60)
    check_attention(old / "run/evaluation/attention", stored / "attention", num_slides=20)
    actual, expected = (json.loads((place / "metrics.json").read_text()) for place in (old / "run/evaluation", stored))
    for name, model in expected["models"].items():
        check_figures(actual["models"][name], model, name)

    reported = mhim("report", "run=run", "max_heatmaps=1")
    assert reported.code == 0, reported
    page = (old / "run/report.html").read_text()
    assert "cohort.csv" in page
    pictures = re.findall(r'src="(report/[^"]+)"', page)
    assert {picture.split("/")[1] for picture in pictures} >= {"attention", "figures"}
    assert all((old / "run" / picture).is_file() for picture in pictures)


@pytest.mark.parametrize(
    ("words", "stored"), [(("run=run",), "by-run"), (("model=paint@champion", NAME[0]), "by-model")]
)
@pytest.mark.fault(47)
def test_upgrade_predict_gives_the_stored_predictions(
    mhim: Mhim, old: Path, nothing_embedded: None, words: tuple[str, ...], stored: str
) -> None:
    ended = mhim("predict", *words, "cohort=new.csv", "store=store", "out=again", "max_heatmaps=0")
    assert ended.code == 0, ended
    check_predictions(old / "again/predictions.csv", old / stored / "predictions.csv", num_rows=3)
    check_attention(old / "again/attention", old / stored / "attention", num_slides=3)


def test_upgrade_predict_with_a_champion_of_long_ago(mhim: Mhim, old: Path) -> None:
    first, second = champions(old)
    shown = mhim("model", "show", f"paint@{first}", NAME[0])
    assert shown.code == 0, shown
    words = ("cohort=new.csv", "store=store", "max_heatmaps=0", NAME[0])
    for version in (first, second):
        assert mhim("predict", f"model=paint@{version}", f"out={version}", *words).code == 0
    check_predictions(old / second / "predictions.csv", old / "by-model/predictions.csv", num_rows=3)
    assert read_rows(old / first / "predictions.csv") != read_rows(old / second / "predictions.csv")


def test_upgrade_retrain_finds_nothing_new_in_the_cohort_that_made_the_champion(
    mhim: Mhim, old: Path, nothing_embedded: None
) -> None:
    ended = mhim(*RETRAIN, "cohort=grown.csv")
    assert ended.code == 0, ended
    assert "nothing new" in ended.out
    assert len(champions(old)) == 2


@pytest.mark.fault(47)
def test_upgrade_retrain_judges_a_challenger_against_the_champion(
    mhim: Mhim, old: Path, embed_here: None, train_here: None
) -> None:
    before = {*old.glob("registry/flows/retrain/paint/*/assessment-*.json")}
    ended = mhim(*RETRAIN, "cohort=later.csv")
    assert ended.code == 0, ended
    first, second, third = champions(old)
    (path,) = {*old.glob("registry/flows/retrain/paint/*/assessment-*.json")} - before
    assessment = json.loads(path.read_text())
    assert assessment["champion"] == {"number": 2, "version": second}
    assert assessment["challenger"] == third
    assert {*assessment["changes"]} <= {"data", "thresholds"}, "an upgrade is no change of the training"
    checks = {check["name"]: check["passed"] for check in assessment["decision"]["checks"]}
    assert len(checks) >= 13
    assert all(checks.values()), checks
    rolled_back = mhim("model", "rollback", "paint", f"to={first}", NAME[0])
    assert rolled_back.code == 0, rolled_back
    assert champions(old)[-1] == first


def test_upgrade_the_atlas_s_features_are_chosen_and_trained_on(
    mhim: Mhim, shared_data: Path, tmp_path: Path, train_here: None
) -> None:
    atlas = shared_data / "bags/atlas"
    words = ("train", f"cohort={atlas}/cohort.csv", f"store={atlas}/store", f"out={tmp_path}/run")
    ended = mhim(*words, "epochs=1", "embed_dim=8", "folds=1", "method=plain")
    assert ended.code == 0, ended
    record = json.loads((tmp_path / "run/run.json").read_text())
    (feature_set,) = (path.stem for path in atlas.glob("store/feature_sets/*.json"))
    assert record["identity"]["feature_set"] == feature_set
    assert len([*tmp_path.glob("run/fits/**/plain/result.json")]) == 1
    again = mhim(*words, "epochs=1", "embed_dim=8", "folds=1", "method=plain")
    assert again.code == 0, again


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def champions(old: Path) -> list[str]:
    return [promotion.version for promotion in history(LocalStorage(old / "registry"), "paint")]


def read_rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def check_predictions(table: Path, stored: Path, num_rows: int) -> None:
    """Every column of the stored table but the time is there and says the same, numbers to 1e-6."""
    rows, expected = read_rows(table), read_rows(stored)
    assert len(rows) == len(expected) == num_rows
    for row, old_row in zip(rows, expected, strict=True):
        check_figures({**row}, {key: value for key, value in old_row.items() if key != "predicted_at"}, stored.name)


def check_attention(folder: Path, stored: Path, num_slides: int) -> None:
    paths = sorted(stored.glob("*.parquet"))
    assert len(paths) == num_slides
    for path in paths:
        table, expected = (read_parquet((place / path.name).read_bytes()) for place in (folder, stored))
        for name in expected.column_names:
            np.testing.assert_allclose(table[name].to_numpy(), expected[name].to_numpy(), rtol=0, atol=1e-6)


def check_figures(actual: object, expected: object, where: str) -> None:
    """The same keys (more may be found), texts and numbers, to 1e-6."""
    if isinstance(expected, Mapping):
        assert isinstance(actual, Mapping), where
        assert expected.keys() <= actual.keys(), where
        for key, value in expected.items():
            check_figures(actual[key], value, f"{where}: {key}")
    elif isinstance(expected, list):
        assert isinstance(actual, list), where
        assert len(actual) == len(expected), where
        for index, value in enumerate(expected):
            check_figures(actual[index], value, f"{where}: {index}")
    elif isinstance(expected, str) and not is_number(expected):
        assert actual == expected, where
    elif expected is None or isinstance(expected, bool):
        assert actual is expected, where
    else:
        assert float(str(actual)) == pytest.approx(float(str(expected)), abs=1e-6, rel=0), where


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
