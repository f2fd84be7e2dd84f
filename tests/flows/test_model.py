"""Models of a registry, from a finished run to predictions that need nothing but the registry."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.storage import open_storage
from flows.predict import predict_bags
from flows.prediction.packaging import package_run
from flows.prediction.predictor import contender, held_out, predictor_of_model, predictor_of_package, predictor_of_run
from flows.runs.cohort import load_cohort, slide_identity
from flows.runs.evaluation import VALIDATION_KEY, read_held_out
from flows.runs.folder import read_run
from mhim_core.evaluation.calibration import temperatures, thresholds
from mhim_core.fingerprint import sha256
from mhim_core.registry.external import new_bags
from mhim_core.registry.gate_options import HoldoutOptions
from mhim_core.registry.holdout import Holdout, HoldoutSlide, read_holdout
from mhim_core.registry.models import list_models, read_model_folder
from mhim_core.registry.promotions import champion, history
from mhim_core.storage import LocalStorage
from mhim_core.store.bags import ParquetBags, PatientBags
from mhim_core.tables import write_csv, write_parquet
from mhim_core.types import PatientId

TRAINING = ("folds=2", "epochs=2", "embed_dim=8", "patience=0")
NAMES = ("Mustermann", "Erika")


@pytest.fixture
def trained(
    mhim: Callable[..., Any],
    train_here: None,
    made_store: Callable[..., str],
    cohort_rows: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., Path]:
    """trained("seed=7", …) → the folder of a finished run of twelve slides of as many patients."""
    rows = cohort_rows(normal=6, tumour=6)
    for row in rows:
        row["patient_id"] = f"Mustermann-Erika-{row['slide_id']}"
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])

    def train(*words: str) -> Path:
        out = tmp_path / "-".join(["run", *(re.sub(r"\W", "", word) for word in words)])
        ended = mhim("train", f"cohort={table}", store, f"out={out}", *TRAINING, *words)
        assert ended.code == 0, ended
        return out

    return train


@pytest.fixture
def registry(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "registry")


def version_in(output: str) -> str:
    match = re.search(r"lung@([0-9a-f]{16})", output)
    assert match is not None, output
    return match[1]


@pytest.fixture
def register(mhim: Callable[..., Any], registry: LocalStorage) -> Callable[..., str]:
    """register(run, …) → the version."""

    def run(folder: Path, *words: str) -> str:
        ended = mhim("model", "register", "lung", f"run={folder}", f"registry={registry.uri}", *words)
        assert ended.code == 0, ended
        return version_in(ended.out)

    return run


def test_a_run_becomes_a_model_with_everything_that_validation_chose(
    mhim: Callable[..., Any], trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage
) -> None:
    folder = trained("seeds=2")
    assert mhim("evaluate", f"run={folder}", "bootstrap_replicates=10").code == 0
    card = read_model_folder(registry, "lung", register(folder)).card
    run = read_run(str(folder))
    assert [(member.seed, member.fold) for member in card.members] == [(2021, 0), (2021, 1), (2022, 0), (2022, 1)]
    reported = [row for row in read_held_out(run, VALIDATION_KEY) if row.model == "mhim"]
    assert {(m.seed, m.fold): m.temperature for m in card.members} == pytest.approx(
        {fit: temperature.value for fit, temperature in temperatures(reported).items()}
    )
    assert {(m.seed, m.fold): m.threshold for m in card.members} == pytest.approx(
        {fit: threshold.value for fit, threshold in thresholds(reported).items()}
    )
    assert card.estimate["pooled"]["auroc"]["value"] is not None
    assert (card.trained_on.num_slides, card.trained_on.num_patients) == (12, 12)
    assert card.trained_on.knows_patient("Mustermann-Erika-normal0")
    assert card.recipe["fit"]["epochs"] == 2
    assert card.encoder == run.record["encoder"]
    assert "not a medical device" in card.intended_use.lower()


@pytest.mark.fault(39)
def test_no_patient_slide_or_path_is_named_in_the_registry_or_on_the_terminal(
    mhim: Callable[..., Any],
    trained: Callable[..., Path],
    register: Callable[..., str],
    registry: LocalStorage,
    tmp_path: Path,
) -> None:
    version = register(trained())
    output = mhim("model", "promote", "lung", f"version={version}", f"registry={registry.uri}").out
    output += mhim("model", "show", "lung", f"registry={registry.uri}").out
    texts = [output.replace(registry.uri, "")]
    texts += [registry.get(entry.key).decode("latin-1") for entry in registry.list("")]
    for text in texts:
        for canary in (*NAMES, "normal0", "tumour3", str(tmp_path)):
            assert canary not in text


def test_registered_again_it_is_the_same_model_and_another_seed_is_another(
    trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage
) -> None:
    folder = trained()
    first = register(folder)
    assert register(folder) == first
    second = register(trained("seed=7"))
    one_fold = register(folder, "fold=0")
    assert len({first, second, one_fold}) == 3
    assert {model.version for model in list_models(registry)} == {first, second, one_fold}
    card = read_model_folder(registry, "lung", one_fold).card
    assert [(member.seed, member.fold) for member in card.members] == [(2021, 0)]


def test_promoting_showing_and_rolling_back(
    mhim: Callable[..., Any], trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage
) -> None:
    first, second = register(trained("method=plain")), register(trained("method=plain", "seed=7"))
    where = f"registry={registry.uri}"
    for version in (first, second):
        ended = mhim("model", "promote", "lung", f"version={version[:8]}", where, "reason=we looked at it")
        assert ended.code == 0, ended
    again = mhim("model", "promote", "lung", f"version={second}", where)
    assert (again.code, "champion already (number 2)" in again.out) == (0, True)
    listed = mhim("model", "ls", where).out
    assert re.search(rf"lung  {second}  \S+  champion \(number 2\)", listed)
    assert re.search(rf"lung  {first}  \S+  champion until ", listed)
    ended = mhim("model", "rollback", "lung", f"to={first}", where)
    assert (ended.code, f"lung@{first} is champion (number 3)" in ended.out) == (0, True)
    assert mhim("model", "rollback", "lung", f"to={first}", where).code == 0
    records = history(registry, "lung")
    assert [(record.version, record.kind) for record in records] == [
        (first, "manual"),
        (second, "manual"),
        (first, "rollback"),
    ]
    assert "no gate was asked: we looked at it" in records[0].reason
    shown = mhim("model", "show", "lung", where).out
    assert f"lung@{first}" in shown
    assert len(re.findall(r"^  [123]  [0-9a-f]{16} ", shown, re.MULTILINE)) == 3
    assert f"lung@{second}" in mhim("model", "show", f"lung@{second[:6]}", where).out
    assert re.search(rf"lung  {second}  \S+  rolled back", mhim("model", "ls", "lung", where).out)


def test_what_is_not_there_is_said_in_one_sentence(
    refused: Callable[..., str],
    mhim: Callable[..., Any],
    trained: Callable[..., Path],
    register: Callable[..., str],
    registry: LocalStorage,
    tmp_path: Path,
) -> None:
    where = f"registry={registry.uri}"
    assert "holds no model" in mhim("model", "ls", where).out
    assert "lung has no champion" in refused("model", "show", "lung", where)
    assert "lung has none at all" in refused("model", "promote", "lung", "version=ffff", where)
    assert list(registry.list("")) == []
    folder = trained("method=plain")
    version = register(folder)
    assert f"versions: {version}" in refused("model", "promote", "lung", "version=ffff", where)
    assert "there is nothing to go back to" in refused("model", "rollback", "lung", f"to={version}", where)
    assert "the name alone, lung" in refused("model", "promote", "lung@champion", f"version={version}", where)
    assert "cannot name a model" in refused("model", "register", "../x", f"run={folder}", where)
    assert "has no fit of fold=9" in refused("model", "register", "lung", f"run={folder}", "fold=9", where)
    assert "holds no run" in refused("model", "register", "lung", f"run={tmp_path / 'none'}", where)
    assert "mhim model needs one of ls, show" in refused("model", "frobnicate")


def test_an_unfinished_run_is_no_model(
    refused: Callable[..., str], trained: Callable[..., Path], registry: LocalStorage
) -> None:
    folder = trained("method=plain")
    (folder / "fits/seed-2021/fold-1/plain/result.json").unlink()
    message = refused("model", "register", "lung", f"run={folder}", f"registry={registry.uri}")
    assert "seed-2021/fold-1/plain is not finished" in message
    assert list(registry.list("")) == []


def test_a_package_a_registered_model_and_the_run_predict_alike(
    trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage
) -> None:
    folder = trained("seeds=2")
    run = read_run(str(folder))
    packaged = package_run(run)
    version = register(folder)
    assert packaged.card.version == version
    assert {file: sha256(data) for file, data in packaged.files.items()} == packaged.card.files
    source = run.bag_source()
    predictions = [
        held_out(predictor, run.bags, source)
        for predictor in (
            predictor_of_run(run),
            predictor_of_package(packaged, "lung"),
            predictor_of_model(registry, f"lung@{version}"),
        )
    ]
    assert [len(rows) for rows in predictions] == [12, 12, 12]
    for rows in predictions[1:]:
        assert [row._replace(model="") for row in rows] == [row._replace(model="") for row in predictions[0]]
    judged = contender(predictor_of_model(registry, f"lung@{version}"), run.bags, source)
    assert judged.card == packaged.card
    assert judged.rows == predictions[2]


def test_a_patients_run_is_a_model_of_patients(
    trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage
) -> None:
    folder = trained("method=plain", "bags=patient")
    predictor = predictor_of_model(registry, f"lung@{register(folder)}")
    assert predictor.unit.value == predictor.card.unit == "patient"
    assert not predictor.by_slide


def test_a_patient_s_prediction_names_the_slides_that_it_is_of(
    trained: Callable[..., Path], register: Callable[..., str], registry: LocalStorage, tmp_path: Path
) -> None:
    folder = trained("method=plain", "bags=patient")
    predictor = predictor_of_model(registry, f"lung@{register(folder)}")
    run = read_run(str(folder))
    rows = [row._replace(patient_id=PatientId(f"patient of {row.label}")) for row in run.slides]
    bags = new_bags(predictor.unit, rows, run.manifest.entries)
    source = PatientBags(
        ParquetBags(open_storage(run.store_uri), run.manifest.entries),
        {bag.bag_id: bag.slide_ids for bag in bags},
    )
    lines = [prediction.line for prediction in predict_bags(predictor, source, bags, LocalStorage(tmp_path / "out"))]
    assert [line["patient_id"] for line in lines] == ["patient of normal", "patient of tumour"]
    for line in lines:
        assert "slide_id" not in line
        own = [row.slide_id for row in run.slides if line["patient_id"] == f"patient of {row.label}"]
        assert sorted(line["slide_ids"].split(";")) == sorted(own)
        assert line["num_slides"] == len(own) == 6
    for write in (write_csv, write_parquet):
        assert b"slide_ids" in write(lines)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it leaves the registry with the painted slides' model for the others."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def painted_model(
    mhim: Callable[..., Any],
    embed_here: None,
    train_here: None,
    painted: Any,
    registry: LocalStorage,
    kept: Path,
) -> str:
    """The version of a model of the painted slides; its run and its store are gone."""
    if not (kept / "registry").exists():
        store, run = kept / "store", kept / "run"
        words = [f"cohort={painted.cohort}", f"store={store}"]
        keys = ("folds=2", "epochs=10", "learning_rate=1e-2", "embed_dim=16", "method=plain")
        assert mhim("embed", *words, "encoder=hed-texture").code == 0
        assert mhim("train", *words, f"out={run}", *keys).code == 0
        assert mhim("model", "register", "lung", f"run={run}", f"registry={kept / 'registry'}").code == 0
        predict = ("predict", f"run={run}", f"cohort={painted.new}", f"out={kept / 'by-run'}", "max_heatmaps=0")
        assert mhim(*predict).code == 0
        shutil.rmtree(store)
        shutil.rmtree(run)
    shutil.copytree(kept / "registry", registry.root)
    (model,) = list_models(registry)
    return model.version


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_champion_predicts_with_nothing_but_the_registry(
    mhim: Callable[..., Any],
    refused: Callable[..., str],
    painted: Any,
    painted_model: str,
    registry: LocalStorage,
    tmp_path: Path,
) -> None:
    out, where = tmp_path / "predictions", f"registry={registry.uri}"
    words = ("predict", "model=lung@champion", where, f"cohort={painted.new}", f"out={out}", "max_heatmaps=1")
    assert "lung has no champion" in refused(*words)
    assert mhim("model", "promote", "lung", f"version={painted_model}", where).code == 0
    ended = mhim(*words)
    assert ended.code == 0, ended
    assert f"3 slides predicted by lung@{painted_model} (2 models)" in ended.out
    assert (out / "features").is_dir()
    card = read_model_folder(registry, "lung", painted_model).card
    for row in read_rows(out):
        assert (row["model"], row["version"], row["encoder"]) == ("lung", painted_model, "hed-texture")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row["predicted_at"])
        probability = float(row["probability_tumour"])
        assert row["decision"] == ("tumour" if probability >= card.threshold else "normal")  # type: ignore[operator]
        assert float(row["calibrated_tumour"]) + float(row["calibrated_normal"]) == pytest.approx(1)
        assert np.sign(float(row["calibrated_tumour"]) - 0.5) == np.sign(probability - 0.5)
    assert [row["predicted"] for row in read_rows(out)] == ["normal", "tumour", "normal"]
    assert "slide_ids" not in read_rows(out)[0], "a row is of one slide"
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "reports" not in path.parts}
    again = mhim(*words)
    assert again.code == 0
    for path, data in written.items():
        assert path.read_bytes() == data, f"{path} was computed anew"


def test_a_run_and_the_model_made_of_it_predict_the_same(
    mhim: Callable[..., Any], painted: Any, painted_model: str, registry: LocalStorage, kept: Path, tmp_path: Path
) -> None:
    words = (f"registry={registry.uri}", f"cohort={painted.new}", f"out={tmp_path / 'out'}", "max_heatmaps=0")
    assert mhim("predict", f"model=lung@{painted_model}", *words).code == 0
    other = {"run", "model", "version", "predicted_at"}
    by_run, by_model = (
        [{key: value for key, value in row.items() if key not in other} for row in read_rows(folder)]
        for folder in (kept / "by-run", tmp_path / "out")
    )
    assert by_run == by_model
    assert "run" in read_rows(kept / "by-run")[0]


def test_whoever_predicts_the_whole_cohort_is_told_nothing_of_how_the_holdout_fares(
    mhim: Callable[..., Any], painted: Any, painted_model: str, registry: LocalStorage, tmp_path: Path
) -> None:
    words = ("predict", f"model=lung@{painted_model}", f"registry={registry.uri}", "max_heatmaps=0")
    words = (*words, f"cohort={painted.new}", f"out={tmp_path / 'out'}", f"store={tmp_path / 'store'}")
    before = mhim(*words)
    assert "3 of them are labelled and new to the models: AUROC" in before.out
    task = read_model_folder(registry, "lung", painted_model).card.task
    cohort_input = load_cohort(str(painted.new))
    sources = {task.slide_id: slide_identity(task) for task in cohort_input.tasks()}
    freeze_all(registry, cohort_input.cohort.rows, task, sources)
    for _ in range(2):  # the second time nothing is computed
        ended = mhim(*words)
        assert ended.code == 0, ended
        assert "3 labelled slides are of the frozen holdout of lung" in ended.out
        assert "AUROC" not in ended.out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["metrics"] is None
    assert len(read_rows(tmp_path / "out")) == 3, "they are predicted all the same"
    page = (tmp_path / "out/report.html").read_text()
    assert "3 labelled slides are of the frozen holdout of lung" in page


def freeze_all(registry: LocalStorage, rows: Any, task: Any, sources: Any) -> None:
    """As `registry.holdout.freeze` would, without leaving anybody to train on."""
    slides = [
        HoldoutSlide(
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            label=row.label,
            time=None,
            event=None,
            source=sources[row.slide_id],
        )
        for row in rows
    ]
    made = Holdout(name="lung", task=task, options=HoldoutOptions(), slides=tuple(slides))
    assert registry.put_if_absent("holdouts/lung/holdout.json", made.to_bytes())
    assert read_holdout(registry, "lung") == made


def test_predictions_of_two_models_are_not_mixed_and_a_damaged_one_predicts_nothing(
    mhim: Callable[..., Any],
    refused: Callable[..., str],
    painted: Any,
    painted_model: str,
    registry: LocalStorage,
    tmp_path: Path,
) -> None:
    out, where = tmp_path / "predictions", f"registry={registry.uri}"
    words = ("predict", f"model=lung@{painted_model}", where, f"cohort={painted.new}", "max_heatmaps=0")
    assert mhim(*words, f"out={out}").code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["by"] == {"model": "lung", "version": painted_model}
    for by, reason in (
        ({"model": "lung", "version": "0ther"}, "out=, or model=lung@0ther to go on with that version"),
        ({"model": "liver", "version": "0ther"}, "predictions by liver@0ther, and these are to be by lung@"),
        ({"run": "f" * 64}, "predictions by another run, and these are to be by lung@"),
    ):
        (out / "summary.json").write_text(json.dumps(summary | {"by": by}))
        assert reason in (message := refused(*words, f"out={out}", code=5))
        assert "choose another out=" in message
    member = next(entry.key for entry in registry.list("models") if entry.key.endswith(".safetensors"))
    registry.put(member, registry.get(member)[:-1] + b"\0")
    ended = mhim(*words, f"out={tmp_path / 'other'}")
    assert ended.code == 1
    assert "does not have the sha256 its card names" in ended.err
    assert not (tmp_path / "other/predictions.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give run=, a training run, or model="),
        (("run=r", "model=lung@champion", "registry=g"), "one of the two"),
        (("model=lung@champion",), "needs registry="),
        (("model=lung", "registry=g"), "write model=lung@champion"),
        (("model=lung@newest", "registry=g"), "neither champion nor a version"),
        (("model=lung@champion", "registry=g"), "lung has no champion"),
    ],
)
def test_a_prediction_says_which_models_or_is_refused(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("predict", "cohort=c", "out=o", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_promotion_that_meets_another_is_a_conflict(
    refused: Callable[..., str],
    trained: Callable[..., Path],
    register: Callable[..., str],
    registry: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mhim_core.registry.promotions import promote

    first, second = register(trained("method=plain")), register(trained("method=plain", "seed=7"))
    put = LocalStorage.put_if_absent

    def racing(self: LocalStorage, key: str, data: bytes) -> bool:
        monkeypatch.setattr(LocalStorage, "put_if_absent", put)
        promote(registry, "lung", second, base=0, by_flow="retrain")
        return put(self, key, data)

    monkeypatch.setattr(LocalStorage, "put_if_absent", racing)
    message = refused("model", "promote", "lung", f"version={first}", f"registry={registry.uri}", code=5)
    assert f"{second} became champion (number 1) at the same moment" in message
    now = champion(registry, "lung")
    assert now is not None
    assert now.version == second
