"""A group of workers: what the work returns, what it raises, and that no rank waits for one that gave up."""

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Resources, kept_alive, ray_session
from cluster.training import MAX_GROUP_RESTARTS, WorkerSpec, _fit, _scratch, run_workers
from mhim_core.errors import IntegrityError, MhimError

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Resources]:
    with kept_alive(), ray_session("local", local_cpus=2) as resources:
        yield resources


def test_rank_zero_s_value_comes_home_and_events_of_every_rank_in_order(cluster: Resources) -> None:
    def work(payload: int, context: Any, tell: Any) -> Any:  # within the test, so that it is sent as it is
        import torch

        total = torch.tensor([float(context.rank + payload)])
        context.all_reduce([total])
        for step in range(3):
            tell((context.rank, step))
        context.barrier()
        return context.rank, context.world_size, float(total), torch.get_num_threads()

    events: list[Any] = []
    spec = WorkerSpec(2, threads_per_worker=1)
    assert run_workers(work, 10, spec, cluster, "/nowhere", events.append) == (0, 2, 21.0, 1)
    for rank in range(2):
        assert [step for sender, step in events if sender == rank] == [0, 1, 2]


@pytest.mark.fault(34)
def test_an_error_of_one_rank_ends_the_others_soon_and_comes_home_without_another_try(cluster: Resources) -> None:
    def work(payload: None, context: Any, tell: Any) -> None:
        import torch

        from mhim_core.errors import IntegrityError

        tell(context.rank)
        context.barrier()
        if context.rank == 1:
            raise IntegrityError("slide s07: a flipped byte")
        context.all_reduce([torch.zeros(1)])

    ranks: list[int] = []
    start_s = time.monotonic()
    with pytest.raises(IntegrityError, match="slide s07: a flipped byte"):
        run_workers(work, None, WorkerSpec(2), cluster, "/nowhere", ranks.append)
    assert time.monotonic() - start_s < 60
    assert sorted(ranks) == [0, 1]


