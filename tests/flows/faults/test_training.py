"""A training whose processes are ended by a signal: the next run, or this one, ends as if nothing had happened."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]

HOW = [signal.SIGKILL, signal.SIGTERM]
"""How a driver is ended."""


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
    resumed = re.search(r"^seed-2021/fold-0/mhim: resumed: after epoch (\d+)$", ended.err, re.MULTILINE)
    assert resumed, ended.err
    assert 5 <= int(resumed[1]) < 60
    assert results(out) == uninterrupted


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
