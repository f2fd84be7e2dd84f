"""Several workers: the same models as one, and no rank left behind."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from mhim_core.errors import MhimError, StorageError
from mhim_core.storage import LocalStorage
from mhim_core.train.context import SingleProcess, from_rank_zero
from mhim_core.train.loop import run_fits
from mhim_core.train.plan import TrainPlan
from mhim_core.train.results import read_model, read_result

WORKER = Path(__file__).with_name("worker.py")


def run_workers(folder: Path, plan: TrainPlan, bags, num_workers: int = 2, fault: str = "") -> list[int]:  # type: ignore[no-untyped-def]
    folder.mkdir()
    (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
    safetensors.torch.save_file(bags.bags, folder / "bags.safetensors")
    command = [sys.executable, str(WORKER)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(num_workers), str(folder), fault],
            env=environment,
            stderr=None if not fault else subprocess.DEVNULL,
        )
        for rank in range(num_workers)
    ]
    try:
        return [worker.wait(timeout=400) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.fault(32)
def test_worker_processes_fit_what_one_worker_fits_to_the_last_bit(  # type: ignore[no-untyped-def]
    plan_of: Callable[..., TrainPlan], bags, tmp_path: Path
) -> None:
    # three workers on batches of two: one of them always has an empty share (two workers: the tests on a cluster)
    num_workers = 3
    plan = plan_of(global_batch=2, checkpoint_every_steps=3)
    run_fits(plan, bags, LocalStorage(tmp_path / "one"), SingleProcess())
    assert run_workers(tmp_path / "several", plan, bags, num_workers) == [0] * num_workers
    for name in ("seed-2021/fold-0/plain", "seed-2021/fold-0/mhim"):
        single, several = (LocalStorage(tmp_path / folder) for folder in ("one", "several/out"))
        expected, actual = read_result(single, name), read_result(several, name)
        assert expected is not None
        assert actual == expected, "the model's sha256 among them"
        assert read_model(several, actual) == read_model(single, expected)


@pytest.mark.fault(32)
def test_workers_that_drift_apart_are_stopped(plan_of: Callable[..., TrainPlan], bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    codes = run_workers(tmp_path / "several", plan_of(global_batch=2, drift_every=3), bags, fault="drift")
    assert 0 not in codes
    for rank in range(2):
        message = (tmp_path / f"several/error-{rank}").read_text()
        assert message.startswith("IntegrityError: fit seed-2021/fold-0/plain: after step 3 (epoch 1) 1 of 2 workers")
        assert "student/" in message


def test_an_error_of_rank_zero_reaches_every_rank(plan_of: Callable[..., TrainPlan], bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    codes = run_workers(tmp_path / "several", plan_of(), bags, fault="storage")
    assert 0 not in codes
    for rank in range(2):
        assert (tmp_path / f"several/error-{rank}").read_text().startswith("StorageError: cannot write")


def test_the_other_ranks_raise_the_error_of_rank_zero() -> None:
    sent: list[bytes] = []

    class Group(SingleProcess):
        world_size = 2

        def broadcast_bytes(self, data: bytes | None) -> bytes:
            if data is not None:
                sent.append(data)
            return sent[-1]

    def denied() -> bytes:
        raise StorageError("denied")

    def surprising() -> bytes:
        raise RuntimeError("surprise")

    first, second = Group(), Group()
    second.rank = 1
    for work, expected in ((denied, StorageError), (surprising, MhimError)):
        with pytest.raises((StorageError, RuntimeError)):
            from_rank_zero(first, work)
        with pytest.raises(expected, match=r"denied|surprise"):
            from_rank_zero(second, work)
    assert from_rank_zero(first, lambda: b"data") == from_rank_zero(second, lambda: b"") == b"data"
