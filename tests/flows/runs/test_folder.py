"""A run's folder: fixed at its first start, the same for whoever comes later, closed to another configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.commands import TrainConfig
from flows.config.words import parse
from flows.runs.cohort import load_cohort
from flows.runs.folder import PinnedFeatures, Run, read_run
from flows.runs.training_data import choose_features, training_data
from flows.runs.training_places import open_places
from flows.train import open_run
from mhim_core.errors import ConflictError, InputError, IntegrityError
from mhim_core.store.manifest import read_manifest

Rows = list[dict[str, str]]
Create = Callable[..., Run]


@pytest.fixture
def create(tmp_path: Path, write_table: Callable[..., Path]) -> Create:
    """create(rows, store, "folds=3", …): what `mhim train` does before it starts Ray."""

    def start(rows: Rows, store: str, *words: str, out: str = "run") -> Run:
        table = write_table(rows)
        config = parse(TrainConfig, [f"cohort={table}", store, f"out={tmp_path / out}", *words], command="train")
        places = open_places(config)
        feature_set = choose_features(config, places)
        manifest = read_manifest(places.store, feature_set.fingerprint)
        cohort = load_cohort(config.data.cohort).cohort
        features = PinnedFeatures(places.store, feature_set, manifest)
        return open_run(config, places, cohort, features, training_data(config, cohort, manifest))

    return start


@pytest.fixture
def rows(cohort_rows: Callable[..., Rows]) -> Rows:
    return cohort_rows(neg=6, pos=6)


@pytest.fixture
def store(rows: Rows, made_store: Callable[..., str]) -> str:
    return made_store([row["slide_id"] for row in rows])


def test_a_run_reads_back_as_it_was_started(create: Create, rows: Rows, store: str, tmp_path: Path) -> None:
    started = create(rows, store, "folds=3", "method=plain")
    read = read_run(str(tmp_path / "run"))
    assert (read.record, read.slides, read.splits) == (started.record, started.slides, started.splits)
    assert read.classes == ("neg", "pos")
    assert read.method == "plain"
    assert f"store={read.store_uri}" == store
    assert len(read.splits) == 3
    assert read.manifest.entries.keys() == {row["slide_id"] for row in rows}
    assert set(read.record["versions"]) >= {"python", "mhim", "torch", "pyarrow"}


def test_the_same_configuration_finds_its_run_whatever_the_order_of_rows_the_place_or_the_execution(
    create: Create, rows: Rows, store: str
) -> None:
    first = create(rows, store)
    again = create(
        [row | {"path": f"moved/{row['path']}"} for row in reversed(rows)], store, "cache_gib=0", "workers=1"
    )
    assert again.record == first.record
    assert len(list(again.storage.list(""))) == 2, "run.json and its table"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("epochs=3", "epochs: 200 there, 3 here"),
        ("learning_rate=0.1", "learning_rate: 0.0002 there, 0.1 here"),
        ("method=plain", "method: mhim there, plain here"),
        ("folds=3", "folds: 5 there, 3 here"),
        ("seed=7", "seed: 2021 there, 7 here"),
        ("high_mask_ratio=0.5", "high_mask_ratio: 0.03 there, 0.5 here"),
        ("precision=float64", "precision: float32 there, float64 here"),
        ("gpus_per_worker=1", "threads_per_worker: 2 there, none here"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    create: Create, rows: Rows, store: str, word: str, reason: str
) -> None:
    create(rows, store)
    with pytest.raises(ConflictError) as caught:
        create(rows, store, word)
    message = str(caught.value)
    assert reason in message
    assert "choose another out=" in message
    assert "\n" not in message
    assert "labels" not in message, "folds that differ because of a key are not the table's fault"


@pytest.mark.parametrize("change", [{"label": "pos"}, {"patient_id": "p-neg1"}, {"slide_id": "neg1b"}])
def test_another_table_is_refused_as_such(create: Create, rows: Rows, made_store: Any, change: dict[str, str]) -> None:
    store = made_store([*(row["slide_id"] for row in rows), "neg1b"])
    create(rows, store)
    with pytest.raises(ConflictError, match=r"\(the slides, their labels, patients or folds\)"):
        create([rows[0] | change, *rows[1:]], store)


def test_other_features_are_refused_by_the_key_that_makes_them(
    create: Create, rows: Rows, store: str, made_store: Any
) -> None:
    create(rows, store)
    made_store([row["slide_id"] for row in rows], encoder="toy2", target_mpp=1.0)
    with pytest.raises(ConflictError, match=r"encoder: toy there, toy2 here, target_mpp: 0.5 there, 1.0 here"):
        create(rows, store, "encoder=toy2")


def test_a_later_manifest_leaves_the_run_s_pin(create: Create, rows: Rows, made_store: Any) -> None:
    store = made_store([row["slide_id"] for row in rows])
    first = create(rows, store)
    made_store(["another"])
    again = create(rows, store)
    assert again.record["manifest"] == first.record["manifest"]
    assert "another" not in again.manifest.entries


def test_a_start_that_died_before_its_record_does_not_lend_its_table_to_another_run(
    create: Create, rows: Rows, store: str
) -> None:
    first = create(rows, store)
    first.storage.delete("run.json")
    second = create(rows[1:], store, "folds=3")
    assert len(second.slides) == len(rows) - 1
    assert read_run(second.storage.uri).slides == second.slides


def test_what_is_no_run_is_refused(tmp_path: Path, create: Create, rows: Rows, store: str) -> None:
    with pytest.raises(InputError, match=r"holds no run .*the out= of mhim train"):
        read_run(str(tmp_path / "nowhere"))
    run = create(rows, store)
    for damage in (b"{", b"[]", b"{}", b'{"schema": 99}'):
        run.storage.put("run.json", damage)
        with pytest.raises(IntegrityError, match=r"run\.json"):
            read_run(run.storage.uri)


def test_a_table_that_is_gone_or_changed_is_noticed(create: Create, rows: Rows, store: str) -> None:
    run = create(rows, store)
    (key,) = (entry.key for entry in run.storage.list("") if entry.key.endswith(".parquet"))
    data = run.storage.get(key)
    run.storage.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="is not the table"):
        read_run(run.storage.uri)
    run.storage.delete(key)
    with pytest.raises(IntegrityError, match="is gone"):
        read_run(run.storage.uri)
