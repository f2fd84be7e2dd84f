"""Connecting to Ray: one of our own, the cluster of this job, or a cluster by its address."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mhim_core.errors import ConfigError

_HOST_PORT = re.compile(r"^[A-Za-z0-9._-]+:\d{1,5}$")


class Resources(NamedTuple):
    """What the connected cluster has."""

    num_nodes: int
    num_cpus: float
    num_gpus: float


def check_address(address: str) -> str:
    """The address itself. Raises ConfigError with advice where it is not `local`, `auto` or `host:port`."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"ray_address={address}: the Ray client is not supported; run this command on a node of the cluster with "
            "ray_address=host:6379, or submit it as a Ray job with ray_address=auto"
        )
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"ray_address={address} is a dashboard's address; submit the command there as a Ray job "
            "(`ray job submit --address … -- mhim … ray_address=auto`)"
        )
    if address not in ("local", "auto") and not _HOST_PORT.match(address):
        raise ConfigError(f"ray_address={address!r} is not local, auto or host:port (the port is usually 6379)")
    return address


@contextmanager
def ray_session(address: str, local_cpus: int | None = None) -> Iterator[Resources]:
    """Be connected while the block runs; an existing connection of this process is used and left as it is.

    Raises ConfigError where nothing answers at the address.
    """
    # idle OpenMP threads of the workers sleep instead of spinning: several processes share the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # set before ray is imported: Ray Train reads it at import, and its default of 2 s delays the end of every fit
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray

    owned = not ray.is_initialized()
    if owned:
        _connect(check_address(address), local_cpus)
    try:
        yield _resources()
    finally:
        if owned and not _keep_alive:
            ray.shutdown()


_keep_alive: list[bool] = []
"""Not empty inside `kept_alive`."""


@contextmanager
def kept_alive() -> Iterator[None]:
    """Sessions opened inside stay open for each other until the block ends; none is opened for it."""
    _keep_alive.append(True)
    try:
        yield
    finally:
        _keep_alive.pop()
        if "ray" in sys.modules:
            import ray

            ray.shutdown()


def _connect(address: str, local_cpus: int | None) -> None:
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes to the terminal otherwise
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        # address="local", since a bare init would try to join whatever a stopped cluster left behind
        cpus = local_cpus or len(os.sched_getaffinity(0))
        options |= {"address": "local", "include_dashboard": False, "num_cpus": cpus}
    else:
        options |= {"address": address, "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}}
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own deprecations and unclosed sockets are not the user's concern
        try:
            with _without_native_stderr():
                ray.init(**options)
        except (ConnectionError, TimeoutError) as error:
            first = str(error).strip().split("\n")[0]
            raise ConfigError(f"no Ray cluster answers at ray_address={address}: {first}") from error


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    """Ray's C++ side announces its own log level on file descriptor 2; errors of the connection are raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _resources() -> Resources:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    return Resources(len(nodes), total.get("CPU", 0.0), total.get("GPU", 0.0))
