"""Connecting to Ray: a local one of this command, the cluster of this job, or a cluster at an address."""

import ipaddress
import itertools
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cluster.machine import check_threads, ensure_token, limit_in_the_way, object_store_folder, ray_folder
from mhim_core.errors import ConfigError, MachineError, MhimError

_HOST_PORT = re.compile(r"^[A-Za-z0-9._-]+:\d{1,5}$")
_PROBE_TIMEOUT_S = 5.0
_WATCH_END_S = 5.0
_WATCH_S = 1.0
_ASK_EVERY = 5
"""Probes of the ports for one question to the GCS, which lists all nodes."""
_OUT_OF_MEMORY = "killed due to memory pressure"
_TELL_OUT_OF_MEMORY = (
    "a node's memory was full, and Ray killed a process there, which is started again; ask for fewer actors or workers"
)
_RAYLET = "a process of Ray on this machine (the raylet, or its GCS)"


class Resources(NamedTuple):
    """Resources of the connected cluster; those of a cluster that is not local may grow."""

    num_nodes: int
    num_cpus: float
    num_gpus: float
    is_local: bool = True
    """A Ray of this command's own: one node, and no more of it will come."""

    def shortage(self, num_processes: int, gpus_each: float = 0.0) -> str | None:
        """What processes of one CPU and a GPU share each have to wait for, in a line; None: there is room."""
        room = self.num_cpus
        if gpus_each:
            room = min(room, num_shares(self.num_gpus, gpus_each))
        if room >= num_processes:
            return None
        if not gpus_each:
            return f"waiting for CPUs: {num_processes} are asked for, the cluster has {self.num_cpus:g}"
        asked = f"{num_processes} and {num_processes * gpus_each:g}"
        present = f"{self.num_cpus:g} and {self.num_gpus:g}"
        return f"waiting for CPUs and GPUs: {asked} are asked for, the cluster has {present}"


def num_shares(num_gpus: float, share: float) -> int:
    """How many processes find room on the GPUs, at `share` > 0 of one each; a share never spans two."""
    per_gpu = int(1 / share + 1e-9)  # 1 // 0.1 is 9
    return int(num_gpus) * per_gpu if per_gpu else int(num_gpus // share)


def check_fits_here(local_cpus: int | None, request: str, num_processes: int, gpus_each: float = 0.0) -> None:
    """ConfigError where a local Ray could never start as many processes, of one CPU and a GPU share each, together.

    `request` names the keys that ask for them. A Ray that was asked for more would wait for ever.
    """
    num_cpus = local_cpus or usable_cpus()
    advice = "ask for less, or set ray_address to a cluster"
    if num_processes > num_cpus:
        raise ConfigError(f"{request} asks for {num_processes} CPUs and ray_address=local has {num_cpus}; {advice}")
    if gpus_each and num_shares(num_gpus := _usable_gpus(), gpus_each) < num_processes:
        raise ConfigError(
            f"{request} asks for {num_processes * gpus_each:g} GPUs and PyTorch finds {num_gpus} on this machine; "
            f"{advice}"
        )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus_here() -> int:
    """GPUs that a local Ray may use: 0 without loading torch where there is no device."""
    return _usable_gpus() if any(Path("/dev").glob("nvidia[0-9]*")) else 0


def _usable_gpus() -> int:
    import torch

    return torch.cuda.device_count()  # no context is made on any of them


def is_loopback(host: str) -> bool:
    """Whether the host is a loopback name or address of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: str) -> str:
    """The address itself. Raises ConfigError with advice where it is not `local`, `auto` or `host:port`."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"ray_address={address}: the Ray client is not supported; run this command on a node of the cluster with "
            "ray_address=host:6379, or submit it: mhim submit … ray_address=http://host:8265"
        )
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"ray_address={address} is a dashboard's address, where commands are submitted: "
            f"mhim submit … ray_address={address}"
        )
    if address in ("local", "auto"):
        return address
    if not _HOST_PORT.match(address) or not 0 < int(address.rpartition(":")[2]) < 65536:
        raise ConfigError(f"ray_address={address!r} is not local, auto or host:port (the port is usually 6379)")
    return address


