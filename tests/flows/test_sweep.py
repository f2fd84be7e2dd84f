"""mhim sweep: a grid of trainings as one. Training runs in this process; the features are made up."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.runs.folder import start_run
from flows.sweeps import contenders
from flows.sweeps.records import start_sweep
from mhim_core.errors import ConflictError
from mhim_core.storage import LocalStorage

Rows = list[dict[str, str]]
QUICK = ("epochs=1", "embed_dim=8", "folds=2", "patience=0")
GRID = "vary=high_mask_ratio=.05,0.2 embed_dim=8,4"
NAMES = [f"high_mask_ratio={ratio}+embed_dim={dim}" for ratio in ("0.05", "0.2") for dim in (8, 4)]


@pytest.fixture
def words(
    write_table: Callable[..., Path], made_store: Callable[..., str], cohort_rows: Callable[..., Rows]
) -> Callable[..., list[str]]:
    """words("sweep", "epochs=3") → a command of the cohort and its store."""
    rows = cohort_rows(neg=6, pos=6)
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])

    def command(name: str, *own: str) -> list[str]:
        keys = {word.partition("=")[0] for word in own}
        return [name, f"cohort={table}", store, *(word for word in QUICK if word.partition("=")[0] not in keys), *own]

    return command


def files(run: Path, below: str = "fits") -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in (run / below).rglob("*") if path.is_file()}


def board(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "leaderboard.csv").read_text())))


@pytest.fixture
def sweep(words: Any, mhim: Any, train_here: None, tmp_path: Path) -> Callable[..., Path]:
    """sweep("vary=…", code=0) → the sweep's folder."""

    def run(*own: str, code: int = 0, out: str = "sweep") -> Path:
        ended = mhim(*words("sweep", f"out={tmp_path / out}", *own))
        assert ended.code == code, ended
        run.said = ended  # type: ignore[attr-defined]
        return tmp_path / out

    return run


def test_each_configuration_is_the_run_that_a_training_with_its_keys_makes(
    sweep: Callable[..., Path], words: Any, mhim: Any, tmp_path: Path
) -> None:
    folder = sweep(GRID, "seeds=2")
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(NAMES)
    for ratio, dim, name in [("0.05", 8, NAMES[0]), ("0.2", 4, NAMES[3])]:
        solo = tmp_path / f"solo-{dim}"
        ended = mhim(*words("train", f"out={solo}", f"high_mask_ratio={ratio}", f"embed_dim={dim}", "seeds=2"))
        assert ended.code == 0, ended
        own = folder / "runs" / name
        assert files(own) == files(solo)
        records = [json.loads((run / "run.json").read_text()) for run in (own, solo)]
        assert records[0]["fingerprint"] == records[1]["fingerprint"]
        assert records[0]["identity"] == records[1]["identity"]
    trained = sweep.said.err.count(": finished (")  # type: ignore[attr-defined]
    assert trained == 4 * (2 + 4), "stage 1 once for each of two widths, the students of four configurations"


def test_the_leaderboard_ranks_on_validation_and_the_winner_alone_is_evaluated(
    sweep: Callable[..., Path], mhim: Any
) -> None:
    folder = sweep(GRID)
    lines = board(folder)
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4"]
    assert {line["configuration"] for line in lines} == set(NAMES)
    for line in lines:
        results = [
            json.loads(path.read_text())
            for path in (folder / "runs" / line["configuration"]).glob("fits/*/*/mhim/result.json")
        ]
        assert float(line["validation"]) == pytest.approx(sum(result["metric"] for result in results) / 2)
        assert float(line["validation_loss"]) == pytest.approx(sum(result["validation_loss"] for result in results) / 2)
        assert (line["high_mask_ratio"], line["embed_dim"]) == tuple(
            part.partition("=")[2] for part in line["configuration"].split("+")
        )
        assert float(line["seconds"]) > 0
    keys = [(-float(line["validation"]), float(line["validation_loss"])) for line in lines]
    assert keys == sorted(keys)
    assert pq.read_table(folder / "leaderboard.parquet").to_pylist()[0]["embed_dim"] == int(lines[0]["embed_dim"])

    won = json.loads((folder / "winner.json").read_text())
    assert (won["configuration"], won["num_configurations"]) == (lines[0]["configuration"], 4)
    assert "among 4 configurations" in won["sentence"]
    assert [path.parts[-3] for path in folder.glob("runs/*/evaluation/metrics.json")] == [won["configuration"]]
    metrics = json.loads((folder / won["run"] / "evaluation/metrics.json").read_text())
    assert won["test"]["pooled"] == metrics["models"]["mhim"]["pooled"]
    said = sweep.said.out  # type: ignore[attr-defined]
    assert won["sentence"] in said
    assert won["sentence"] in (folder / "leaderboard.html").read_text()

    before = files(folder, "")
    again = sweep(GRID)
    assert "nothing to train" in sweep.said.out  # type: ignore[attr-defined]
    assert sweep.said.err == ""  # type: ignore[attr-defined]
    assert files(again, "") == before
    assert mhim("evaluate", f"run={folder}/runs/{lines[1]['configuration']}", "bootstrap_replicates=20").code == 0


