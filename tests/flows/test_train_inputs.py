"""What training takes from table and store, before any worker starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import train

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of `mhim train` up to the workers."""
    monkeypatch.setattr(train, "fit_all", lambda given, plan, config: [])


@pytest.mark.usefixtures("no_fits")
def test_a_rerun_keeps_the_manifest_of_its_first_start_and_says_that_a_newer_one_exists(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=6, neg=6)
    table = write_table(rows)
    ids = [row["slide_id"] for row in rows]
    store = made_store(ids[:-1])
    words = ["train", f"cohort={table}", store, f"out={tmp_path / 'run'}", "folds=2"]
    assert mhim(*words).code == 0
    made_store(ids)
    again = mhim(*words)
    assert again.code == 0
    assert "pinned at its start" in again.out
    assert json.loads((tmp_path / "run/run.json").read_text())["manifest"]["version"] == 1
    fresh = mhim(*words[:3], f"out={tmp_path / 'other'}", "folds=2")
    assert fresh.code == 0
    assert json.loads((tmp_path / "other/run.json").read_text())["manifest"]["version"] == 2


@pytest.mark.usefixtures("no_fits")
def test_one_file_embedded_under_two_ids_is_refused_by_its_content(
    refused: Callable[..., str],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=5, neg=5)
    ids = [row["slide_id"] for row in rows]
    store = made_store(ids, twins=ids[:2])
    sentence = refused("train", f"cohort={write_table(rows)}", store, f"out={tmp_path / 'run'}")
    assert ids[0] in sentence
    assert ids[1] in sentence


def test_mining_with_an_aggregator_without_attention_is_refused_before_a_run_is_founded(
    refused: Callable[..., str], made_store: Callable[..., str], tmp_path: Path
) -> None:
    store = made_store(["a"])
    sentence = refused("train", "cohort=my.csv", store, f"out={tmp_path / 'run'}", "aggregator=mean")
    assert "method=plain" in sentence
    assert not (tmp_path / "run").exists()
