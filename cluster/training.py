"""Ray Train's part: a group of workers that run one function, their process group, and the way their events come home.

The training itself is the core's; the workers write its results through a Storage, so nothing is reported to or
checkpointed by Ray Train, whose own checkpoints are neither atomic nor hashed.
"""

import logging
import os
import pickle
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from cluster.notices import end_as_told, hold_sigterm, is_terminated, notices
from cluster.relay import relay_to
from cluster.session import Resources, plain_errors
from mhim_core.errors import MhimError, StoppedError
from mhim_core.train.allocation import keep_freed_memory
from mhim_core.train.context import ProcessGroupContext, SingleProcess, TrainContext

Event = TypeVar("Event")

_GROUP_TIMEOUT_S = 600
"""A rank that waits longer for the others fails, and the group is started again: no endless hang."""
MAX_GROUP_RESTARTS = 2
"""How often a group that lost a worker is started again; fits go on from their last checkpoint."""
_STOP_S = 8.0
"""How long an interrupted command waits for its workers to save where they are. It has 20 s in all."""
_ASK_TIMEOUT_S = 2.0
MAX_START_TIMEOUTS = 14
"""How many starts of the group may wait for nodes, a minute each: new nodes take some, and Ray would wait for ever."""


class WorkerSpec(NamedTuple):
    """How many workers, and what each may use."""

    num_workers: int
    """The most, where there may be fewer."""
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 2
    """Torch threads on a CPU: a constant of the command, since a sum's last bits depend on it."""
    min_workers: int | None = None
    """The fewest to start with or to go on with; None: as many as `num_workers`."""
    grow_every_s: float = 900.0
    """Seconds, from the group's start on, between two looks for room for more workers. A group that grows is started
    again, and keeps what the work has saved: were this less than the time between two checkpoints, it might keep
    nothing each time."""


Work = Callable[[Any, TrainContext, Callable[[Any], None]], Any]
"""`work(payload, context, tell) -> value`, run on every worker; `tell` sends an event to the driver."""


Beside = Callable[[threading.Event], None]
"""Runs in a thread of the driver beside the work, until it is done or the event is set; its error ends the work."""


