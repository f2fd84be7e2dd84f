"""Ray Train's part: a group of workers that run one function, their process group, and the way their events come home.

The training itself is the core's; the workers write its results through a Storage, so nothing is reported to or
checkpointed by Ray Train, whose own checkpoints are neither atomic nor hashed.
"""

import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from cluster.session import Resources
from mhim_core.errors import MhimError
from mhim_core.train.context import ProcessGroupContext, SingleProcess, TrainContext

Event = TypeVar("Event")

_POLL_S = 0.5
_GROUP_TIMEOUT_S = 600
"""A rank that waits longer for the others fails, and the group is started again: no endless hang."""
MAX_GROUP_RESTARTS = 2
"""How often a group that lost a worker is started again; fits go on from their last checkpoint."""


class WorkerSpec(NamedTuple):
    """How many workers, and what each may use."""

    num_workers: int
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 2
    """Torch threads on a CPU: a constant of the command, since a sum's last bits depend on it."""


Work = Callable[[Any, TrainContext, Callable[[Any], None]], Any]
"""`work(payload, context, tell) -> value`, run on every worker; `tell` sends an event to the driver."""


def run_workers(
    work: Work, payload: Any, spec: WorkerSpec, cluster: Resources, scratch_uri: str, on_event: Callable[[Any], None]
) -> Any:
    """Run `work` on a group of workers; rank 0's value.

    `scratch_uri`: a place every node sees, which Ray Train checks before it starts (on one node a temporary folder
    serves). Raises what `work` raised where it is one of this project's errors; those are never retried.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources: dict[str, float] = {"CPU": 1}
    if spec.gpus_per_worker:
        resources["GPU"] = spec.gpus_per_worker
    with _scratch(cluster, scratch_uri) as storage, _relay(on_event) as relay:
        trainer = TorchTrainer(
            _run_on_worker,  # type: ignore[arg-type]
            train_loop_config={"work": work, "payload": payload, "spec": spec, "relay": relay},
            torch_config=TorchConfig(
                backend="nccl" if spec.gpus_per_worker >= 1 else "gloo", timeout_s=_GROUP_TIMEOUT_S
            ),
            scaling_config=ScalingConfig(
                num_workers=spec.num_workers, resources_per_worker=resources, use_gpu=spec.gpus_per_worker > 0
            ),
            run_config=RunConfig(
                name="group", failure_config=FailureConfig(max_failures=MAX_GROUP_RESTARTS), **storage
            ),
        )
        result = trainer.fit()
    outcome = pickle.loads(result.return_value)  # type: ignore[attr-defined]  # Train v2 has it, its stubs do not
    if isinstance(outcome, MhimError):
        raise outcome
    return outcome


def _run_on_worker(config: dict[str, Any]) -> bytes:
    """What every worker runs. This project's own errors come back as values: Ray would retry them in vain."""
    import ray
    import ray.train
    import torch

    spec: WorkerSpec = config["spec"]
    torch.set_num_threads(spec.threads_per_worker)
    device = ray.train.torch.get_device() if spec.gpus_per_worker else "cpu"
    single = ray.train.get_context().get_world_size() == 1
    context = SingleProcess(device) if single else ProcessGroupContext(device)

    def tell(event: Any) -> None:
        config["relay"].put.remote(event)

    try:
        value = config["work"](config["payload"], context, tell)
    except MhimError as error:
        value = error
    return pickle.dumps(value)


class _Relay:
    """An actor without resources that keeps events until the driver fetches them."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def put(self, event: Any) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events


@contextmanager
def _relay(on_event: Callable[[Any], None]) -> Iterator[Any]:
    """A relay whose events are handed to `on_event` in a thread of the driver while the block runs."""
    import ray

    relay = ray.remote(num_cpus=0)(_Relay).remote()
    done = threading.Event()

    def fetch() -> None:
        while True:
            last = done.wait(_POLL_S)
            for event in ray.get(relay.take.remote()):  # type: ignore[attr-defined]
                on_event(event)
            if last:
                return

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        done.set()
        thread.join(timeout=30)
        ray.kill(relay)  # type: ignore[arg-type]


@contextmanager
def _scratch(cluster: Resources, uri: str) -> Iterator[dict[str, Any]]:
    """Where Ray Train keeps its own notes: on one node a folder that is removed afterwards."""
    if cluster.num_nodes == 1:
        with tempfile.TemporaryDirectory(prefix="mhim-train-", ignore_cleanup_errors=True) as folder:
            yield {"storage_path": folder}
    elif uri.startswith("s3://"):
        import pyarrow.fs
        import s3fs

        handler = pyarrow.fs.FSSpecHandler(s3fs.S3FileSystem())
        yield {"storage_path": uri.removeprefix("s3://"), "storage_filesystem": pyarrow.fs.PyFileSystem(handler)}
    else:
        os.makedirs(uri, exist_ok=True)
        yield {"storage_path": uri}
