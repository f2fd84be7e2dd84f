"""The whole path on a small painted cohort: embed → train → evaluate → predict → report, and all of it again."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]

TRAINING = ("folds=2", "epochs=3", "embed_dim=16", "learning_rate=0.01", "local_cpus=2")


class CommandResult(NamedTuple):
    """What a command left, and the words to run it again."""

    folder: Path
    words: tuple[str, ...]
    ended: Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def embedded(painted: Any, one_ray: None, folder: Path, run_mhim: Callable[..., Any]) -> CommandResult:
    store = folder / "store"
    words = ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={store}", "local_cpus=2")
    return CommandResult(store, words, run_mhim(*words))


@pytest.fixture(scope="module")
def embedded_again(painted: Any, folder: Path, run_here: Callable[..., Any]) -> CommandResult:
    """By the actor in this process: what Ray adds must not show."""
    store = folder / "store-again"
    words = ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={store}", "local_cpus=2")
    return CommandResult(store, words, run_here(*words))


@pytest.fixture(scope="module")
def train(painted: Any, folder: Path, run_mhim: Callable[..., Any]) -> Callable[..., CommandResult]:
    """train(store, "name", "seed=1", …, by=run_here): a run, evaluated; trained by Ray's workers, unless told."""

    def run(store: Path, name: str, *more: str, by: Callable[..., Any] = run_mhim) -> CommandResult:
        out = folder / name
        words = ("train", f"cohort={painted.cohort}", f"store={store}", f"out={out}", *TRAINING, *more)
        ended = by(*words)
        assert ended.code == 0, ended
        evaluated = run_mhim("evaluate", f"run={out}", "bootstrap_replicates=50")
        assert evaluated.code == 0, evaluated
        return CommandResult(out, words, ended)

    return run


@pytest.fixture(scope="module")
def trained(embedded: CommandResult, train: Callable[..., CommandResult]) -> CommandResult:
    return train(embedded.folder, "run")


@pytest.fixture(scope="module")
def predicted(trained: CommandResult, painted: Any, folder: Path, run_here: Callable[..., Any]) -> CommandResult:
    out = folder / "predictions"
    words = ("predict", f"run={trained.folder}", f"cohort={painted.new}", f"out={out}", "local_cpus=2")
    return CommandResult(out, words, run_here(*words))


def results(run: Path) -> dict[str, bytes]:
    """Everything that is a run's result, by place: fits, models, evaluation. None of it may vary but where it lies."""
    places = [*run.glob("fits/**/*"), *run.glob("evaluation/**/*")]
    names = {path.relative_to(run).as_posix(): path for path in places if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if name != "evaluation/resolved.yaml"}


def metrics_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "evaluation/metrics.json").read_text()))


