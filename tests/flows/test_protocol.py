"""mhim train's protocol: seeds, tasks, bags, folds, recipes, another run's teachers, plug-ins. Training runs in this
process; the features are made up, so numbers show that a path works, not how well."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.runs.evaluation import VALIDATION_KEY, read_held_out
from flows.runs.fits import trained_on
from flows.runs.folder import read_run

Rows = list[dict[str, str]]
QUICK = ("epochs=2", "embed_dim=8", "folds=3")


@pytest.fixture
def rows(cohort_rows: Callable[..., Rows]) -> Rows:
    return cohort_rows(neg=6, pos=6)


@pytest.fixture
def train(
    tmp_path: Path, mhim: Any, write_table: Callable[..., Path], made_store: Callable[..., str], train_here: None
) -> Callable[..., Path]:
    """train(rows, "seeds=2", out="run") → the run's folder, trained; out= and store= are filled in."""

    def run(rows: Rows, *words: str, out: str = "run") -> Path:
        store = made_store([row["slide_id"] for row in rows])
        quick = [word for word in QUICK if word.partition("=")[0] not in {own.partition("=")[0] for own in words}]
        ended = mhim("train", f"cohort={write_table(rows)}", store, f"out={tmp_path / out}", *quick, *words)
        assert ended.code == 0, ended
        run.said = ended.out  # type: ignore[attr-defined]
        return tmp_path / out

    return run


@pytest.fixture
def evaluated(train: Callable[..., Path], mhim: Any) -> Callable[..., dict[str, Any]]:
    """The metrics of a run trained on these rows."""

    def run(rows: Rows, *words: str, out: str = "run") -> dict[str, Any]:
        folder = train(rows, *words, out=out)
        ended = mhim("evaluate", f"run={folder}", "bootstrap_replicates=50")
        assert ended.code == 0, ended
        run.said = ended.out  # type: ignore[attr-defined]
        metrics: dict[str, Any] = json.loads((folder / "evaluation/metrics.json").read_text())
        return metrics

    return run


def predictions(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "evaluation/predictions.csv").read_text(encoding="utf-8"))))


def test_every_seed_trains_on_the_same_folds_and_every_slide_is_held_out_once_a_seed(
    evaluated: Callable[..., dict[str, Any]], rows: Rows, tmp_path: Path
) -> None:
    metrics = evaluated(rows, "seeds=2", "seed=5")
    assert (metrics["seeds"], metrics["folds"], metrics["num_bags"]) == ([5, 6], [0, 1, 2], 12)
    results = sorted(
        path.parent.relative_to(tmp_path / "run/fits") for path in (tmp_path / "run/fits").rglob("result.json")
    )
    assert len(results) == 2 * 3 * 2
    assert str(results[0]) == "seed-5/fold-0/mhim"
    held_out = predictions(tmp_path / "run")
    keys = [(row["model"], row["seed"], row["slide_id"]) for row in held_out]
    assert len(set(keys)) == len(keys) == 3 * 2 * 12
    fold_of = {(row["seed"], row["slide_id"]): row["fold"] for row in held_out}
    assert all(fold_of["5", slide] == fold_of["6", slide] for _, slide in fold_of)
    assert {fold["seed"] for fold in metrics["models"]["mhim"]["folds"]} == {5, 6}
    assert metrics["models"]["mhim"]["over_folds"]["auroc"]["num"] == 6
    assert "mean over 2 seeds" in evaluated.said  # type: ignore[attr-defined]
    run_of_seeds = read_run(str(tmp_path / "run"))
    assert {row.logits for row in read_held_out(run_of_seeds)} == {row.logits for row in read_held_out(run_of_seeds)}
    validation = read_held_out(run_of_seeds, VALIDATION_KEY)
    assert all(row.bag_id not in next(s.test for s in run_of_seeds.splits if s.fold == row.fold) for row in validation)


def test_the_first_seed_of_several_gives_the_model_of_that_seed_alone(train: Callable[..., Path], rows: Rows) -> None:
    several, single = train(rows, "seeds=2", out="several"), train(rows, out="one")
    assert _model(several, 2021) == _model(single, 2021)
    assert _model(several, 2022) != _model(single, 2021)


def _model(folder: Path, seed: int) -> str:
    digest: str = json.loads((folder / f"fits/seed-{seed}/fold-0/mhim/result.json").read_text())["model_sha256"]
    return digest


def survival_rows(rows: Rows) -> Rows:
    """Without labels: every third is censored."""
    return [
        {key: value for key, value in row.items() if key != "label"}
        | {"time": f"{3 + i}.5", "event": str(int(i % 3 > 0))}
        for i, row in enumerate(rows)
    ]


def test_survival_runs_from_the_table_to_the_metrics(
    evaluated: Callable[..., dict[str, Any]], cohort_rows: Callable[..., Rows], tmp_path: Path
) -> None:
    metrics = evaluated(survival_rows(cohort_rows(x=24)), "time_bins=2", "folds=2")
    assert metrics["task"] == "survival"
    pooled = metrics["models"]["mhim"]["pooled"]
    assert 0 <= pooled["harrell_c"]["value"] <= 1
    assert "C" in evaluated.said  # type: ignore[attr-defined]
    first = predictions(tmp_path / "run")[0]
    assert {"time", "event", "risk", "logit_bin_0", "logit_bin_1"} <= first.keys()
    assert -2 <= float(first["risk"]) <= 0


