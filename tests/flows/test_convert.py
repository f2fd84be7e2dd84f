"""Published checkpoints through the command, both ways."""

import functools
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.mil import checkpoint_format, formats
from mhim_core.mil.formats.mhim_mil import from_published, to_published
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, FittedTask, Task, TaskKind
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model, save_model
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.results import FitResult
from mhim_core.types import BagId

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
CLASSES = "classes=normal,ductal,lobular"


def made(aggregator: str = "abmil", mhim: MhimOptions | None = None) -> MilModel:
    return build_model(10, 3, ModelOptions(aggregator=aggregator, embed_dim=16), mhim, seed=aggregator)


def published(path: Path, model: MilModel, **more: Any) -> Path:
    torch.save({"model": to_published(model.state_dict())} | more, path)
    return path


@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil"])
def test_a_published_checkpoint_becomes_a_model_file_and_comes_back(
    mhim: Callable[..., Any], tmp_path: Path, aggregator: str
) -> None:
    model = made(aggregator, MhimOptions(recycle_queries=3))
    theirs = published(tmp_path / "theirs.pt", model, epoch=7)
    ended = mhim("convert", f"checkpoint={theirs}", f"out={tmp_path / 'ours.safetensors'}", CLASSES)
    assert ended.code == 0, ended
    assert f"{aggregator}, D=16, 10 features per tile, 3 global queries" in ended.out
    loaded = load_model((tmp_path / "ours.safetensors").read_bytes())
    assert loaded.card.task.classes == ("normal", "ductal", "lobular")
    assert loaded.card.stage is Stage.mhim
    assert not loaded.card.append_recycled
    assert "published_checkpoint_sha256" in loaded.card.provenance
    x = torch.randn(9, 10)
    assert torch.equal(loaded.student(x).logits_C, model(x).logits_C)

    ended = mhim("convert", f"checkpoint={tmp_path / 'ours.safetensors'}", f"out={tmp_path / 'back.pt'}")
    assert ended.code == 0, ended
    first, back = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("theirs.pt", "back.pt"))
    assert set(first) == set(back)
    assert all(torch.equal(first[name], tensor) for name, tensor in back.items())


def test_activations_and_the_teacher_are_taken_over(mhim: Callable[..., Any], tmp_path: Path) -> None:
    student, teacher = made(), made()
    theirs = published(tmp_path / "v1.pth", student, teacher=to_published(teacher.state_dict()))
    out = tmp_path / "v1.safetensors"
    words = (f"checkpoint={theirs}", f"out={out}", CLASSES, "embed_activation=relu", "attention_activation=tanh")
    assert mhim("convert", *words).code == 0
    loaded = load_model(out.read_bytes())
    assert (loaded.card.model.embed_activation, loaded.card.model.attention_activation) == ("relu", "tanh")
    assert loaded.card.stage is Stage.plain
    assert loaded.teacher is not None
    # the same command again finds its file; another content there is not replaced
    assert mhim("convert", *words).code == 0
    assert mhim("convert", *words[:-1]).code == 5


@pytest.fixture
def run_of_fits(tmp_path: Path) -> list[FitResult]:
    """Two folds, both stages, one epoch, in tmp_path/run."""
    x = {BagId(f"bag-{index}"): torch.randn(6, 10) for index in range(8)}

    class Bags:
        dim = 10

        def lengths(self) -> dict[BagId, int]:
            return dict.fromkeys(x, 6)

        def read(self, bag_id: BagId) -> torch.Tensor:
            return x[bag_id]

    task = Task(kind=TaskKind.classification, classes=("a", "b"))
    bags = tuple(LabelledBag(bag_id, ClassTarget(index % 2)) for index, bag_id in enumerate(x))
    folds = [FoldBags(0, bags[:4], bags[4:]), FoldBags(1, bags[4:], bags[:4])]
    plan = TrainPlan(
        fits=plan_fits(folds, Stage.mhim, task, [2021]),
        d_in=10,
        task=task,
        model=ModelOptions(embed_dim=16),
        mhim=MhimOptions(),
        fit=FitOptions(epochs=1),
    )
    return run_fits(plan, Bags(), LocalStorage(tmp_path / "run"), SingleProcess())