def newest_report(store: Path) -> dict[str, Any]:
    folder = max((store / "reports").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return dict(json.loads((folder / "summary.json").read_text()))


def test_embedding_a_cohort_twice_gives_the_same_files_and_manifest(
    embedded: CommandResult,
    embedded_again: CommandResult,
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
) -> None:
    assert (embedded.ended.code, embedded_again.ended.code) == (0, 0)
    assert "12 slides: 12 ok, 0 empty, 0 failed, 0 skipped" in embedded.ended.out
    assert len(clean_features) == 12
    assert features_of(embedded.folder) == features_of(embedded_again.folder) == clean_features
    manifests = [sorted(store.rglob("manifests/**/*.parquet")) for store in (embedded.folder, embedded_again.folder)]
    assert [len(paths) for paths in manifests] == [1, 1]
    assert manifests[0][0].read_bytes() == manifests[1][0].read_bytes()


def test_two_trainings_of_one_seed_are_equal_to_the_last_bit(
    trained: CommandResult,
    embedded_again: CommandResult,
    train: Callable[..., CommandResult],
    run_here: Callable[..., Any],
) -> None:
    again = train(embedded_again.folder, "run-again", by=run_here)
    assert len([key for key in results(trained.folder) if key.endswith("result.json")]) == 4
    assert results(again.folder) == results(trained.folder)


def test_another_seed_gives_another_model(
    trained: CommandResult, embedded: CommandResult, train: Callable[..., CommandResult], run_here: Callable[..., Any]
) -> None:
    other = train(embedded.folder, "run-other", "seed=7", "method=plain", by=run_here)
    models = {key for key in results(trained.folder) if "/plain/models/" in key}
    assert models.isdisjoint(results(other.folder))
    assert metrics_of(other.folder)["models"].keys() == {"plain"}


def test_the_reported_model_its_teacher_and_the_baseline_are_judged_on_held_out_slides(trained: CommandResult) -> None:
    metrics = metrics_of(trained.folder)
    assert (metrics["num_bags"], metrics["num_patients"], metrics["reported"]) == (12, 12, "mhim")
    assert metrics["models"].keys() == {"mhim", "mhim teacher", "plain"}
    assert metrics["models"]["plain"]["pooled"]["auroc"]["value"] > 0.9  # the classes differ in colour
    rows = pq.read_table(trained.folder / "evaluation/predictions.parquet").to_pylist()
    with (trained.folder / "evaluation/predictions.csv").open() as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == [row["slide_id"] for row in rows]
    for model in metrics["models"]:
        assert len({row["slide_id"] for row in rows if row["model"] == model}) == 12


def test_an_interrupted_training_fits_only_what_is_missing_on_the_manifest_of_its_start(
    trained: CommandResult, predicted: CommandResult, folder: Path, run_here: Callable[..., Any]
) -> None:
    copy = folder / "run-copy"
    shutil.copytree(trained.folder, copy)
    (copy / "fits/seed-2021/fold-1/mhim/result.json").unlink()
    words = [f"out={copy}" if word.startswith("out=") else word for word in trained.words]
    ended = run_here(*words)
    assert ended.code == 0
    names = ["fold-0/plain", "fold-0/mhim", "fold-1/plain"]
    adopted = re.findall(r"^(\S+): adopted", ended.err, re.MULTILINE)
    assert adopted == [f"seed-2021/{name}" for name in names]
    assert re.findall(r"^(\S+): finished", ended.err, re.MULTILINE) == ["seed-2021/fold-1/mhim"]
    # predicting embedded three more slides into the same store
    assert "stays with manifest version 1, pinned at its start; the store has version 2 by now" in ended.out
    assert json.loads((copy / "run.json").read_text())["manifest"]["version"] == 1
    assert results(copy) == results(trained.folder)


def test_a_run_of_another_configuration_is_refused_in_its_place(
    trained: CommandResult, run_mhim: Callable[..., Any]
) -> None:
    ended = run_mhim(*trained.words, "dropout=0.5")
    assert ended.code == 5
    assert "dropout: 0.25 there, 0.5 here" in ended.err


def test_predictions_of_new_slides_average_the_fold_models(predicted: CommandResult) -> None:
    assert predicted.ended.code == 0, predicted.ended
    rows = pq.read_table(predicted.folder / "predictions.parquet").to_pylist()
    assert [row["slide_id"] for row in rows] == ["s12", "s13", "s14"]
    assert [row["num_models"] for row in rows] == [2, 2, 2]
    assert [row["predicted"] for row in rows] == ["normal", "tumour", "normal"]
    for row in rows:
        assert row["probability_normal"] + row["probability_tumour"] == pytest.approx(1)
        assert row["spread_normal"] >= 0
    with (predicted.folder / "predictions.csv").open() as file:
        for read, row in zip(csv.DictReader(file), rows, strict=True):
            assert {
                key: read[key] or None if value is None else type(value)(read[key]) for key, value in row.items()
            } == row


def test_pages_are_whole_in_themselves_and_say_what_they_are_for(
    trained: CommandResult, predicted: CommandResult, run_mhim: Callable[..., Any]
) -> None:
    assert run_mhim("report", f"run={trained.folder}").code == 0
    for page in (trained.folder / "report.html", predicted.folder / "report.html"):
        text = page.read_text()
        assert "research use" in text.lower()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", text)
        pictures = re.findall(r'src="([^"]+)"', text)
        assert pictures
        assert all(picture.startswith("report/") and (page.parent / picture).is_file() for picture in pictures)
    assert "research use" in (trained.folder / "MODEL_CARD.md").read_text().lower()


def test_every_command_again_finds_all_done_without_ray_or_torch(
    embedded: CommandResult, trained: CommandResult, predicted: CommandResult, run_mhim: Callable[..., Any]
) -> None:
    assert run_mhim("report", f"run={trained.folder}").code == 0
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")}
    commands = [
        embedded.words,
        trained.words,
        ("evaluate", f"run={trained.folder}", "bootstrap_replicates=50"),
        predicted.words,
        ("report", f"run={trained.folder}"),
    ]
    program = (
        "import json, sys\n"
        "from flows.cli import main\n"
        "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
        "assert codes == [0] * len(codes), codes\n"
        "loaded = {'ray', 'torch'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - start_s < 20  # a second or two, on an idle machine
    assert "12 slides: 0 ok, 0 empty, 0 failed, 12 skipped" in done.stdout
    assert "all 4 fits are finished" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")} == before


def test_prediction_refuses_an_encoder_that_is_not_the_run_s(
    trained: CommandResult, predicted: CommandResult, folder: Path, run_mhim: Callable[..., Any]
) -> None:
    copy = folder / "run-tampered"
    shutil.copytree(trained.folder, copy)
    record = json.loads((copy / "run.json").read_text())
    record["encoder"]["weights_sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(record))
    words = [f"run={copy}" if word.startswith("run=") else word for word in predicted.words]
    ended = run_mhim(*words)
    assert ended.code == 2
    assert "another weights_sha256 than is found here" in ended.err


def test_a_failed_slide_is_counted_recorded_and_tried_again_unless_told_otherwise(
    embedded: CommandResult, painted: Any, folder: Path, run_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.tiff").write_bytes(b"no slide at all")
    table = folder / "with-broken.csv"
    rows = painted.cohort.read_text().replace(",s", f",{painted.cohort.parent}/s")
    table.write_text(rows + "broken,broken.tiff,p99,tumour\n")
    words = [f"cohort={table}" if word.startswith("cohort=") else word for word in embedded.words]
    ended = run_here(*words)
    assert ended.code == 3, ended
    assert "13 slides: 0 ok, 0 empty, 1 failed (open 1), 12 skipped" in ended.out
    assert newest_report(embedded.folder)["failures_by_reason"] == {"open": 1}
    assert run_here(*words, "max_failed_fraction=0.01").code == 4
    assert len(list(embedded.folder.glob("attempts/*/broken/*/*.json"))) == 2

    def no_work(*_: object) -> None:
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr("flows.embed.embed_pending", no_work)
    given_up = run_here(*words, "retry_failed=false")
    assert given_up.code == 3
    assert "1 failed (open 1), 12 skipped" in given_up.out
    assert len(list(embedded.folder.glob("attempts/*/broken/*/*.json"))) == 2