def test_a_configuration_that_fails_is_a_row_with_its_reason_and_the_others_go_on(
    sweep: Callable[..., Path], mhim: Any
) -> None:
    folder = sweep("vary=aggregator=abmil,transmil embed_dim=8,4 learning_rate=0.001,1e30", code=3)
    lines = board(folder)
    status = {(line["aggregator"], line["embed_dim"], line["learning_rate"]): line["status"] for line in lines}
    assert len(lines) == 8
    assert sum(value == "finished" for value in status.values()) == 3
    reasons = {line["reason"] for line in lines if line["learning_rate"] == "0.001"}
    assert any("multiple of 8" in reason for reason in reasons)
    assert status["transmil", "4", "0.001"] == status["abmil", "8", "1e+30"] == "failed"
    assert all(
        "NaN" in line["reason"] for line in lines if (line["aggregator"], line["learning_rate"]) == ("abmil", "1e+30")
    )
    assert [line["rank"] for line in lines] == ["1", "2", "3", *[""] * 5]
    before = files(folder, "")
    again = sweep("vary=aggregator=abmil,transmil embed_dim=8,4 learning_rate=0.001,1e30", code=3)
    assert files(again, "") == before


def test_where_all_fail_there_is_no_winner(sweep: Callable[..., Path]) -> None:
    folder = sweep("vary=learning_rate=1e30", "method=plain", code=4)
    assert [line["status"] for line in board(folder)] == ["failed"]
    assert not (folder / "winner.json").exists()


def test_halving_leaves_one_and_a_cut_configuration_can_be_trained_to_its_end(
    sweep: Callable[..., Path], mhim: Any
) -> None:
    folder = sweep("vary=high_mask_ratio=0,.1,.3", "halving=3", "epochs=4")
    lines = board(folder)
    assert [(line["status"], line["rung"], line["num_epochs"]) for line in lines] == [
        ("finished", "", "8"),
        *[("cut", "2", "4")] * 2,
    ]
    run = folder / "runs" / lines[2]["configuration"]
    assert not list(run.glob("fits/*/*/mhim/result.json"))
    ended = mhim("train", f"config={run}/resolved.yaml")
    assert ended.code == 0, ended
    assert len(list(run.glob("fits/*/*/mhim/result.json"))) == 2
    assert "resumed: after epoch 2" in ended.err


def test_another_grid_and_other_keys_in_the_same_folder_are_refused(
    sweep: Callable[..., Path], words: Any, refused: Any, tmp_path: Path
) -> None:
    sweep("vary=high_mask_ratio=.1,.2", "method=mhim")
    command, other = (words("sweep", f"out={tmp_path / 'sweep'}", *own) for own in ([], ["epochs=2"]))
    assert "configurations" in refused(*command, "vary=high_mask_ratio=.1,.3", code=5)
    assert "epochs" in refused(*other, "vary=high_mask_ratio=.1,.2", code=5)


def test_a_sweep_stays_with_the_manifest_that_it_was_started_with(
    sweep: Callable[..., Path], tmp_path: Path, made_store: Any, cohort_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    real = contenders.open_run

    def killed(*arguments: Any) -> Any:
        if len(opened) == 1:
            raise KeyboardInterrupt
        opened.append(1)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("flows.sweeps.contenders.open_run", killed)
        sweep("vary=high_mask_ratio=.1,.2", code=130)
    made_store([*(row["slide_id"] for row in cohort_rows(neg=6, pos=6)), "another"])
    folder = sweep("vary=high_mask_ratio=.1,.2")
    versions = [json.loads(path.read_text())["manifest"]["version"] for path in folder.glob("runs/*/run.json")]
    assert versions == [1, 1]


def test_stage_one_of_another_run_teaches_every_configuration(
    sweep: Callable[..., Path], words: Any, mhim: Any, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    assert mhim(*words("train", f"out={teacher}", "method=plain")).code == 0
    folder = sweep("vary=high_mask_ratio=.1,.2 embed_dim=8,4", f"teacher={teacher}", code=3)
    assert sweep.said.err.count("finished (") == 4  # type: ignore[attr-defined]
    assert files(folder / "runs" / NAMES[0].replace("0.05", "0.1"), "fits/seed-2021/fold-0/plain") == files(
        teacher, "fits/seed-2021/fold-0/plain"
    )
    assert {line["reason"].split(";")[-1] for line in board(folder) if line["embed_dim"] == "4"} == {
        " a teacher must match"
    }


def test_survival_and_a_final_model_are_swept_too(
    mhim: Any, write_table: Any, made_store: Any, cohort_rows: Any, train_here: None, tmp_path: Path
) -> None:
    rows = [
        {key: value for key, value in row.items() if key != "label"} | {"time": f"{index + 3}", "event": "1"}
        for index, row in enumerate(cohort_rows(x=18))
    ]
    ended = mhim(
        *("sweep", f"cohort={write_table(rows)}", made_store([row["slide_id"] for row in rows])),
        *(f"out={tmp_path / 'sweep'}", "scheme=final", "time_bins=2", "epochs=1", "method=plain", "embed_dim=4"),
        "vary=dropout=0,.5",
    )
    assert ended.code == 0, ended
    won = json.loads((tmp_path / "sweep/winner.json").read_text())
    assert (won["metric_name"], won["test"]) == ("harrell_c", {})
    assert "final" in won["test_reason"]


def test_a_folder_with_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    unread: Any = None
    with pytest.raises(ConflictError):
        start_sweep(LocalStorage(tmp_path), unread, unread, unread)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_does_not_begin_in_a_sweep_s_folder(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ConflictError):
        start_run(LocalStorage(tmp_path), {"identity": {}}, (), ())
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
