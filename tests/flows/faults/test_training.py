"""A training whose processes are ended by a signal: the next run, or this one, ends as if nothing had happened."""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.registry.promotions import Promotion, history
from mhim_core.storage import LocalStorage

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]

HOW = [signal.SIGKILL, signal.SIGTERM]
"""How a driver is ended."""
RESUMED = r"resumed: after epoch (\d+)(?: and \d+ of \d+ steps)?"


def results(run: Path) -> dict[str, bytes]:
    """Every file of the fits but those whose writer was killed before it gave them their name."""
    files = [path for path in run.glob("fits/**/*") if path.is_file() and not path.name.startswith(".tmp-")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def store(painted: Any, tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "store"
    embedded = run_here("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={folder}", "local_cpus=2")
    assert embedded.code == 0, embedded
    return folder


@pytest.fixture(scope="module")
def training(painted: Any, store: Path) -> tuple[str, ...]:
    """Long enough to be killed amid it, and saved after every epoch."""
    kind = ("folds=2", "epochs=60", "patience=0", "embed_dim=16", "checkpoint_every=1", "local_cpus=2")
    return ("train", f"cohort={painted.cohort}", f"store={store}", *kind)


@pytest.fixture(scope="module")
def uninterrupted(training: tuple[str, ...], store: Path, run_here: Callable[..., Any]) -> dict[str, bytes]:
    out = store.parent / "uninterrupted"
    ended = run_here(*training, f"out={out}")
    assert ended.code == 0, ended
    return results(out)


@pytest.mark.thorough
@pytest.mark.fault(31, 50)
@pytest.mark.parametrize("kind", HOW, ids=str)
def test_a_training_killed_half_way_resumes_and_ends_in_the_same_models(
    training: tuple[str, ...],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    killed_when: Callable[..., None],
    run_here: Callable[..., Any],
    kind: signal.Signals,
) -> None:
    out = tmp_path / "run"
    half_way = out / "fits/seed-2021/fold-0/mhim/attempts"
    killed_when(
        lambda: list(half_way.glob("*/epoch-0005.json")),
        *training,
        f"out={out}",
        and_all_below=kind is signal.SIGKILL,
        kind=kind,
    )
    assert not (out / "fits/seed-2021/fold-0/mhim/result.json").exists()
    ended = run_here(*training, f"out={out}")
    assert ended.code == 0, ended
    assert "seed-2021/fold-0/plain: adopted" in ended.err
    resumed = re.search(rf"^seed-2021/fold-0/mhim: {RESUMED}$", ended.err, re.MULTILINE)
    assert resumed, ended.err
    assert 5 <= int(resumed[1]) < 60
    assert results(out) == uninterrupted


@pytest.mark.thorough
@pytest.mark.fault(31)
def test_a_worker_killed_amid_training_is_replaced_and_the_models_are_the_same(
    training: tuple[str, ...],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    killing: Callable[..., Any],
    run_mhim: Callable[..., Any],
) -> None:
    out = tmp_path / "run"
    fifth_epoch = "fits/seed-2021/fold-0/mhim/attempts/*/epoch-0005.json"
    with killing("RayTrainWorker", lambda: list(out.glob(fifth_epoch))) as killed:
        ended = run_mhim(*training, f"out={out}")
    assert killed
    assert ended.code == 0, ended
    assert "seed-2021/fold-0/mhim: resumed" in ended.err
    assert results(out) == uninterrupted


@pytest.fixture(scope="module")
def champion(painted: Any, store: Path, run_here: Callable[..., Any]) -> Path:
    """A registry with a first model, a store, and a table that has grown by three slides, embedded already."""
    world = store.parent / "champion"
    shutil.copytree(store, world / "store")
    grown = world / "grown.csv"
    lines = painted.cohort.read_text() + "".join(painted.new.read_text().splitlines(keepends=True)[1:])
    grown.write_text(lines.replace(",s", f",{painted.cohort.parent}/s"))
    quick = ("encoder=hed-texture", "epochs=40", "patience=0", "folds=2", "embed_dim=8", "method=plain")
    names = (f"registry={world}/registry", "name=paint", "gate_floor=0", "max_heatmaps=0", f"out={world}/runs")
    said = run_here("pipeline", f"cohort={painted.cohort}", f"store={world}/store", *quick, *names)
    assert said.code == 0, said
    said = run_here("embed", f"cohort={grown}", f"store={world}/store", "encoder=hed-texture")
    assert said.code == 0, said
    return world


def retraining(world: Path) -> tuple[str, ...]:
    places = (f"cohort={world}/grown.csv", f"store={world}/store", f"registry={world}/registry", "name=paint")
    return ("retrain", *places, "gate_delta=1", "gate_brier_epsilon=1", "checkpoint_every=1", "local_cpus=2")


def promotions(world: Path) -> list[Promotion]:
    return history(LocalStorage(world / "registry"), "paint")


@pytest.mark.thorough
@pytest.mark.fault(31, 50)
def test_a_retraining_that_is_told_to_stop_goes_on_when_run_again_and_promotes_the_same_model_once(
    champion: Path,
    tmp_path: Path,
    killed_when: Callable[..., None],
    run_here: Callable[..., Any],
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for world in (whole, stopped):
        shutil.copytree(champion, world)
    assert run_here(*retraining(whole)).code == 0
    epochs = "registry/runs/paint/train-*/fits/*/fold-0/plain/attempts/*/epoch-0005.json"
    killed_when(lambda: list(stopped.glob(epochs)), *retraining(stopped), kind=signal.SIGTERM)
    assert not list(stopped.glob("registry/runs/paint/train-*/fits/*/fold-0/plain/result.json"))
    assert promotions(stopped) == promotions(champion), "the champion stands"
    said = run_here(*retraining(stopped))
    assert said.code == 0, said
    assert re.search(rf"fold-0/plain: {RESUMED}$", said.err, re.MULTILINE), said.err
    assert [record.version for record in promotions(stopped)] == [record.version for record in promotions(whole)]
    assert len({record.version for record in promotions(stopped)}) == 2
