"""mhim pipeline: one command from table to page, with or without a registry; what stands in its way is said first."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.commands import TrainConfig
from flows.config.flat import from_keys
from flows.config.words import parse
from flows.lifecycle.training_steps import keys_identity
from flows.prediction.predictor import predictor_of_model
from flows.retrain import champion_keys
from mhim_core.registry.promotions import champion
from mhim_core.storage import LocalStorage

Rows = list[dict[str, str]]
QUICK = ("epochs=1", "embed_dim=8", "folds=2", "max_heatmaps=0", "method=plain", "encoder=hed-texture")


@pytest.fixture
def pipeline(
    painted: Any, mhim: Callable[..., Any], embed_here: None, train_here: None, tmp_path: Path
) -> Callable[..., Any]:
    """pipeline("key=value", …) on the twelve painted slides; store= and out= are filled in."""

    def run(*words: str) -> Any:
        places = (f"cohort={painted.cohort}", f"store={tmp_path / 'store'}", f"out={tmp_path / 'runs'}")
        keys = {word.partition("=")[0] for word in words}
        quick = [word for word in QUICK if word.partition("=")[0] not in keys]
        return mhim("pipeline", *places, *quick, *words)

    return run


def test_from_table_to_page_to_champion_on_real_slides(
    pipeline: Callable[..., Any], mhim: Callable[..., Any], tmp_path: Path, painted: Any
) -> None:
    ended = pipeline()
    assert ended.code == 0, ended
    (page,) = tmp_path.glob("runs/train-*/report.html")
    assert f"page: {page}" in ended.out
    status = mhim("flow", "status", "pipeline", f"registry={tmp_path / 'runs'}").out
    assert [line.split()[:2] for line in status.splitlines()[1:]] == [
        [step, "done"] for step in ("embed", "train", "evaluate", "report")
    ]
    assert re.search(r"embed .* 12 slides, \d+ tiles, [\d,]+ bytes, [\d.]+ device-seconds", status)
    assert pipeline().code == 0
    assert len(list(tmp_path.glob("runs/train-*"))) == 1

    names = (f"registry={tmp_path / 'registry'}", "name=paint")
    refused = pipeline(*names, "gate_floor=1.5")
    assert refused.code == 0, "a first model under the floor is an answer"
    assert "there is no champion: floor: AUROC" in refused.out
    assert champion(LocalStorage(tmp_path / "registry"), "paint") is None
    passed = pipeline(*names, "gate_floor=0")
    assert passed.code == 0, passed
    assert "── embed: done" not in passed.out.partition("── holdout")[0], "another gate is another flow"
    assert "12 skipped" in passed.out
    assert "12 slides: 0 ok" in passed.out
    predicted = mhim(
        "predict", "model=paint@champion", names[0], f"cohort={painted.new}", f"store={tmp_path / 'store'}",
        f"out={tmp_path / 'new'}", "max_heatmaps=0",
    )  # fmt: skip
    assert predicted.code == 0, predicted
    other = pipeline(*names, "gate_floor=0", "seed=3")
    assert other.code == 5
    assert "paint has a champion" in other.err
    assert "mhim retrain" in other.err
    _check_keys_come_back(tmp_path)


def test_a_pipeline_that_was_moved_is_done_and_goes_on_in_its_new_place(
    mhim: Callable[..., Any], painted: Any, embed_here: None, train_here: None, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(painted.cohort.parent, old / "slides")

    def pipeline(project: Path, name: str = "paint") -> Any:
        places = {"cohort": f"slides/{painted.cohort.name}", "store": "store", "out": "runs", "registry": "registry"}
        words = [f"{key}={project / place}" for key, place in places.items()]
        return mhim("pipeline", *words, *QUICK, f"name={name}", "gate_floor=0")

    first = pipeline(old)
    assert first.code == 0, first
    steps = [line for line in first.out.splitlines() if line.startswith("── ")]
    old.rename(new)
    before = {path: path.read_bytes() for path in new.rglob("*") if path.is_file()}
    again = pipeline(new)
    assert again.code == 0, again
    lines = [line for line in again.out.splitlines() if line.startswith("── ")]
    assert [line.partition(": done")[0] for line in lines] == steps
    assert all(": done" in line for line in lines)
    assert str(old) not in again.out
    assert {path: path.read_bytes() for path in new.rglob("*") if path.is_file()} == before

    for step in ("report", "register"):  # cut off before them: they follow the places of earlier steps
        (record,) = new.glob(f"registry/flows/pipeline/paint/*/done/{step}-*.json")
        record.unlink()
    next(new.glob("runs/train-*/report.html")).unlink()
    resumed = pipeline(new)
    assert resumed.code == 0, resumed
    assert [*new.glob("runs/train-*/report.html")]
    assert not old.exists()


def _check_keys_come_back(tmp_path: Path) -> None:
    """The keys on a champion's card make the training that made it."""
    keys = champion_keys(predictor_of_model(LocalStorage(tmp_path / "registry"), "paint@champion"))
    places = {"cohort": "c", "store": "s", "out": "o"}
    words = [word for word in QUICK if word.partition("=")[0] not in ("max_heatmaps", "encoder")]
    typed = parse(TrainConfig, [*words, "cohort=c", "store=s", "out=o"], command="train")
    assert keys_identity(from_keys(TrainConfig, **keys, **places)) == keys_identity(typed)
    assert json.dumps(sorted(keys)) == json.dumps(sorted({*keys, "epochs", "folds", "val_fraction", "bags"}))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["registry=there"], "registry= and name= belong together"),
        (["name=lung"], "registry= and name= belong together"),
        (["registry=there", "name=a/b"], "cannot name a model"),
        (["registry=there", "name=lung", "scheme=final"], "scheme=final"),
        (["holdout_fraction=0"], "above 0 and below 1"),
        (["encoder=none-such"], "none-such"),
        (["teacher=there"], "only method=mhim has a teacher"),
        (["task=survival"], "no slide has both a time and an event"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    pipeline: Callable[..., Any], tmp_path: Path, words: list[str], reason: str
) -> None:
    ended = pipeline(*words)
    assert ended.code == 2, ended
    assert reason in ended.err
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "runs").exists()
