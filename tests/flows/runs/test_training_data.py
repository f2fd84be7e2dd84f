"""What training takes from table and store, before any worker starts."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import train

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of `mhim train` up to the workers."""
    monkeypatch.setattr(train, "fit_all", lambda run, plan, config: [])


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
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["manifest"]["version"] == 1
    assert record["config"]["folds"] == 2
    assert record["config"]["workers"] == "1"
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


def test_mining_with_an_aggregator_without_attention_is_refused_before_a_run_is_created(
    refused: Callable[..., str], made_store: Callable[..., str], tmp_path: Path
) -> None:
    store = made_store(["a"])
    sentence = refused("train", "cohort=my.csv", store, f"out={tmp_path / 'run'}", "aggregator=mean")
    assert "method=plain" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_fits")
def test_features_embedded_at_another_resolution_than_the_table_states_are_refused(
    refused: Callable[..., str],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = [row | {"mpp": "0.25" if number == 0 else ""} for number, row in enumerate(cohort_rows(pos=5, neg=5))]
    store = made_store([row["slide_id"] for row in rows])
    sentence = refused("train", f"cohort={write_table(rows)}", store, f"out={tmp_path / 'run'}")
    assert "the table says 0.25" in sentence
    assert "mhim embed" in sentence


@pytest.mark.usefixtures("no_fits")
def test_a_rerun_needs_no_choice_that_its_first_start_has_made(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=6, neg=6)
    words = ["train", f"cohort={write_table(rows)}", f"out={tmp_path / 'run'}", "folds=2"]
    ids = [row["slide_id"] for row in rows]
    assert mhim(*words, made_store(ids)).code == 0
    assert mhim(*words, made_store(ids, encoder="other")).code == 0
    assert mhim(*words[:2], f"out={tmp_path / 'other'}", made_store(ids)).code == 2


@pytest.mark.fault(16)
def test_lost_feature_files_end_a_training_before_any_worker_and_are_named(
    refused: Callable[..., str],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Also those that only the last fold would read. Ray would fail the test."""
    rows = cohort_rows(pos=8, neg=8)
    ids = [row["slide_id"] for row in rows]
    words = ["train", f"cohort={write_table(rows)}", made_store(ids), f"out={tmp_path / 'run'}", "folds=4"]
    files = {path.parent.name: path for path in (tmp_path / "store/features").rglob("*.parquet")}
    files["neg7"].write_bytes(files["neg7"].read_bytes()[:-1])
    sentence = refused(*words, code=6)
    assert "neg7 (damaged" in sentence
    assert f"mhim store repair store={tmp_path / 'store'}" in sentence
    for slide_id in ids[:11]:
        files[slide_id].unlink()
    sentence = refused(*words, code=6)
    assert sentence.count("missing") + sentence.count("damaged") == 10
    assert "and 2 more" in sentence


@pytest.mark.fault(15)
def test_a_flipped_bit_that_only_a_later_fit_would_read_ends_the_training_beside_the_first(
    mhim: Callable[..., Any],
    refused: Callable[..., str],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = cohort_rows(pos=8, neg=8)
    ids = [row["slide_id"] for row in rows]
    words = ["train", f"cohort={write_table(rows)}", made_store(ids), f"out={tmp_path / 'run'}", "folds=4"]
    read_by_the_first: set[str] = set()

    def run_workers(
        work: Any, payload: Any, spec: Any, cluster: Any, scratch: str, on_event: Any, beside: Any
    ) -> list[Any]:
        first = payload.plan.fits[0]
        read_by_the_first.update(bag.bag_id for bag in (*first.train, *first.validation))
        beside(threading.Event())
        return []

    monkeypatch.setattr("flows.train.ray_session", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("cluster.training.run_workers", run_workers)
    files = {path.parent.name: path for path in (tmp_path / "store/features").rglob("*.parquet")}
    whole = {slide_id: path.read_bytes() for slide_id, path in files.items()}

    def flip(slide_id: str) -> None:
        middle = len(whole[slide_id]) // 2
        files[slide_id].write_bytes(
            whole[slide_id][:middle] + bytes([whole[slide_id][middle] ^ 1]) + whole[slide_id][middle + 1 :]
        )

    for slide_id in ids:
        flip(slide_id)
    refused(*words, code=6)
    for slide_id in read_by_the_first:  # the fit itself compares these
        files[slide_id].write_bytes(whole[slide_id])
    sentence = refused(*words, code=6)
    left = set(ids) - read_by_the_first
    assert sum(slide_id in sentence for slide_id in left) == 1
    for slide_id in left:
        files[slide_id].write_bytes(whole[slide_id])
    for slide_id in read_by_the_first:
        flip(slide_id)
    assert mhim(*words).code == 0


@pytest.mark.usefixtures("no_fits")
def test_a_slide_that_is_not_trained_on_may_be_lost(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=6, neg=6)
    store = made_store([*(row["slide_id"] for row in rows), "other"])
    (path,) = (tmp_path / "store/features").glob("*/other/*.parquet")
    path.unlink()
    words = ["train", f"cohort={write_table(rows)}", store, f"out={tmp_path / 'run'}", "folds=2"]
    assert mhim(*words).code == 0
