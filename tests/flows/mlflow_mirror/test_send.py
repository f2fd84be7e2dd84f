"""The MLflow mirror shows what is in the store, once, names nobody, and stops nothing when it cannot.

What it wrote is read back from its SQLite file by hand, so that these tests do not trust its own client.
"""

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import open_storage
from flows.config.tracking import Tracking, TrackingKeys
from flows.mlflow_mirror import client, send
from flows.mlflow_mirror.documents import Mirror, MirroredRun, Part, mirror_of_registry, mirror_of_run
from flows.mlflow_mirror.send import destination, mirror_promotion, with_file
from flows.runs.folder import Run, read_run
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.registry.card import Member, RegistryCard, TrainedOn
from mhim_core.registry.models import register_model
from mhim_core.registry.promotions import promote, rollback
from mhim_core.storage import LocalStorage
from mhim_core.task import Task, TaskKind

MLFLOW = TrackingKeys(tracking=Tracking.mlflow)
NONE = TrackingKeys()
needs_mlflow = pytest.mark.skipif(not send.is_installed(), reason="mlflow is not installed: pip install 'mhim[mlflow]'")
CANARY = "Mustermann"


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with MLflow's tables, whose making costs seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "of another project")
        send._send(Mirror(runs=()), send.Destination(f"sqlite:///{file}", str(file.with_suffix(".files"))))
    return file


