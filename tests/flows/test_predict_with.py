"""predict_with=: which of a fold's models is evaluated as the reported one, registered and asked for predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows import report
from flows.config.commands import ReportConfig
from flows.config.keys import ChosenModel
from flows.engine.records import StepOutput
from flows.lifecycle import gate_steps
from flows.mlflow_mirror.documents import mirror_of_run
from flows.prediction.packaging import package_run
from flows.prediction.predictor import held_out, predictor_of_model, predictor_of_package, predictor_of_run
from flows.retrain import champion_keys
from flows.runs import evaluation
from flows.runs.evaluation import VALIDATION_KEY, read_held_out
from flows.runs.folder import read_run
from flows.runs.warm_start import find_start
from mhim_core.evaluation.calibration import temperatures, thresholds
from mhim_core.registry.changes import changes
from mhim_core.registry.models import list_models, read_model_folder
from mhim_core.storage import LocalStorage
from mhim_core.store.attention import decode_attention
from mhim_core.train.prediction import PredictWith

TRAINING = ("epochs=2", "embed_dim=8", "patience=0", "learning_rate=0.01")
NAMES = {"student": "mhim", "teacher": "mhim teacher", "plain": "plain", "pair": "pair"}
Mhim = Callable[..., Any]


class KilledError(Exception):
    pass


@pytest.fixture
def train(
    mhim: Mhim,
    train_here: None,
    made_store: Callable[..., str],
    cohort_rows: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., Any]:
    """train("run", …) → how the training into that folder ended, of twelve slides."""
    rows = cohort_rows(normal=6, tumour=6)
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])
    return lambda out, *words: mhim("train", f"cohort={table}", store, f"out={tmp_path / out}", *TRAINING, *words)


def logits_of(folder: Path, model: str, key: str = "evaluation/predictions.parquet") -> dict[tuple[str, int], Any]:
    rows = read_held_out(read_run(str(folder)), key)
    return {(row.bag_id, row.fold): np.array(row.logits) for row in rows if row.model == model}


def test_a_finished_run_is_evaluated_registered_and_predicts_with_each_of_its_models(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path
) -> None:
    assert train("run", "folds=2").code == 0
    folder, registry = tmp_path / "run", LocalStorage(tmp_path / "registry")
    predictions, versions = {}, {}
    for choice, name in NAMES.items():
        word = f"predict_with={choice}"
        evaluated = mhim("evaluate", f"run={folder}", word, "bootstrap_replicates=0")
        assert evaluated.code == 0, evaluated
        metrics = json.loads((folder / "evaluation/metrics.json").read_text())
        others = {"mhim", "mhim teacher", "plain"}
        assert (metrics["reported"], {*metrics["models"]}) == (name, others | {name})

        run = read_run(str(folder), predict_with=PredictWith(choice))
        validation = [row for row in read_held_out(run, VALIDATION_KEY) if row.model == name]
        words = ("lung", f"run={folder}", f"registry={registry.uri}", word)
        assert mhim("model", "register", *words).code == 0
        (version,) = {model.version for model in list_models(registry, "lung")} - {*versions.values()}
        versions[choice] = version
        card = read_model_folder(registry, "lung", version).card
        chosen = [(member.temperature, member.threshold) for member in card.members]
        expected = zip(temperatures(validation).values(), thresholds(validation).values(), strict=True)
        assert chosen == [pytest.approx((warmth.value, limit.value)) for warmth, limit in expected]
        assert card.estimate["pooled"] == metrics["models"][name]["pooled"]
        assert len(card.files) == (4 if choice == "pair" else 2)
        by_run, by_model = (
            held_out(predictor, run.bags, run.bag_source())
            for predictor in (predictor_of_run(run), predictor_of_model(registry, f"lung@{version}"))
        )
        assert [row.logits for row in by_run] == [row.logits for row in by_model]
        predictions[choice] = [row.logits for row in by_run]
    assert len({str(values) for values in predictions.values()}) == 4, "each predicts otherwise"
    student, plain, pair = (logits_of(folder, name) for name in ("mhim", "plain", "pair"))
    assert student.keys() == plain.keys() == pair.keys()
    for key, logits in pair.items():
        odds = [np.exp(model[key][1] - model[key][0]) for model in (student, plain)]
        assert logits[1] - logits[0] == pytest.approx(np.log(np.mean(odds)), rel=1e-9)

    decoded = decode_attention((folder / "evaluation/attention/normal0.parquet").read_bytes())
    np.testing.assert_allclose(decoded.attention, (decoded.parts["student"] + decoded.parts["plain"]) / 2, rtol=1e-6)
    cards = {choice: read_model_folder(registry, "lung", version).card for choice, version in versions.items()}
    between = changes(cards["student"], cards["pair"])
    assert ("predict_with", "student", "pair") in between
    keys = {choice: champion_keys(predictor_of_model(registry, f"lung@{versions[choice]}")) for choice in NAMES}
    assert {choice: values["predict_with"] for choice, values in keys.items()} == {
        choice: PredictWith(choice) for choice in NAMES
    }


def test_a_run_keeps_how_it_was_trained_to_predict(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "predict_with=pair", "folds=1").code == 0
    ended = train("run", "folds=1", "predict_with=student")
    assert ended.code == 5
    assert "predict_with: pair there, student here" in ended.err
    folder = tmp_path / "run"
    assert mhim("evaluate", f"run={folder}", "bootstrap_replicates=0").code == 0
    assert mhim("report", f"run={folder}", "max_heatmaps=1").code == 0
    page = (folder / "report.html").read_text()
    assert page.count('alt="Attention') == 4, "the mean, also at the top, and both of which it is"
    assert r"predict\_with: pair" in (folder / "MODEL_CARD.md").read_text()
    other = tmp_path / "other"
    assert train("other", "folds=1").code == 0
    assert "prediction" not in json.loads((other / "run.json").read_text())["identity"]
    plain = [path.read_bytes() for path in sorted(folder.rglob("fits/**/*.safetensors"))]
    assert plain == [path.read_bytes() for path in sorted(other.rglob("fits/**/*.safetensors"))], "no fit depends on it"
    pair_run, overridden = read_run(str(folder)), read_run(str(other), predict_with=PredictWith.pair)
    assert package_run(pair_run).card.recipe == package_run(overridden).card.recipe
    assert "predict_with" not in predictor_of_run(pair_run).origin
    assert predictor_of_run(overridden).origin["predict_with"] == "pair"
    asked = mhim("compare", f"runs={other}", "models=mhim,pair", f"out={tmp_path / 'ab'}", "bootstrap_replicates=0")
    assert asked.code == 0, asked
    start: Any = SimpleNamespace(warm_start=str(folder), store="")
    find_start(start, [2021])
    assert "starts from its student" in capsys.readouterr().out
    converted = mhim("convert", f"run={folder}", "stage=plain", f"out={tmp_path / 'plain.pt'}")
    assert converted.code == 0, converted
    assert "stage=mhim" in converted.out


def test_a_model_without_its_stage_1_file_or_its_teacher_does_not_predict(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    from mhim_core.errors import IntegrityError

    assert train("run", "folds=1").code == 0
    run = read_run(str(tmp_path / "run"), predict_with=PredictWith.pair)
    packaged = package_run(run)
    assert len(predictor_of_package(packaged, "lung").voters) == 1
    plain_file = packaged.card.members[0].plain_file
    as_teacher = package_run(read_run(str(tmp_path / "run"), predict_with=PredictWith.teacher))
    (file,) = as_teacher.files
    as_teacher.files[file] = packaged.files[plain_file]
    with pytest.raises(IntegrityError, match="teacher"):
        _ = predictor_of_package(as_teacher, "lung").voters


@pytest.mark.parametrize(
    "words", [("method=plain", "predict_with=pair"), ("method=plain", "predict_with=teacher"), ("predict_with=both",)]
)
def test_what_a_training_cannot_predict_with_is_refused_before_it_starts(
    train: Callable[..., Any], words: tuple[str, ...]
) -> None:
    ended = train("run", "folds=1", *words)
    assert ended.code == 2
    assert "predict_with" in ended.err


def test_a_run_of_stage_1_alone_has_one_model(train: Callable[..., Any], mhim: Mhim, tmp_path: Path) -> None:
    assert train("run", "method=plain", "folds=1", "predict_with=plain").code == 0
    assert "prediction" not in json.loads((tmp_path / "run/run.json").read_text())["identity"]
    refused = mhim("evaluate", f"run={tmp_path / 'run'}", "predict_with=pair")
    assert refused.code == 2
    assert "predict_with=pair" in refused.err


def test_an_evaluation_by_another_model_that_is_cut_short_does_not_pass_for_the_one_before(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("run", "folds=1").code == 0
    folder = tmp_path / "run"
    judge = ("evaluate", f"run={folder}", "bootstrap_replicates=0")
    assert mhim(*judge).code == 0
    before = {path: path.read_bytes() for path in (folder / "evaluation").rglob("*") if path.is_file()}

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "summarise", killed)
        with pytest.raises(KilledError):
            evaluation.ensure_evaluated(read_run(str(folder), predict_with=PredictWith.pair))
    assert any(path.read_bytes() != data for path, data in before.items() if path.parent.name == "attention")
    assert mhim(*judge).code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_page_of_another_model_that_is_cut_short_does_not_pass_for_the_one_before(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("run", "folds=1").code == 0
    folder = tmp_path / "run"
    show = ("report", f"run={folder}", "max_heatmaps=0")
    assert mhim(*show).code == 0
    before = (folder / "report.html").read_bytes()

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_resolved", killed)
        with pytest.raises(KilledError):
            report.run(ReportConfig(run=str(folder), chosen=ChosenModel(predict_with=PredictWith.pair)))
    assert (folder / "report.html").read_bytes() != before
    assert mhim(*show).code == 0
    assert (folder / "report.html").read_bytes() == before


def test_what_is_mirrored_is_the_evaluation_that_there_is_and_what_the_run_reports_has_no_prefix(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path
) -> None:
    assert train("run", "folds=1", "predict_with=pair").code == 0
    uri, others = str(tmp_path / "run"), {"plain/auroc", "mhim/auroc", "mhim teacher/auroc"}
    for choice, own in (("student", set()), ("pair", {"auroc"})):  # the first evaluation has no figures of the pair
        assert mhim("evaluate", f"run={uri}", f"predict_with={choice}", "bootstrap_replicates=0").code == 0
        (part,) = [part for part in mirror_of_run(read_run(uri)).runs[0].parts if part.name == "evaluation"]
        aurocs = {point.name for point in part.metrics if point.name.rpartition("/")[2] == "auroc"}
        assert aurocs == others | own
    student = read_run(uri, predict_with=PredictWith.student)
    (part,) = [part for part in mirror_of_run(student).runs[0].parts if part.name == "evaluation"]
    assert {"auroc", "pair/auroc"} <= {point.name for point in part.metrics}


def test_a_flow_registers_the_figures_of_the_model_that_predicts_though_another_was_evaluated_since(
    train: Callable[..., Any], mhim: Mhim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("run", "folds=1").code == 0
    uri, estimates = str(tmp_path / "run"), []
    assert mhim("evaluate", f"run={uri}", "predict_with=pair", "bootstrap_replicates=0").code == 0

    def packaged(*_: Any, estimate: dict[str, Any], **__: Any) -> None:
        estimates.append(estimate["pooled"])
        raise KilledError

    monkeypatch.setattr(gate_steps, "package_run", packaged)
    unused: Any = SimpleNamespace(name="lung", place=SimpleNamespace(flow="pipeline"))
    before = {name: StepOutput(places={name: uri}) for name in ("train", "final")}
    call: Any = SimpleNamespace(before=before)
    with pytest.raises(KilledError):
        gate_steps.register_step(unused, unused, unused, unused).work(call)
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert metrics["reported"] == "pair"
    assert estimates == [metrics["models"]["mhim"]["pooled"]]