@contextmanager
def ray_session(address: str, local_cpus: int | None = None) -> Iterator[Resources]:
    """Be connected while the block runs; an existing connection of this process is used and left as it is.

    Raises ConfigError where nothing answers at the address, or something that is no Ray cluster or refuses us.
    """
    # idle OpenMP threads of the workers sleep instead of spinning: several processes share the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # set before ray is imported: Ray Train reads it at import, and its default of 2 s delays the end of every fit
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # else whatever still runs while Ray is shut down would start another one, unasked
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    owned = not ray.is_initialized()
    try:
        if owned:
            _connect(check_address(address), local_cpus)
        with _raylet_watched(is_local=address == "local"):
            yield _resources(is_local=address == "local")
    finally:
        if owned and not _keep_alive:
            _disconnect()


_keep_alive: list[bool] = []
"""Not empty inside `kept_alive`."""
_of_session = ExitStack()
"""What the open session needs on this machine, released after it."""


@contextmanager
def kept_alive() -> Iterator[None]:
    """Sessions opened inside stay open for each other until the outermost such block ends; none is opened for it."""
    _keep_alive.append(True)
    try:
        yield
    finally:
        _keep_alive.pop()
        if "ray" in sys.modules and not _keep_alive:
            _disconnect()


@contextmanager
def plain_errors(command: str) -> Iterator[None]:
    """Ray's own errors, pages long, as one sentence: a MhimError (exit code 1) caused by the original."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "ray":
            raise
        raise MhimError(f"{command} ended with {type(error).__name__}: {gist(error)}; run again to go on") from error


def gist(error: BaseException) -> str:
    """The words of Ray's message that say what happened: the original error closes a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    if "Traceback" in str(error):
        return lines[-1][:300]
    if lines[0].endswith(":") and len(lines) > 1:  # a heading; what follows it ends in a page of advice
        return f"{lines[0]} {lines[1].partition('. ')[0]}"[:300]
    return lines[0][:300]


def _disconnect() -> None:
    import ray

    ray.shutdown()
    _of_session.close()


def _connect(address: str, local_cpus: int | None) -> None:
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes to the terminal otherwise
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    _of_session.enter_context(_rays_messages_logged())
    if address == "local":
        # address="local", since a bare init would try to join whatever a stopped cluster left behind
        cpus = local_cpus or usable_cpus()
        options |= {"address": "local", "include_dashboard": False, "num_cpus": cpus}
        check_threads()
        if folder := object_store_folder():
            options["_plasma_directory"] = folder
        if folder := _of_session.enter_context(ray_folder()):
            options["_temp_dir"] = folder
        ensure_token()
    else:
        _check_answers(address)
        options |= {"address": address, "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}}
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own deprecations and unclosed sockets are not the user's concern
        try:
            with _without_native_stderr(), _own_sigterm(), _no_monitors():
                ray.init(**options)
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(
                f"the Ray cluster at ray_address={address} refuses this command's token; set RAY_AUTH_MODE and "
                "RAY_AUTH_TOKEN as on the cluster"
            ) from error
        except Exception as error:
            if address == "local":
                raise _no_start(error) from error
            if not isinstance(error, (ConnectionError, TimeoutError, RuntimeError)):
                raise
            raise ConfigError(f"no Ray cluster answers at ray_address={address}: {gist(error)}") from error


def _no_start(error: Exception) -> MhimError:
    """Ray raises anything, even a bare Exception, where one of its processes did not come up; their logs say why."""
    failure = f"Ray could not be started on this machine ({gist(error)})"
    if limit := limit_in_the_way(error):
        return ConfigError(f"{failure}: {limit}")
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray/session_latest/logs")
    return MachineError(f"{failure}; run again, as a busy machine may have been too slow; its own logs are in {folder}")


def _check_answers(address: str) -> None:
    """Raises if no Ray answers at the address: Ray itself would wait for over ten minutes and ignore Ctrl-C."""
    target = _cluster_of_this_machine() if address == "auto" else address
    if target is None or os.environ.get("RAY_USE_TLS") == "1":
        return
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_TIMEOUT_S) as connection:
            # a gRPC server answers HTTP/2's opening words and empty settings with settings of its own (RFC 9113, 3.4)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answer = connection.recv(9)
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at ray_address={address} ({target}: {error}); give the head node's host:port as "
            "`ray start --head` printed it, or ray_address=local"
        ) from error
    if answer[3:4] != b"\4":
        raise ConfigError(f"what answers at ray_address={address} ({target}) is no Ray cluster; its port is often 6379")