def test_a_number_is_predicted_in_the_table_s_unit(
    evaluated: Callable[..., dict[str, Any]], cohort_rows: Callable[..., Rows], tmp_path: Path
) -> None:
    rows = [row | {"label": f"{1000 + 3 * i}.5"} for i, row in enumerate(cohort_rows(x=24))]
    metrics = evaluated(rows, "folds=2")
    assert metrics["task"] == "regression"
    assert metrics["models"]["plain"]["pooled"]["mae"]["value"] < 60
    values = [float(row["prediction"]) for row in predictions(tmp_path / "run")]
    assert 950 < np.median(values) < 1100


def test_bags_of_patients_hold_all_their_slides(
    evaluated: Callable[..., dict[str, Any]], rows: Rows, tmp_path: Path
) -> None:
    both = [
        row | {"slide_id": f"{row['slide_id']}-{k}", "path": f"{row['path']}-{k}.svs"} for row in rows for k in "ab"
    ]
    metrics = evaluated(both, "bags=patient")
    assert metrics["num_bags"] == metrics["num_patients"] == 12
    held_out = predictions(tmp_path / "run")
    assert "slide_id" not in held_out[0]
    assert {row["patient_id"] for row in held_out} == {row["patient_id"] for row in rows}
    attention = [path.stem for path in (tmp_path / "run/evaluation/attention").glob("*.parquet")]
    assert sorted(attention) == sorted(row["slide_id"] for row in both), "heat maps are of slides all the same"
    weights = [pq.read_table(path)["attention"].to_numpy().sum() for path in (tmp_path / "run").rglob("neg0-*.parquet")]
    assert sum(weights) == pytest.approx(1, abs=1e-5), "the attention of a bag is one over all its slides"