def test_a_runs_fit_is_written_with_its_teacher(
    mhim: Callable[..., Any], refused: Callable[..., str], run_of_fits: list[FitResult], tmp_path: Path
) -> None:
    source = f"run={tmp_path / 'run'}"
    message = refused("convert", source, "fold=1", f"out={tmp_path / 'fit.pt'}")
    assert all(word in message for word in ("2 finished fits", "fold=", "seed=", "stage="))
    assert "seed-2021/fold-1/mhim" in message
    assert "0 finished fits" in refused("convert", source, "fold=5", f"out={tmp_path / 'fit.pt'}")
    assert mhim("convert", source, "fold=1", "stage=mhim", f"out={tmp_path / 'fit.pt'}").code == 0
    result = next(result for result in run_of_fits if (result.fold, result.stage) == (1, Stage.mhim))
    loaded = load_model((tmp_path / "run" / result.model_key).read_bytes())
    written = torch.load(io.BytesIO((tmp_path / "fit.pt").read_bytes()), weights_only=True)
    assert set(written) == {"model", "teacher"}
    for key, model in (("model", loaded.student), ("teacher", loaded.teacher)):
        assert model is not None
        state = from_published(written[key])
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_what_cannot_be_converted_is_refused_in_a_sentence(refused: Callable[..., str], tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs.pt", made())
    foreign = tmp_path / "foreign.pt"
    torch.save({"resnet.conv1.weight": torch.zeros(3)}, foreign)
    out = f"out={tmp_path / 'model.safetensors'}"
    assert "unknown tensors ['resnet.conv1.weight']" in refused("convert", f"checkpoint={foreign}", out, CLASSES)
    assert "classes=a,b are 2, the checkpoint has 3 outputs" in refused(
        "convert", f"checkpoint={theirs}", out, "classes=a,b"
    )
    assert "classes= is needed" in refused("convert", f"checkpoint={theirs}", out)
    assert "is not there" in refused("convert", f"checkpoint={tmp_path / 'gone.pt'}", out, CLASSES)
    assert "give checkpoint=" in refused("convert", out)
    assert "a published .pt becomes a .safetensors" in refused(
        "convert", f"checkpoint={theirs}", f"out={tmp_path / 'x.pt'}", CLASSES
    )
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    assert "not a model file" in refused(
        "convert", f"checkpoint={tmp_path / 'no.safetensors'}", f"out={tmp_path / 'x.pt'}"
    )
    assert not (tmp_path / "x.pt").exists()


def test_a_model_that_was_never_published_is_refused(
    mhim: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    options = ModelOptions(aggregator="clam-sb", embed_dim=16)
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=0,
        d_in=10,
        task=FittedTask(kind=TaskKind.classification, classes=("a", "b")),
        precision=Precision.float32,
        model=options,
        mhim=None,
    )
    file = tmp_path / "clam.safetensors"
    file.write_bytes(save_model(card, build_model(10, 2, options, seed="s").state_dict()))
    message = refused("convert", f"checkpoint={file}", f"out={tmp_path / 'x.pt'}")
    assert "not the weights of a published model" in message


def test_an_export_written_as_contributing_shows_is_a_format_of_the_command(
    mhim: Callable[..., Any],
    refused: Callable[..., str],
    run_of_fits: list[FitResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Adding an export\n")[2].partition("\n## ")[0]
    example = re.search(r"```python\n# mhim_core/mil/formats/(\w+)\.py\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (tmp_path / f"{example.group(1)}.py").write_text(example.group(2))
    words = ("convert", "format=numpy", f"run={tmp_path / 'run'}", "fold=1", "stage=mhim")
    assert "format=numpy is not one of mhim-mil" in refused(*words, f"out={tmp_path / 'fit.npz'}")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    read_anew = functools.cache(checkpoint_format._registered.__wrapped__)
    monkeypatch.setattr(checkpoint_format, "_registered", read_anew)
    assert checkpoint_format.formats_to_write()["numpy"] == (".npz",)
    assert f"{formats.__name__}.{example.group(1)}" not in sys.modules, "--help reads the name alone"
    assert "becomes a .npz" in refused(*words, f"out={tmp_path / 'fit.pt'}")
    for _ in range(2):  # equal bytes, or the second call would find another file there
        assert mhim(*words, f"out={tmp_path / 'fit.npz'}").code == 0
    result = next(result for result in run_of_fits if (result.fold, result.stage) == (1, Stage.mhim))
    state = load_model((tmp_path / "run" / result.model_key).read_bytes()).student.state_dict()
    with np.load(tmp_path / "fit.npz") as arrays:
        assert set(arrays) == set(state)
        assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in state.items())


def test_a_format_that_is_only_read_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    words = ("convert", "format=clam", f"checkpoint={tmp_path / 'x.safetensors'}", f"out={tmp_path / 'x.pt'}")
    assert "format=clam is not one of mhim-mil" in refused(*words)