@pytest.fixture
def sent_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's work in this process: another one costs seconds each time."""

    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[:4] != [sys.executable, "-P", "-m", "flows.mlflow_mirror.client"]:
            return real(command, **options)
        for name, value in options["env"].items():
            monkeypatch.setenv(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.main(Path(command[4]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("flows.mlflow_mirror.send.subprocess.run", run)


@pytest.fixture
def keys(empty_file: Path, tmp_path: Path) -> TrackingKeys:
    shutil.copy(empty_file, tmp_path / "mlflow.db")
    return TrackingKeys(tracking=Tracking.mlflow, tracking_file=str(tmp_path / "mlflow.db"))


@pytest.fixture
def trained(
    mhim: Any,
    train_here: None,
    made_store: Callable[..., str],
    write_table: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., Run]:
    """trained("tracking=mlflow") → a small run over two folds. Patients, labels and paths hold the canary."""

    def train(*words: str) -> Run:
        rows = [
            {
                "slide_id": f"s{number}",
                "path": f"/{CANARY}/s{number}.svs",
                "patient_id": f"{CANARY}, {number}",
                "label": f"{CANARY}-{number % 2}",
            }
            for number in range(12)
        ]
        table, store = write_table(rows), made_store([row["slide_id"] for row in rows])
        small = ("folds=2", "epochs=3", "embed_dim=8", "learning_rate=1e-3")
        ended = mhim("train", f"cohort={table}", store, f"out={tmp_path / 'run'}", *small, *words)
        assert ended.code == 0, ended
        return read_run(str(tmp_path / "run"))

    return train


@pytest.fixture
def registry(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "registry")


def register(registry: LocalStorage, weights: bytes) -> str:
    member = Member(
        file="m.safetensors",
        sha256=sha256(weights),
        seed=1,
        fold=0,
        stage="mhim",
        append_recycled=False,
        temperature=1.0,
        threshold=0.4,
    )
    card = RegistryCard(
        task=Task(kind=TaskKind.classification, classes=("normal", CANARY)),
        unit="slide",
        members=(member,),
        encoder={"id": "toy", "dim": 4},
        encoder_identity={"id": "toy"},
        tiling={"target_mpp": 0.5},
        recipe={"method": "mhim", "fit": {"epochs": 20}, "seeds": [1]},
        trained_on=TrainedOn.of(
            cohort="c",
            feature_set="f",
            manifest_version=1,
            manifest_sha256="m",
            patients=[CANARY],
            sources=[SourceIdentity(1, CANARY)],
        ),
        estimate={"pooled": {"auroc": {"value": 0.9, "low": 0.8, "high": None}}},
    )
    return register_model(registry, "lung", card, {"m.safetensors": weights}).version


def ask(keys: TrackingKeys, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(keys.tracking_file)) as connection:
        return connection.execute(question).fetchall()


def run_names(keys: TrackingKeys) -> list[str]:
    return sorted(name for (name,) in ask(keys, "select name from runs"))


def aliases(keys: TrackingKeys) -> dict[str, str]:
    """alias → version of ours."""
    rows = ask(
        keys,
        "select a.alias, t.value from registered_model_aliases a join model_version_tags t "
        "on a.name = t.name and a.version = t.version where t.key = 'mhim.version'",
    )
    return dict(rows)


# where


def test_nothing_is_mirrored_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_send", raises(AssertionError("sent")))
    assert destination(NONE, LocalStorage(tmp_path)) is None
    mirror_promotion(LocalStorage(tmp_path), "lung", NONE)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_or_the_key_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path / "run")
    own_file = f"sqlite:///{tmp_path}/run/mlflow.db"
    assert destination(MLFLOW, storage) == (own_file, f"{tmp_path}/run/mlflow.files")
    own_keys = TrackingKeys(tracking=Tracking.mlflow, tracking_file=f"{tmp_path}/x.db")
    assert destination(own_keys, storage) == (f"sqlite:///{tmp_path}/x.db", f"{tmp_path}/x.files")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    for keys in (NONE, MLFLOW):
        assert destination(keys, storage) == ("http://server:5000", "")
    assert destination(own_keys, storage) == (f"sqlite:///{tmp_path}/x.db", f"{tmp_path}/x.files")


def test_flows_that_a_flow_calls_write_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, run = LocalStorage(tmp_path / "registry"), LocalStorage(tmp_path / "run")
    assert destination(with_file(MLFLOW, registry), run) == destination(MLFLOW, registry)
    assert with_file(NONE, registry) == NONE
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert destination(with_file(MLFLOW, registry), run) == ("http://server:5000", "")


def test_a_bucket_holds_no_sqlite_file_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    bucket = open_storage("s3://bucket/registry")
    assert destination(MLFLOW, bucket) is None
    assert with_file(MLFLOW, bucket) == MLFLOW
    assert capsys.readouterr().err == ""
    mirror_promotion(bucket, "lung", MLFLOW)
    assert "s3://bucket/registry cannot hold a SQLite file; set MLFLOW_TRACKING_URI" in capsys.readouterr().err


# failure


@needs_mlflow
def test_a_server_that_is_not_there_costs_a_warning_line(
    registry: LocalStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(registry, b"one")
    with closed_port() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:{CANARY}@127.0.0.1:{port}")
        mirror_promotion(registry, "lung", NONE)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: not mirrored to MLflow: http://127.0.0.1:{port}: ")
    assert err.count("\n") == 1
    assert CANARY not in err, "no password in what is printed"


@needs_mlflow
def test_a_server_that_never_answers_is_left_within_the_limit(
    registry: LocalStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(registry, b"one")
    monkeypatch.setattr(send, "_LIMIT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start_s = time.monotonic()
        mirror_promotion(registry, "lung", NONE)
    assert time.monotonic() - start_s < 20
    assert "took longer than 1 s" in capsys.readouterr().err


def test_an_mlflow_that_is_not_installed_is_named(
    registry: LocalStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(send, "is_installed", lambda: False)
    mirror_promotion(registry, "lung", MLFLOW)
    assert capsys.readouterr().err == (
        "warning: not mirrored to MLflow: mlflow is not installed: pip install 'mhim[mlflow]'\n"
    )


def test_whatever_fails_in_the_mirror_stops_no_training(
    trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(send, "is_installed", lambda: True)
    monkeypatch.setattr("flows.mlflow_mirror.documents.mirror_of_run", raises(ZeroDivisionError("a bug of the mirror")))
    trained_run = trained("tracking=mlflow")
    assert (Path(trained_run.storage.uri) / "fits/seed-2021/fold-0/mhim/result.json").is_file()


def test_the_client_is_told_to_be_brief_and_silent(
    registry: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        call.update(options)
        raise send._ClientError("enough seen")

    monkeypatch.setattr(send, "is_installed", lambda: True)
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    mirror_promotion(registry, "lung", MLFLOW)
    environment = call["env"]
    assert environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "33", "a person's own"
    assert int(environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) <= 2
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert call["timeout"] <= 120


# what


@needs_mlflow
def test_a_run_shows_its_keys_its_epochs_its_figures_and_its_page_once(
    trained: Callable[..., Run], mhim: Any, keys: TrackingKeys, sent_here: None
) -> None:
    where = ("tracking=mlflow", f"tracking_file={keys.tracking_file}")
    trained_run = trained(*where)
    run = f"run={trained_run.storage.uri}"
    assert mhim("evaluate", run, "bootstrap_replicates=20", *where).code == 0
    ended = mhim("report", run, *where)
    assert ended.code == 0
    assert "warning" not in ended.err
    assert run_names(keys) == [
        f"mhim abmil {trained_run.record['fingerprint'][:8]}",
        *(f"seed-2021/fold-{fold}/{stage}" for fold in (0, 1) for stage in ("mhim", "plain")),
    ]
    assert ask(keys, "select distinct status from runs") == [("FINISHED",)]
    history = ask(keys, "select count(*), min(step), max(step) from metrics where key = 'validation_loss'")
    assert history == [(4 * 3, 1, 3)], "three epochs of four fits"
    pooled = dict(ask(keys, "select key, value from metrics where key in ('auroc', 'auroc_low', 'plain/auroc')"))
    assert set(pooled) == {"auroc", "auroc_low", "plain/auroc"}
    assert ("fit.epochs", "3") in ask(keys, "select key, value from params")
    children = ask(keys, "select count(*) from tags where key = 'mlflow.parentRunId'")
    assert children == [(4,)]
    files = sorted(path.name for path in Path(keys.tracking_file).with_suffix(".files").rglob("*") if path.is_file())
    assert {"report.html", "MODEL_CARD.md"} < set(files)
    assert sum(name.endswith(".png") for name in files) >= 2

    before = {table: ask(keys, f"select count(*) from {table}") for table in ("runs", "metrics", "params")}
    assert mhim("evaluate", run, "bootstrap_replicates=20", *where).code == 0
    assert mhim("report", run, *where).code == 0
    again = {table: ask(keys, f"select count(*) from {table}") for table in ("runs", "metrics", "params")}
    assert again == before


def test_parameters_metrics_and_tags_name_no_patient_label_or_path(trained: Callable[..., Run], mhim: Any) -> None:
    trained_run = trained()
    assert mhim("evaluate", f"run={trained_run.storage.uri}", "bootstrap_replicates=20").code == 0
    mirror = mirror_of_run(trained_run)
    assert {part.name for part in mirror.runs[0].parts} == {"training", "evaluation"}
    assert CANARY not in spoken(mirror)
    assert "auroc" in spoken(mirror)


@pytest.mark.thorough
@needs_mlflow
def test_a_mirror_that_was_cut_off_is_completed_by_the_next(keys: TrackingKeys, tmp_path: Path) -> None:
    whole = MirroredRun(
        key="k",
        name="n",
        parts=(Part(name="one", params={"a": "1"}), Part(name="two", files={"x.txt": b"two"})),
    )
    server = destination(keys, LocalStorage(tmp_path))
    assert server is not None
    cut = MirroredRun(key="k", name="n", parts=whole.parts[:1])
    for run in (cut, whole, whole):
        send._send(Mirror(runs=(run,)), server)
    assert run_names(keys) == ["n"]
    assert ask(keys, "select key, value from params") == [("a", "1")]
    assert [path.read_bytes() for path in Path(server.artifacts).rglob("x.txt")] == [b"two"]


@needs_mlflow
def test_the_aliases_follow_the_registry(registry: LocalStorage, keys: TrackingKeys, sent_here: None) -> None:
    first = register(registry, b"one")
    promote(registry, "lung", first, base=0, by_flow="test")
    mirror_promotion(registry, "lung", keys)
    assert aliases(keys) == {"champion": first}

    time.sleep(0.01)
    second = register(registry, b"two")
    mirror_promotion(registry, "lung", keys)
    assert aliases(keys) == {"champion": first, "challenger": second}

    promote(registry, "lung", second, base=1, by_flow="test")
    mirror_promotion(registry, "lung", keys)
    assert aliases(keys) == {"champion": second}

    rollback(registry, "lung", first, by_flow="test")
    mirror_promotion(registry, "lung", keys)
    mirror_promotion(registry, "lung", keys)
    assert aliases(keys) == {"champion": first}
    assert ask(keys, "select count(*) from model_versions") == [(2,)]
    assert run_names(keys) == [
        *sorted([f"lung {first}", f"lung {second}"]),
        *(f"promotion lung {number}" for number in (1, 2, 3)),
    ]


def test_a_model_shows_its_card_without_the_digests_of_patients(registry: LocalStorage) -> None:
    version = register(registry, b"one")
    mirror = mirror_of_registry(registry, "lung")
    (run,) = mirror.runs
    (card,) = run.parts[0].files.values()
    assert version.encode() in card
    digests = TrainedOn.of(
        cohort="c",
        feature_set="f",
        manifest_version=1,
        manifest_sha256="m",
        patients=[CANARY],
        sources=[SourceIdentity(1, CANARY)],
    )
    for digest in (*digests.patients, *digests.sources):
        assert digest.encode() not in card
    assert CANARY not in spoken(mirror)
    assert {point.name: point.value for point in run.parts[0].metrics} == {
        "estimate/auroc": 0.9,
        "estimate/auroc_low": 0.8,
        "threshold": 0.4,
    }


def test_a_judgement_shows_both_sets_of_figures_and_each_checks_verdict(registry: LocalStorage) -> None:
    check = {"value": None, "limit": None, "reason": f"slide of {CANARY}"}
    assessment = {
        "schema": 1,
        "champion": {"number": 1, "version": "aa"},
        "challenger": "bb",
        "reason": f"slide of {CANARY}",
        "decision": {
            "promote": False,
            "checks": [
                check | {"name": "non_inferior", "passed": True},
                check | {"name": f"non_inferior/{CANARY} hospital", "passed": None},
                check | {"name": "non_inferior/other", "passed": False},
                check | {"name": "never_miss", "passed": False},
            ],
            "figures": {
                "metric": "auroc",
                "num_bags": 5,
                "champion": {"auroc": {"value": 0.9, "low": 0.8, "high": 1.0}},
                "challenger": {"auroc": {"value": 0.7, "low": None, "high": None}},
                "gain": {"value": -0.2, "low": -0.4, "high": 0.1},
                "sites": {CANARY: {"champion": {"auroc": {"value": 1.0}}}},
            },
        },
    }
    folder = "flows/retrain/lung/0123456789abcdef"
    done = canonical_json({"output": {"identity": {"assessment": "f" * 64}}})
    registry.put(f"{folder}/done/judge-00.json", done)
    registry.put(f"{folder}/assessment-{'f' * 16}.json", canonical_json(assessment))
    registry.put(f"{folder}/assessment-{'0' * 16}.json", b"of an attempt that was cut off")
    registry.put(f"{folder}/report.html", b"<html>")
    registry.put("flows/retrain/other/0123456789abcdef/done/judge-00.json", done)
    mirror = mirror_of_registry(registry, "lung")
    (run,) = mirror.runs
    assert mirror.models == ()
    assert run.name == "retrain lung 01234567"
    assert run.tags["mhim.outcome"] == "kept"
    figures, page = run.parts
    assert figures.params == {
        "check.never_miss": "failed",
        "check.non_inferior": "passed",
        "check.non_inferior.sites": "failed",
    }
    assert {point.name: point.value for point in figures.metrics} == {
        "champion/auroc": 0.9,
        "champion/auroc_low": 0.8,
        "champion/auroc_high": 1.0,
        "challenger/auroc": 0.7,
        "gain": -0.2,
        "gain_low": -0.4,
        "gain_high": 0.1,
    }
    assert page.files == {"report.html": b"<html>"}
    assert CANARY not in spoken(mirror)


def spoken(mirror: Mirror) -> str:
    """Everything that is not a file."""
    runs = [
        (run.key, run.name, run.parent, run.tags, [(part.params, part.metrics) for part in run.parts])
        for run in mirror.runs
    ]
    models = [(model.name, model.versions, model.aliases) for model in mirror.models]
    return canonical_json([runs, models]).decode()


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Of this machine, where nobody listens while it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def raises(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call
