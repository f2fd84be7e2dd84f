"""mhim evaluate: what is kept, what is computed anew, and folds that are no partition. The numbers are the core's."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import evaluate
from flows.config.commands import EvaluateConfig
from flows.runs.evaluation import read_metrics
from mhim_core.evaluation.summary import SCHEMA
from mhim_core.storage import LocalStorage

Rows = list[dict[str, str]]
QUICK = ("method=plain", "epochs=2", "embed_dim=8")


@pytest.fixture
def trained(
    tmp_path: Path,
    mhim: Any,
    cohort_rows: Callable[..., Rows],
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    train_here: None,
) -> Callable[..., Path]:
    """trained("folds=3", out="run") → the folder of a plain run of twelve slides of two classes."""

    def train(*words: str, out: str = "run") -> Path:
        rows = cohort_rows(neg=6, pos=6)
        store = made_store([row["slide_id"] for row in rows])
        keys = {word.partition("=")[0] for word in words}
        quick = [word for word in QUICK if word.partition("=")[0] not in keys]
        ended = mhim("train", f"cohort={write_table(rows)}", store, f"out={tmp_path / out}", *quick, *words)
        assert ended.code == 0, ended
        return tmp_path / out

    return train


def judge(folder: Path) -> bool:
    """Evaluates the run; was anything computed?"""
    return evaluate.run(EvaluateConfig(run=str(folder), bootstrap_replicates=20)).recomputed


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "evaluation/metrics.json").read_text())
    return metrics


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "evaluation").rglob("*")
        if path.is_file()
    }


def test_what_is_missing_or_of_another_version_is_computed_again(trained: Callable[..., Path]) -> None:
    folder = trained("folds=2")
    assert judge(folder)
    first = files_of(folder)
    assert metrics_of(folder)["schema"] == SCHEMA
    assert not judge(folder)
    for name in ("predictions.parquet", "predictions.csv", "validation.parquet", "attention/neg0.parquet"):
        (folder / "evaluation" / name).unlink()
        assert judge(folder), name
        assert files_of(folder) == first
    for schema in ({}, {"schema": SCHEMA + 1}):
        old = {key: value for key, value in metrics_of(folder).items() if key != "schema"} | schema
        (folder / "evaluation/metrics.json").write_text(json.dumps(old))
        assert read_metrics(LocalStorage(folder)) is None
        assert judge(folder)
        assert files_of(folder) == first


def test_a_resolved_file_that_a_kill_left_out_is_written_by_the_next_command(trained: Callable[..., Path]) -> None:
    folder = trained("folds=2")
    judge(folder)
    file = folder / "evaluation/resolved.yaml"
    before = file.read_bytes()
    file.unlink()
    assert not judge(folder), "nothing is computed again"
    assert file.read_bytes() == before


def test_repeated_random_splits_are_judged_fold_by_fold(
    trained: Callable[..., Path], mhim: Any, tmp_path: Path
) -> None:
    # every class has six patients; two of each are tested in a fold, neg0 and pos0 in all of them
    files = []
    for fold in range(3):
        tested = {0, fold + 1}
        part_of = {i: "test" if i in tested else "val" if i in (4, 5) else "train" for i in range(6)}
        files.append(tmp_path / f"fold{fold}.csv")
        lines = [f"{label}{i},{part}\n" for label in ("neg", "pos") for i, part in part_of.items()]
        files[-1].write_text("slide_id,split\n" + "".join(lines))
    folder = trained(f"split_files={','.join(map(str, files))}", "method=mhim")
    ended = mhim("evaluate", f"run={folder}", "bootstrap_replicates=20")
    assert ended.code == 0, ended
    assert "mean ± deviation over fits (2 are held out by several folds)" in ended.out
    metrics = metrics_of(folder)
    assert (metrics["num_bags"], metrics["num_repeated_bags"]) == (8, 2)
    model = metrics["models"]["mhim"]
    assert model["pooled"]["auroc"]["value"] is None
    assert "2 of 8 bags are held out by several folds" in model["pooled"]["auroc"]["reason"]
    assert model["over_folds"]["auroc"]["num"] == 3
    assert f"AUROC {model['over_folds']['auroc']['mean']:.3f} ± " in ended.out
    table = list(csv.DictReader(io.StringIO((folder / "evaluation/predictions.csv").read_text())))
    own = [(row["slide_id"], row["fold"]) for row in table if row["model"] == "mhim"]
    assert sorted(fold for slide, fold in own if slide == "neg0") == ["0", "1", "2"]
    assert len(own) == 12
    # the attention is of the fold that the report shows, the first
    kept = files_of(folder)
    (folder / "evaluation/attention/neg0.parquet").unlink()
    assert judge(folder)
    assert files_of(folder) == kept
    ended = mhim("report", f"run={folder}", "max_heatmaps=20")
    assert ended.code == 0, ended
    page = (folder / "report.html").read_text()
    assert "Pooled metrics are undefined: 2 of 8 bags are held out by several folds" in page
    assert page.count("fold 0, patient p-neg0") == 1, "the heat map is of the fold whose attention is kept"
    assert "fold 1, patient p-neg0" not in page
    ended = mhim("compare", f"runs={folder}", f"out={tmp_path / 'out'}", "bootstrap_replicates=20")
    assert ended.code == 0, ended
    assert "paired folds" in ended.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/comparison.csv").read_text())))
    first = next(row for row in rows if (row["a"], row["b"], row["metric"]) == ("mhim", "plain", "auroc"))
    means = [metrics["models"][name]["over_folds"]["auroc"]["mean"] for name in ("mhim", "plain")]
    assert float(first["difference"]) == pytest.approx(means[0] - means[1], abs=1e-12)
    assert (first["low"], first["high"], first["p"]) == ("", "", "")


def test_a_run_that_holds_nobody_out_is_said_to_have_nothing_to_evaluate(
    trained: Callable[..., Path], refused: Any
) -> None:
    folder = trained("scheme=final")
    for command in ("evaluate", "report"):
        message = refused(command, f"run={folder}")
        assert message == (
            f"{folder} holds no slide out (scheme=final trains on every patient), so there is nothing to evaluate; "
            "mhim predict judges its models on new slides"
        )
    assert not (folder / "evaluation").exists()


def test_leaving_one_patient_out_gives_pooled_numbers_and_none_of_folds(trained: Callable[..., Path]) -> None:
    folder = trained("scheme=leave_one_patient_out", "epochs=1")
    judge(folder)
    model = metrics_of(folder)["models"]["plain"]
    assert model["pooled"]["auroc"]["value"] is not None
    assert model["thresholded"]["pooled"]["accuracy"]["value"] is not None
    assert {spread["num"] for part in (model, model["thresholded"]) for spread in part["over_folds"].values()} == {0}


def test_the_bytes_do_not_depend_on_torchs_threads(trained: Callable[..., Path]) -> None:
    import torch

    folder = trained("folds=2", "aggregator=transmil")
    before, versions = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            judge(folder)
            versions.append(files_of(folder))
            (folder / "evaluation/metrics.json").unlink()
    finally:
        torch.set_num_threads(before)
    assert versions[0] == versions[1]


def test_an_explanation_is_kept_shown_and_made_anew_for_other_models(trained: Callable[..., Path], mhim: Any) -> None:
    folder = trained("folds=2")
    words = ("evaluate", f"run={folder}", "bootstrap_replicates=20")
    assert mhim(*words).code == 0
    assert not (folder / "evaluation/explanation.json").exists()
    ended = mhim(*words, "explanation=true")
    assert ended.code == 0, ended
    document = json.loads((folder / "evaluation/explanation.json").read_text())
    assert (document["num_bags"], document["num_patients"], document["num_models_compared"]) == (12, 12, 2)
    assert f"sufficiency: {document['estimates']['sufficiency']['value']:.3f}" in ended.out
    with (folder / "evaluation/explanation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    own = {
        row["slide_id"]: max(float(row["probability_neg"]), float(row["probability_pos"]))
        for row in csv.DictReader(io.StringIO((folder / "evaluation/predictions.csv").read_text()))
        if row["seed"] == "2021"
    }
    assert {row["bag_id"]: float(row["score"]) for row in table} == pytest.approx(own), "the held-out probability"
    assert all(-1 <= float(row["rank_correlation"]) <= 1 for row in table)
    kept = files_of(folder)
    assert not evaluate.run(EvaluateConfig(run=str(folder), bootstrap_replicates=20, explanation=True)).recomputed, (
        "it is there"
    )
    assert files_of(folder) == kept
    assert mhim("report", f"run={folder}", "max_heatmaps=0").code == 0
    page = (folder / "report.html").read_text()
    assert "sufficiency" in page
