"""mhim sweep: a grid of trainings as one. Training runs in this process; the features are made up."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, str]]
QUICK = ("epochs=2", "embed_dim=8", "folds=3", "patience=0")
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
    assert trained == 6 * (2 + 4), "stage 1 once for each of two widths, the students of four configurations"
