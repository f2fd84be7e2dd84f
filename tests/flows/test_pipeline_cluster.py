"""A cluster of two nodes, both on this machine: the same features and models as on one."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.timeout(300)]

RAY = Path(sys.executable).with_name("ray")
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
"""Nobody else reaches the loopback; set for nodes and drivers alike, since tokens are on by default."""


class Cluster(NamedTuple):
    """What a user would give as ray_address, and the environment to do so in."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    descendants_of: Callable[[int], dict[int, str]],
    free_port: Callable[[], int],
) -> Iterator[Cluster]:
    """Two raylets of one CPU each, so that two actors must lie on both; ended by their own process ids."""
    logs = tmp_path_factory.mktemp("raylets")
    environment = os.environ | ENVIRONMENT
    address = f"127.0.0.1:{free_port()}"
    # sockets lie below: their paths must be short, and each node needs its own
    head = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    with (
        node(head, environment, logs, descendants_of),
        node([f"--address={address}"], environment, logs, descendants_of),
    ):
        wait_for_nodes(address, environment, logs)
        yield Cluster(address, environment)


@contextlib.contextmanager
def node(
    role: list[str], environment: dict[str, str], logs: Path, descendants_of: Callable[[int], dict[int, str]]
) -> Iterator[Callable[[], None]]:
    """A raylet of one CPU while the block runs; the call takes it down at once, and all below it."""
    folder = tempfile.mkdtemp(prefix="mh-")  # sockets lie below: their paths must be short, and each node needs its own
    command = [str(RAY), "start", *role, f"--temp-dir={folder}", "--num-cpus=1", "--block"]
    with Path(logs, Path(folder).name).open("w") as log:
        process = subprocess.Popen([*command, "--node-ip-address=127.0.0.1"], stdout=log, stderr=log, env=environment)

    def kill() -> None:
        for pid in (process.pid, *descendants_of(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    try:
        if "--head" in role:
            port = next(word for word in role if word.startswith("--port=")).removeprefix("--port=")
            wait_until_listening(f"127.0.0.1:{port}")
        yield kill
    finally:
        below = descendants_of(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)  # it would give its workers half a minute
        for pid in (process.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens at {address}")


def wait_for_nodes(address: str, environment: dict[str, str], logs: Path, num_nodes: int = 2) -> None:
    program = (
        "import sys, time, ray\n"
        "from cluster.session import ray_session\n"
        "with ray_session(sys.argv[1]) as found:\n"
        "    while sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]):\n"
        "        time.sleep(0.2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, address, str(num_nodes)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
    )
    assert done.returncode == 0, "\n".join(path.read_text() for path in logs.iterdir()) + done.stderr


@pytest.fixture(scope="module")
def embedded(painted: Any, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cluster") / "store"
    words = ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={store}", "embed_actors=2")
    run_on(cluster, *words)
    return store


def run_on(cluster: Cluster, *words: str) -> str:
    command = [sys.executable, "-m", "flows.cli", *words, f"ray_address={cluster.address}"]
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.environment, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_nodes_embed_what_one_process_embeds(
    embedded: Path, features_of: Callable[[Path], dict[str, str]], clean_features: dict[str, str]
) -> None:
    (summary,) = (json.loads(path.read_text()) for path in embedded.glob("reports/*/summary.json"))
    assert len(summary["nodes"]) == 2
    assert summary["counts"]["ok"] == 12
    assert features_of(embedded) == clean_features


@pytest.mark.thorough
def test_two_workers_on_two_nodes_train_what_one_worker_trains(
    embedded: Path, cluster: Cluster, painted: Any, tmp_path: Path, run_here: Callable[..., Any]
) -> None:
    single, pair = tmp_path / "one", tmp_path / "pair"
    kind = ("method=mhim", "folds=2", "epochs=4", "embed_dim=16", "global_batch=2", "precision=float64")
    words = ("train", f"cohort={painted.cohort}", f"store={embedded}", *kind)
    run_on(cluster, *words, f"out={pair}", "workers=2")
    assert run_here(*words, f"out={single}", "workers=1", "local_cpus=2").code == 0
    assert not (pair / "ray").exists()
    for fit in ("seed-2021/fold-0/plain", "seed-2021/fold-0/mhim", "seed-2021/fold-1/plain", "seed-2021/fold-1/mhim"):
        expected, actual = (model_of(run, fit) for run in (single, pair))
        assert actual.keys() == expected.keys()
        assert ("teacher" in "".join(expected)) == fit.endswith("mhim")
        for name, tensor in expected.items():
            scale = tensor.abs().max().clamp(min=1e-12)
            assert ((actual[name] - tensor).abs().max() / scale) < 1e-9, (fit, name)


def model_of(run: Path, fit: str) -> dict[str, Any]:
    result = json.loads((run / f"fits/{fit}/result.json").read_text())
    return safetensors.torch.load_file(run / result["model_key"])


@pytest.mark.thorough
@pytest.mark.fault(6)
def test_the_loss_of_a_node_amid_embedding_changes_nothing(
    cluster: Cluster,
    painted: Any,
    tmp_path: Path,
    descendants_of: Callable[[int], dict[int, str]],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
) -> None:
    store = tmp_path / "store"
    words = ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={store}")
    command = [sys.executable, "-m", "flows.cli", *words, f"ray_address={cluster.address}"]
    with node([f"--address={cluster.address}"], cluster.environment, tmp_path, descendants_of) as kill:
        wait_for_nodes(cluster.address, cluster.environment, tmp_path, 3)
        with (tmp_path / "output").open("w+") as output:
            driver = subprocess.Popen(command, stdout=output, stderr=output, env=cluster.environment)
            try:
                deadline_s = time.monotonic() + 100
                while len(list(store.glob("commits/*/*/*.json"))) < 3 and time.monotonic() < deadline_s:
                    time.sleep(0.02)
                kill()
                code = driver.wait(timeout=150)
            finally:
                driver.kill()
                driver.wait()
        assert code == 0, (tmp_path / "output").read_text()
    assert features_of(store) == clean_features
    assert len(list(store.glob("commits/*/*/*.json"))) == 12