def test_another_run_s_stage_one_models_are_the_teachers(train: Callable[..., Path], rows: Rows) -> None:
    first = train(rows, out="first")
    second = train(rows, f"teacher={first}", "high_mask_ratio=0.1", out="second")
    plain = [json.loads((run / "fits/seed-2021/fold-1/plain/result.json").read_text()) for run in (first, second)]
    assert plain[0] == plain[1]
    assert _model(first, 2021) != _model(second, 2021)
    assert train(rows, f"teacher={first}", out="third") == first.parent / "third"
    assert _model(first.parent / "third", 2021) == _model(first, 2021), "one recipe, one student, whoever taught first"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["seeds=2"], r"seeds (2022 are not there)"),
        (["folds=2"], "slides, targets or folds"),
        (["gated=true"], "model options"),
        (["precision=float64"], "precision"),
        (["method=plain"], "only method=mhim has a teacher"),
    ],
)
def test_a_teacher_that_does_not_match_is_refused(
    train: Callable[..., Path], refused: Any, rows: Rows, tmp_path: Path, words: list[str], reason: str
) -> None:
    first = train(rows, out="first")
    quick = [word for word in QUICK if word.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    table, store = f"cohort={tmp_path / 'my.csv'}", f"store={tmp_path / 'store'}"
    message = refused("train", table, store, f"out={tmp_path / 'second'}", f"teacher={first}", *quick, *words)
    assert reason in message
    assert not (tmp_path / "second").exists(), "a run that cannot be is not created"


def test_a_recipe_sets_what_is_not_given(train: Callable[..., Path], rows: Rows) -> None:
    folder = train(rows, "recipe=mhim-v2", "consistency_weight=0.25")
    mhim = json.loads((folder / "run.json").read_text())["identity"]["mhim"]
    assert (mhim["random_mask_ratio"], mhim["ema_momentum"], mhim["consistency_weight"]) == (0.8, "0.9997", 0.25)


def test_an_unknown_recipe_is_refused(refused: Any) -> None:
    assert "choose one of mhim, mhim-v2" in refused("train", "cohort=a", "store=b", "out=c", "recipe=best")


def test_predefined_folds_are_taken_from_files_and_from_the_column(
    train: Callable[..., Path], rows: Rows, tmp_path: Path
) -> None:
    parts = {row["slide_id"]: ("train", "train", "train", "val", "test", "test")[i % 6] for i, row in enumerate(rows)}
    file = tmp_path / "fold0.csv"
    file.write_text("slide_id,split\n" + "".join(f"{slide},{part}\n" for slide, part in parts.items()))
    (split,) = read_run(str(train(rows, f"split_files={file}", out="files"))).splits
    assert set(split.test) == {slide for slide, part in parts.items() if part == "test"}
    assert set(split.validation) == {slide for slide, part in parts.items() if part == "val"}
    folds = [row | {"fold": str(i % 3)} for i, row in enumerate(rows)]
    by_column = read_run(str(train(folds, out="column"))).splits
    assert [set(split.test) for split in by_column] == [
        {row["slide_id"] for row in folds if row["fold"] == str(k)} for k in range(3)
    ]


def test_labels_may_come_from_a_table_without_header(train: Callable[..., Path], rows: Rows, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{row['slide_id']},{row['label']}\n" for row in rows))
    bare = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    run_of_labels = read_run(str(train(bare, f"labels={labels}")))
    assert {slide.slide_id: slide.label for slide in run_of_labels.slides} == {
        row["slide_id"]: row["label"] for row in rows
    }


PLUGIN = """
import torch
from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.registry import register_aggregator


@register_aggregator("first-guess")
class FirstGuess(torch.nn.Module):
    def __init__(self, num_classes, options):
        super().__init__()
        self.head = torch.nn.Linear(options.embed_dim, num_classes)
        self.energy = torch.nn.Linear(options.embed_dim, 1)

    def forward(self, h_ND):
        attention_HN = self.energy(h_ND).T.softmax(dim=1)
        feature_D = (attention_HN @ h_ND)[0]
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=h_ND)
"""


def test_a_users_own_aggregator_goes_the_whole_way_and_its_file_is_asked_for(
    train: Callable[..., Path], mhim: Any, refused: Any, rows: Rows, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    words = (f"aggregator_file={file}", "aggregator=first-guess")
    folder = train(rows, *words)
    model = json.loads((folder / "run.json").read_text())["identity"]["model"]
    assert len(model["plugin_sha256"]) == 64
    assert mhim("evaluate", f"run={folder}", words[0], "bootstrap_replicates=0").code == 0
    assert "unknown" in refused("train", "cohort=a", "store=b", "out=c", "aggregator=third-guess")


@pytest.mark.parametrize(
    ("spoil", "words", "reason"),
    [
        (
            lambda rows: [row | {"patient_id": "p"} for row in rows[:2]] + rows[2:],
            ["bags=patient"],
            "different targets",
        ),
        (survival_rows, ["class_weights=true", "scheme=folds", "time_bins=2"], "needs classes"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(
    refused: Any,
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    rows: Rows,
    tmp_path: Path,
    spoil: Callable[[Rows], Rows],
    words: list[str],
    reason: str,
) -> None:
    mixed = [row for pair in zip(rows[:6], rows[6:], strict=True) for row in pair]
    table, store = write_table(spoil(mixed)), made_store([row["slide_id"] for row in rows])
    assert reason in refused("train", f"cohort={table}", store, f"out={tmp_path / 'run'}", *QUICK, *words)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_its_teachers_run_no_more(train: Callable[..., Path], rows: Rows, tmp_path: Path) -> None:
    first = train(rows, out="first")
    second = train(rows, f"teacher={first}", out="second")
    shutil.rmtree(first)
    assert train(rows, f"teacher={first}", out="second") == second
    assert "nothing to do" in train.said  # type: ignore[attr-defined]


FINAL = ("scheme=final", "val_fraction=0.4")


def test_a_final_fit_starts_from_another_s_weights_and_stands_on_its_own(
    train: Callable[..., Path], rows: Rows, refused: Any, tmp_path: Path
) -> None:
    first = train(rows[:10], *FINAL, out="first")
    second = train(rows, *FINAL, f"warm_start={first}", out="second")
    assert _model(second, 2021) != _model(train(rows, *FINAL, out="cold"), 2021)
    known = trained_on(read_run(str(second)), {0})
    assert {known.knows_patient(row["patient_id"]) for row in rows} == {True}
    shutil.move(first, tmp_path / "gone")
    assert train(rows, *FINAL, f"warm_start={first}", out="second") == second
    words = [f"cohort={tmp_path / 'my.csv'}", f"store={tmp_path / 'store'}", *QUICK[:2], *FINAL]
    assert "the model that it starts from" in refused("train", *words, f"out={second}", code=5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["scheme=folds", "folds=3"], "needs scheme=final"),
        (["teacher=run"], "give one of them"),
        (["seeds=2"], "has no model of the seeds 2022"),
        (["gated=true"], "model options"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(
    train: Callable[..., Path], rows: Rows, refused: Any, tmp_path: Path, words: list[str], reason: str
) -> None:
    first = train(rows, *FINAL, out="first")
    places = [f"cohort={tmp_path / 'my.csv'}", f"store={tmp_path / 'store'}", f"out={tmp_path / 'second'}", *QUICK[:2]]
    final = [] if "folds=3" in words else FINAL[:1]
    assert reason in refused("train", *places, f"warm_start={first}", *FINAL[1:], *final, *words)
    assert not (tmp_path / "second").exists()


def test_a_run_of_folds_is_no_warm_start(train: Callable[..., Path], rows: Rows, refused: Any, tmp_path: Path) -> None:
    first = train(rows, out="first")
    places = [f"cohort={tmp_path / 'my.csv'}", f"store={tmp_path / 'store'}", f"out={tmp_path / 'second'}", *QUICK[:2]]
    assert "3 models of 1 seeds" in refused("train", *places, f"warm_start={first}", *FINAL)
    assert "needs registry=" in refused("train", *places, "warm_start=lung@champion", *FINAL)