def run_workers(
    work: Work,
    payload: Any,
    spec: WorkerSpec,
    cluster: Resources,
    scratch_uri: str,
    on_event: Callable[[Any], None],
    beside: Beside | None = None,
) -> Any:
    """Run `work` on a group of workers; rank 0's value.

    `scratch_uri`: a place every node sees, which Ray Train checks before it starts (for a local Ray a temporary folder
    serves). Raises what `beside` raised, or `work` on any rank where that is one of this project's errors, which are
    never retried. A group that lost a worker is started again, with fewer where there is room for no more and
    `spec` allows it. MhimError where it did not come to an end even so, or where the cluster, of which a line tells
    what it lacks, had no room for the group within a quarter of an hour. Interrupted, it lets the workers save first.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources: dict[str, float] = {"CPU": 1}
    if spec.gpus_per_worker:
        resources["GPU"] = spec.gpus_per_worker
    fewest = spec.num_workers if spec.min_workers is None else spec.min_workers
    if shortage := cluster.shortage(fewest, spec.gpus_per_worker):
        print(shortage, flush=True)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # what it logs as errors is raised as well
    with _scratch(cluster, scratch_uri) as storage, relay_to(on_event) as relay, _watched(cluster):
        trainer = TorchTrainer(
            _run_on_worker,  # type: ignore[arg-type]
            train_loop_config={"work": work, "payload": payload, "spec": spec, "relay": relay},
            torch_config=_torch_config("nccl" if spec.gpus_per_worker >= 1 else "gloo"),
            scaling_config=ScalingConfig(  # type: ignore[call-arg]  # mypy sees the older Train here too
                num_workers=spec.num_workers if fewest == spec.num_workers else (fewest, spec.num_workers),  # type: ignore[arg-type]
                resources_per_worker=resources,
                use_gpu=spec.gpus_per_worker > 0,
                elastic_resize_monitor_interval_s=spec.grow_every_s,
            ),
            run_config=RunConfig(
                # a name of its own: Ray Train takes a name that it has seen for a run to resume
                name=f"group-{uuid.uuid4().hex}",
                failure_config=FailureConfig(
                    max_failures=MAX_GROUP_RESTARTS,
                    controller_failure_limit=MAX_START_TIMEOUTS,  # type: ignore[call-arg]  # it sees the older Train
                ),
                **storage,
            ),
        )
        with plain_errors("training"):
            result = _fit(trainer, beside, lambda: _told_to_stop(relay))
    outcome = pickle.loads(result.return_value)
    if isinstance(outcome, MhimError):
        raise outcome
    return outcome


def _torch_config(backend: str) -> Any:
    """Ray Train's, which also has every worker hold back SIGTERM; that takes its main thread, where no work is run."""
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class HoldingBackend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(hold_sigterm)

    class HoldingConfig(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return HoldingBackend

    return HoldingConfig(backend=backend, timeout_s=_GROUP_TIMEOUT_S)


def _fit(trainer: Any, beside: Beside | None = None, tell_stop: Callable[[], bool] = lambda: False) -> Any:
    """`trainer.fit()` in a thread: in the main one Ray Train takes Ctrl-C for itself and ends the process with 0.

    `tell_stop` asks the workers to save and end, and says whether they hear it.
    """
    stop = threading.Event()
    fitted = _in_thread(trainer.fit, "mhim-fit")
    try:
        if beside is not None:
            checked = _in_thread(lambda: beside(stop), "mhim-beside")
            wait((fitted, checked), return_when=FIRST_COMPLETED)
            if checked.done():
                checked.result()
        return fitted.result()
    except KeyboardInterrupt:
        if tell_stop():
            wait((fitted,), timeout=_STOP_S)
        raise
    finally:
        stop.set()


def _told_to_stop(relay: Any) -> bool:
    """Ask the workers to save and end; whether they hear it. A Ray that does not answer is not waited for."""
    import ray

    try:
        return bool(ray.get(relay.stop.remote(), timeout=_ASK_TIMEOUT_S))
    except ray.exceptions.RayError:
        return False


def _in_thread(function: Callable[[], Any], name: str) -> "Future[Any]":
    """Its value or error; a thread that ends with the process."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name=name).start()
    return future


def _run_on_worker(config: dict[str, Any]) -> bytes:
    """What every worker runs. This project's own errors come back as values: Ray would retry them."""
    import ray
    import ray.train
    import torch

    spec: WorkerSpec = config["spec"]
    torch.set_num_threads(spec.threads_per_worker)
    keep_freed_memory()
    device = ray.train.torch.get_device() if spec.gpus_per_worker else "cpu"
    relay, single = config["relay"], ray.train.get_context().get_world_size() == 1

    def tell(event: Any) -> None:
        relay.put.remote(event)

    with notices(relay, _is_preempted()) as notice:
        context = SingleProcess(device, notice) if single else ProcessGroupContext(device, notice)
        try:
            value = config["work"](config["payload"], context, tell)
        except Exception as error:
            if isinstance(error, StoppedError) and not ray.get(relay.is_stopping.remote()):
                if is_terminated():
                    end_as_told()
                raise RuntimeError("another worker was told to end; the group is started again") from error
            value = _own_error(error, relay)
            if value is None:
                raise
            if not single:  # the other ranks wait for this one: their connections break, and they ask the relay why
                torch.distributed.destroy_process_group()
    return pickle.dumps(value)


def _is_preempted() -> Callable[[], bool]:
    """Whether Ray has said that a machine of this group will be taken away; its public question is collective."""
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context
    return lambda: told.preemption_info is not None


def _own_error(error: Exception, relay: Any) -> MhimError | None:
    """The error of this project that ended the work, on this rank or the one it lost contact with; else None."""
    import ray

    if isinstance(error, MhimError):
        ray.get(relay.fail.remote(pickle.dumps(error)))
        return error
    failure: bytes | None = ray.get(relay.failure.remote())
    return None if failure is None else pickle.loads(failure)


@contextmanager
def _watched(cluster: Resources) -> Iterator[None]:
    """Without Ray Train's watcher of machines that are taken back, a process of its own, where the machine is this."""
    name = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    if not cluster.is_local or name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _scratch(cluster: Resources, uri: str) -> Iterator[dict[str, Any]]:
    """Where Ray Train keeps its own notes, none of which is needed afterwards."""
    if cluster.is_local:  # an attached cluster of one node may have two before the workers start
        with tempfile.TemporaryDirectory(prefix="mhim-train-", ignore_cleanup_errors=True) as folder:
            yield {"storage_path": folder}
    elif uri.startswith("s3://"):
        import pyarrow.fs
        import s3fs

        files = s3fs.S3FileSystem()
        path = uri.removeprefix("s3://")
        yield {
            "storage_path": path,
            "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files)),
        }
        files.invalidate_cache()
        if files.exists(path):
            files.rm(path, recursive=True)
    else:
        os.makedirs(uri, exist_ok=True)
        try:
            yield {"storage_path": uri}
        finally:
            shutil.rmtree(uri, ignore_errors=True)