@pytest.mark.thorough
@pytest.mark.fault(34)
def test_a_rank_that_stands_still_ends_the_work_within_the_group_s_time(
    cluster: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.training._GROUP_TIMEOUT_S", 5)
    monkeypatch.setattr("cluster.training.MAX_GROUP_RESTARTS", 0)

    def work(payload: None, context: Any, tell: Any) -> None:
        import time

        import torch

        context.barrier()
        tell(time.time())
        if context.rank == 1:
            time.sleep(3600)
        context.all_reduce([torch.zeros(1)])

    begun: list[float] = []
    with pytest.raises(MhimError, match=r"^training ended with \w+"):
        run_workers(work, None, WorkerSpec(2), cluster, "/nowhere", begun.append)
    assert time.time() - max(begun) < 60


@pytest.mark.thorough
@pytest.mark.fault(34)
def test_a_rank_that_ends_while_the_others_wait_for_it_ends_the_work_within_the_group_s_time(
    cluster: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.training._GROUP_TIMEOUT_S", 5)
    monkeypatch.setattr("cluster.training.MAX_GROUP_RESTARTS", 0)

    def work(payload: None, context: Any, tell: Any) -> None:
        import torch

        if context.rank == 1:
            context.all_reduce([torch.zeros(1)])

    start_s = time.monotonic()
    with pytest.raises(MhimError, match=r"^training ended with \w+"):
        run_workers(work, None, WorkerSpec(2), cluster, "/nowhere", print)
    assert time.monotonic() - start_s < 60


@pytest.mark.thorough
@pytest.mark.fault(31, 32)
def test_a_worker_that_gets_sigterm_lets_all_save_and_the_group_starts_again_in_the_range(cluster: Resources) -> None:
    def work(payload: None, context: Any, tell: Any) -> int:
        import os
        import signal
        import time

        import torch

        from mhim_core.errors import StoppedError
        from mhim_core.train.context import Notice

        saved = torch.zeros(1)
        tell((context.rank, os.getpid()))
        context.barrier()
        if context.rank == 1 and not os.path.exists(payload):
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(200 if not os.path.exists(payload) else 0):
            time.sleep(0.1)
            saved[0] = context.notice() is Notice.stop
            context.all_reduce([saved])
            if saved > 0:
                context.barrier()
                open(payload, "w").close()
                raise StoppedError("saved")
        return context.world_size

    begun: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        # three would find no room
        spec = WorkerSpec(3, min_workers=1)
        assert run_workers(work, f"{folder}/saved", spec, cluster, "/nowhere", begun.append) == 2
    assert sorted(rank for rank, _ in begun) == [0, 0, 1, 1]


@pytest.mark.thorough
@pytest.mark.fault(50)
def test_an_interrupted_command_lets_its_workers_save_before_it_ends(cluster: Resources, tmp_path: Path) -> None:
    saved = tmp_path / "saved"

    def work(payload: str, context: Any, tell: Any) -> None:
        import time

        from mhim_core.errors import StoppedError
        from mhim_core.train.context import Notice

        tell("begun")
        for _ in range(600):
            time.sleep(0.05)
            if context.notice() is Notice.stop:
                open(payload, "w").close()
                raise StoppedError("saved")

    def interrupt(event: str) -> None:
        time.sleep(1.5)  # until the worker has asked for the first time
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_workers(work, str(saved), WorkerSpec(1), cluster, "/nowhere", interrupt)
    assert saved.exists()


class Training:
    """In the place of Ray's trainer: ends when it is told to."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def fit(self) -> str:
        assert self.end.wait(60)
        return "result"


def test_an_error_beside_the_training_ends_it_and_what_ends_well_does_not() -> None:
    training = Training()

    def damage(stop: threading.Event) -> None:
        raise IntegrityError("slide s07")

    with pytest.raises(IntegrityError, match="slide s07"):
        _fit(training, damage)
    training.end.set()

    other = Training()
    assert _fit(other, lambda stop: other.end.set()) == "result"


def test_what_runs_beside_the_training_is_told_that_it_is_over() -> None:
    training, over = Training(), threading.Event()
    training.end.set()

    def watch(stop: threading.Event) -> None:
        assert stop.wait(60)
        over.set()

    assert _fit(training, watch) == "result"
    assert over.wait(60)


@pytest.mark.thorough
def test_an_error_that_is_none_of_ours_is_tried_again_and_then_told_in_a_sentence(
    cluster: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_GROUP_RESTARTS == 2
    monkeypatch.setattr("cluster.training.MAX_GROUP_RESTARTS", 1)  # each start of a group takes seconds

    def work(payload: None, context: Any, tell: Any) -> None:
        tell("begun")
        raise ZeroDivisionError("by naught")

    begun: list[str] = []
    with pytest.raises(MhimError, match=r"^training ended with \w+: .*by naught.*; run again to go on$"):
        run_workers(work, None, WorkerSpec(1), cluster, "/nowhere", begun.append)
    assert len(begun) == 2


@pytest.mark.thorough
def test_a_group_that_finds_no_room_is_told_of_and_given_up(
    cluster: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.training.MAX_START_TIMEOUTS", 0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    attached = cluster._replace(is_local=False)
    with pytest.raises(MhimError, match=r"^training ended with \w+: .*startup timed out .* for 3 workers; run again"):
        run_workers(_nothing, None, WorkerSpec(3), attached, str(tmp_path / "ray"), print)
    assert capsys.readouterr().out == "waiting for CPUs: 3 are asked for, the cluster has 2\n"
    assert list(tmp_path.iterdir()) == []


def test_only_a_local_ray_keeps_train_s_notes_in_a_folder_of_its_own(cluster: Resources, tmp_path: Path) -> None:
    shared = tmp_path / "ray"
    with _scratch(cluster, str(shared)) as place:
        assert Path(place["storage_path"]).is_dir()
        assert not shared.exists()
    with _scratch(cluster._replace(is_local=False), str(shared)) as place:  # one node now, maybe two when it starts
        assert Path(place["storage_path"]) == shared
        assert shared.is_dir()
    assert not shared.exists()


def _nothing(payload: None, context: Any, tell: Any) -> None:
    raise AssertionError("this work was never to start")
