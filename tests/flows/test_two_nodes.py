"""Two Ray nodes, started here on one host: embedding uses both and gives the bytes of a local run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mhim_core.types import ExitCode

HOST = "127.0.0.1"
START_S = 60
RAY = Path(sys.executable).with_name("ray")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def start_node(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A raylet in the foreground, with a temporary folder of its own: two on one host must not share it."""
    command = [
        str(RAY),
        "start",
        *words,
        "--block",
        "--num-cpus=1",
        f"--node-ip-address={HOST}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    # on purpose without tokens: both ends are on the loopback of this test
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_WAIT_POLICY": "PASSIVE"}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not come up within {START_S} s"
        time.sleep(0.5)


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two nodes of one CPU each; both end by SIGTERM to their own pids."""
    port = free_port()
    # sockets lie below it, and their paths may not be long
    folder = Path(f"/tmp/mhim-{os.getpid()}")
    folder.mkdir()
    nodes = [start_node(folder / "head", "--head", f"--port={port}", "--include-dashboard=false")]
    try:
        wait_for(lambda: "Ray runtime started" in (folder / "head.log").read_text(), "the head")
        nodes.append(start_node(folder / "worker", f"--address={HOST}:{port}"))
        wait_for(lambda: "Ray runtime started" in (folder / "worker.log").read_text(), "the worker")
        yield f"{HOST}:{port}"
    finally:
        for node in reversed(nodes):
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            node.wait(timeout=60)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def embed(cohort: Path, store: Path, *words: str) -> dict[str, Any]:
    """Run the command as a person does, in a process of its own; its report."""
    command = [sys.executable, "-m", "flows.cli", "embed", f"cohort={cohort}", f"store={store}", "encoder=hed-texture"]
    done = subprocess.run(
        [*command, *words],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    (report,) = (store / "reports").iterdir()
    summary: dict[str, Any] = json.loads((report / "summary.json").read_text())
    return summary


def test_embedding_runs_on_both_nodes_and_gives_the_bytes_of_a_local_run(
    painted: Any, features_of: Callable[[Path], dict[str, str]], two_nodes: str, tmp_path: Path
) -> None:
    spread = embed(painted.cohort, tmp_path / "spread", f"ray_address={two_nodes}", "embed_actors=2")
    assert len(spread["nodes"]) == 2
    assert spread["counts"]["ok"] == 12
    local = embed(painted.cohort, tmp_path / "local")
    assert len(local["nodes"]) == 1
    assert features_of(tmp_path / "spread") == features_of(tmp_path / "local")
