"""mhim compare: which models stand against each other, what is refused, what is written. The numbers are the core's."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.storage import open_storage
from flows import compare as flow
from flows.config.commands import CompareConfig
from flows.runs import evaluation
from flows.runs.folder import start_run
from mhim_core.cohort.splits import Split
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import BagUnit
from mhim_core.errors import ConfigError
from mhim_core.evaluation.comparison import compare
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.prediction_table import encode_held_out
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind
from mhim_core.types import PatientId, SlideId

BINARY = Task(kind=TaskKind.classification, classes=("neg", "pos"))
SURVIVAL = Task(kind=TaskKind.survival)
MakeRun = Callable[..., str]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """make_run("a", noise=1.0, seeds=(1,), method="mhim", task=BINARY, num=24) → the address of an evaluated run."""
    monkeypatch.setattr(flow, "ensure_evaluated", lambda run: {})

    def make(
        name: str,
        *,
        noise: float = 1.0,
        seeds: Sequence[int] = (1,),
        method: str = "mhim",
        task: Task = BINARY,
        num: int = 24,
    ) -> str:
        storage = open_storage(str(tmp_path / name))
        slides = tuple(_slide(index, task) for index in range(num))
        splits = tuple(
            Split(
                fold,
                *(tuple(slide.slide_id for i, slide in enumerate(slides) if (i + fold) % 3 == part) for part in (0, 1)),
                tuple(slide.slide_id for i, slide in enumerate(slides) if (i + fold) % 3 == 2),
            )
            for fold in range(3)
        )
        identity = {
            "method": method,
            "seeds": list(seeds),
            "target": {"bags": "slide"},
            "splits": {},
            "feature_set": "f",
        }
        identity["task"] = {"kind": task.kind.value, "classes": list(task.classes), "time_bins": task.time_bins}
        record: dict[str, Any] = {"identity": identity, "store": "s", "manifest": {"version": 1, "sha256": ""}}
        run = start_run(storage, record | {"encoder": {}, "tiling": {}}, slides, splits)
        fold_of = {slide_id: split.fold for split in splits for slide_id in split.test}
        rows = [
            HeldOut(model, seed, fold_of[SlideId(bag.bag_id)], bag.bag_id, bag.patient_id, None, bag.target, logits)
            for index, model in enumerate(("mhim", "mhim teacher", "plain") if method == "mhim" else ("plain",))
            for seed in seeds
            for bag, logits in zip(run.bags, _logits(run.task, num, noise * (index + 1), seed), strict=True)
        ]
        storage.put(evaluation.PREDICTIONS_KEY, encode_held_out(rows, run.task, BagUnit.slide))
        return str(tmp_path / name)

    return make


def _slide(index: int, task: Task) -> CohortRow:
    name, patient = SlideId(f"s{index:02}"), PatientId(f"p{index:02}")
    if task.kind is TaskKind.survival:
        return CohortRow(name, "x", patient, None, None, time=float(index + 1), event=index % 3 > 0)
    return CohortRow(name, "x", patient, task.classes[index % 2], None)


def _logits(task: Task, num: int, noise: float, seed: int) -> list[tuple[float, ...]]:
    drawn = np.random.default_rng(seed).normal(size=num) * noise
    if task.kind is TaskKind.survival:
        return [(float(8 - i + value),) * task.time_bins for i, value in enumerate(drawn)]
    return [(0.0, float(2 * (i % 2) - 1 + value)) for i, value in enumerate(drawn)]


def table_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text(encoding="utf-8"))))


def test_two_runs_are_compared_by_their_reported_models(make_run: MakeRun, mhim: Any, tmp_path: Path) -> None:
    a, b = make_run("a", noise=0.3), make_run("b", noise=2.0)
    ended = mhim("compare", f"runs=[{a},{b}]", f"out={tmp_path / 'out'}", "bootstrap_replicates=200")
    assert ended.code == 0, ended
    assert "a − b\n  AUROC " in ended.out
    assert "DeLong, p " in ended.out
    rows = table_of(tmp_path / "out")
    assert {(row["a"], row["b"]) for row in rows} == {("a", "b")}
    twin = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pylist()
    assert [row["difference"] for row in twin] == [float(row["difference"]) for row in rows]
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(model["name"], model["model"], model["seeds"]) for model in summary["models"]] == [
        ("a", "mhim", [1]),
        ("b", "mhim", [1]),
    ]
    assert (summary["num_bags"], summary["num_patients"]) == (24, 24)
    assert summary["differences"] == twin


def test_the_numbers_are_the_cores(make_run: MakeRun, mhim: Any, tmp_path: Path) -> None:
    a, b = make_run("a", noise=0.3, seeds=(1, 2)), make_run("b", noise=2.0, seeds=(5,))
    mhim("compare", f"runs={a},{b}", f"out={tmp_path / 'out'}", "bootstrap_replicates=100")
    rows = {}
    for name, address in (("a", a), ("b", b)):
        run = flow.read_run(address)
        rows[name] = [row for row in flow.read_held_out(run) if row.model == "mhim"]
    expected = compare(rows, BINARY, replicates=100)
    table = table_of(tmp_path / "out")
    assert [float(row["low"]) for row in table] == [difference.low for difference in expected]
    assert table[0]["method"] == "paired bootstrap"


def test_of_one_run_all_models_are_compared(make_run: MakeRun, mhim: Any, tmp_path: Path) -> None:
    ended = mhim("compare", f"runs={make_run('a')}", f"out={tmp_path / 'out'}", "bootstrap_replicates=20")
    assert ended.code == 0, ended
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in table_of(tmp_path / "out")))
    assert pairs == [("mhim", "mhim teacher"), ("mhim", "plain"), ("mhim teacher", "plain")]


def test_named_models_are_taken_from_every_run_that_has_them(make_run: MakeRun, mhim: Any, tmp_path: Path) -> None:
    runs = f"{make_run('x/a')},{make_run('y/a', method='plain')}"
    out = tmp_path / "out"
    assert mhim("compare", f"runs={runs}", "models=mhim, plain", f"out={out}", "bootstrap_replicates=20").code == 0
    names = list(dict.fromkeys(name for row in table_of(out) for name in (row["a"], row["b"])))
    assert names == ["x/a: mhim", "x/a: plain", "y/a: plain"]
    assert mhim("compare", f"runs={runs}", "models=plain", f"out={out}", "bootstrap_replicates=20").code == 0
    assert {(row["a"], row["b"]) for row in table_of(out)} == {("x/a", "y/a")}


def test_survival_runs_are_compared_by_both_concordances(make_run: MakeRun, mhim: Any, tmp_path: Path) -> None:
    runs = f"{make_run('a', task=SURVIVAL, noise=0.5)},{make_run('b', task=SURVIVAL, noise=9.0)}"
    assert mhim("compare", f"runs={runs}", f"out={tmp_path / 'out'}", "bootstrap_replicates=50").code == 0
    table = table_of(tmp_path / "out")
    assert [row["metric"] for row in table] == ["harrell_c", "uno_c"]
    assert all(float(row["difference"]) > 0 and row["reason"] == "" for row in table)


def test_training_targets_are_those_of_each_folds_training_part(make_run: MakeRun) -> None:
    run = flow.read_run(make_run("a", task=SURVIVAL))
    targets = flow.train_targets(run)
    by_slide: dict[str, Target] = {slide.slide_id: SurvivalTarget(slide.time, slide.event) for slide in run.slides}
    assert targets == {split.fold: [by_slide[slide_id] for slide_id in split.train] for split in run.splits}


def test_the_same_comparison_again_writes_the_same_bytes(make_run: MakeRun, tmp_path: Path, no_ray: None) -> None:
    runs = f"{make_run('a')},{make_run('b', noise=3.0)}"
    config = CompareConfig(runs=runs, out=str(tmp_path / "out"), bootstrap_replicates=30)
    assert flow.run(config).recomputed
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert not flow.run(config).recomputed
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert str(tmp_path) not in first["comparison.json"].decode()


def test_what_cannot_be_compared_is_refused_in_a_sentence(make_run: MakeRun, refused: Any, tmp_path: Path) -> None:
    out = f"out={tmp_path / 'out'}"
    a, b, plain = make_run("a"), make_run("b", num=22), make_run("plain", method="plain")
    message = refused("compare", f"runs={a},{b}", out)
    assert message == "a and b were not judged on the same bags: 2 only in a (s22, s23)"
    survival = make_run("survival", task=SURVIVAL)
    assert "a and survival are of different tasks" in refused("compare", f"runs={a},{survival}", out)
    assert "there is one model to compare, plain of plain" in refused("compare", f"runs={plain}", out)
    message = refused("compare", f"runs={a}", "models=student", out)
    assert message == "models=student is in none of the runs; they have mhim, mhim teacher, plain"
    assert "holds no run" in refused("compare", f"runs={a},{tmp_path / 'nowhere'}", out)
    assert "names a run twice" in refused("compare", f"runs={a},{a}", out)
    assert "names no run" in refused("compare", "runs=[]", out)
    assert "needs runs=" in refused("compare", out)
    assert not (tmp_path / "out").exists()


def test_runs_are_listed_with_or_without_brackets() -> None:
    for text in ("[a, b]", "a,b", " [a,b,] "):
        assert CompareConfig(runs=text, out="o").run_uris == ("a", "b")
    assert CompareConfig(runs="s3://x/[1],b", out="o").run_uris == ("s3://x/[1]", "b")
    with pytest.raises(ConfigError, match="bootstrap_replicates=-1"):
        CompareConfig(runs="a", out="o", bootstrap_replicates=-1)


def test_class_targets_survive_the_table(make_run: MakeRun) -> None:
    rows = flow.read_held_out(flow.read_run(make_run("a")))
    assert {row.target for row in rows} == {ClassTarget(0), ClassTarget(1)}
    assert len(rows) == 24 * 3