def _cluster_of_this_machine() -> str | None:
    """What Ray would take `auto` for, as far as that is an address; None: let Ray look."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
        address = note.read_text().strip() if note.is_file() else ""
    return address if _HOST_PORT.match(address) else None


@contextmanager
def _raylet_watched(*, is_local: bool) -> Iterator[None]:
    """MachineError (6) in the main thread, soon after this node's raylet is gone, or the GCS of a Ray of our own.

    Ray would go on with what it has for some seconds, and then end this process without a word.
    """
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    own = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    main = threading.main_thread().ident
    if own is None or main is None or main != threading.get_ident():  # only there are signals handled
        yield
        return
    needed = [(own["NodeManagerAddress"], own["NodeManagerPort"])]
    if is_local:  # a cluster's may be started again
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        needed.append((host, int(port)))
    done, found_lost = threading.Event(), threading.Event()

    def is_lost(second: int) -> bool:
        if not all(_listens(host, port) for host, port in needed):
            return True
        is_stopped = second % _ASK_EVERY == 0 and _is_given_up(node_id)
        if is_stopped and is_local:
            with suppress(Exception):  # it may be gone by now
                _end_own_raylet()
        return is_stopped

    def interrupt(number: int, frame: Any) -> None:
        if done.is_set():
            return
        if found_lost.is_set():
            raise MachineError(f"{_RAYLET} was lost; run again to go on with what is left")
        if callable(before):  # sent by another: a batch system's warning, a launcher's
            before(number, frame)
        elif before is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def watch() -> None:
        for second in itertools.count(1):
            if done.wait(_WATCH_S):
                return
            if is_lost(second):
                found_lost.set()
                signal.pthread_kill(main, signal.SIGUSR1)  # again and again, as a library may swallow it

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=watch, daemon=True, name="mhim-raylet-watch")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_WATCH_END_S)  # a GCS that is stopped keeps it for as long
        signal.signal(signal.SIGUSR1, before)


def _is_given_up(node_id: str) -> bool:
    """Whether the GCS has found that a node's raylet does not answer, though it listens: it is stopped, or starved."""
    import ray

    try:
        return any(node["NodeID"] == node_id and not node["Alive"] for node in ray.nodes())
    except Exception:  # the GCS itself does not answer; whether it is there its port says
        return False


def _end_own_raylet() -> None:
    """Ray's own shutdown would wait for its answer."""
    import ray._private.worker

    node = ray._private.worker._global_node
    if node is not None:
        node.kill_raylet(check_alive=False)


def _listens(host: str, port: int) -> bool:
    """Whether a port that listened still does; what answers in any other way is taken for alive."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself, from the start of `ray.init`, and ends the process with 15.

    The command's handler, which shuts Ray down, stays. A program without one leaves SIGTERM to Ray.
    """
    import ray._private.utils

    before = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before in (None, signal.SIG_DFL):
        yield
        return
    rays_own = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = rays_own
        # what Python takes for the handler, once more: Ray's core, in C++, has told the kernel otherwise
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextmanager
def _no_monitors() -> Iterator[None]:
    """A local Ray neither grows nor sends its workers' logs here: its autoscaler's and its log monitor stay away.

    Half a CPU second each at every start; `ray.init` has no words for them. One that joins a cluster starts neither.
    """
    import ray._private.parameter

    parameter: Any = ray._private.parameter
    rays_own = parameter.RayParams
    parameter.RayParams = partial(rays_own, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        parameter.RayParams = rays_own


@contextmanager
def _rays_messages_logged() -> Iterator[None]:
    """What Ray's processes say of themselves, as when they replace an actor, goes to the log and not to the terminal.

    It is in words of Ray's own, and whatever follows from it is told by the command. Only that a node's memory was full
    is told nowhere else.
    """
    import ray._private.worker

    def note(data: dict[str, Any], ignore_prefix: bool) -> None:
        text = " ".join(data["lines"])
        logging.getLogger(__name__).warning("%s: %s", data["pid"], text)
        if _OUT_OF_MEMORY in text:
            print(f"warning: {_TELL_OUT_OF_MEMORY}", file=sys.stderr, flush=True)

    rays_own = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = note
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = rays_own


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


def _resources(is_local: bool) -> Resources:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    return Resources(len(nodes), total.get("CPU", 0.0), total.get("GPU", 0.0), is_local)
