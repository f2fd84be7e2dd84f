"""A cluster as an operator would have it: two nodes with a dashboard and an S3 endpoint, all on the loopback."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Hashable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

HOST = "127.0.0.1"
BIN = Path(sys.executable).parent
SECRET = "canary-of-a-secret-key"


class Cluster(NamedTuple):
    """Where jobs are submitted, and the bucket that everything lies in."""

    dashboard: str
    bucket: str


class SlowWay:
    """The way to the S3 server. On request one write never comes back, so that its writer can be killed just there."""

    def __init__(self, target: str) -> None:
        self._part = ""
        self._arrives = False
        self._release = threading.Event()
        self.is_held = threading.Event()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_held = self.command == "PUT" and way._take(self.path)
                if is_held and not way._arrives:
                    self.hold()
                    return
                upstream = http.client.HTTPConnection(target)
                upstream.request(self.command, self.path, body, dict(self.headers))
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
                if is_held:
                    self.hold()
                    return
                self.send_response_only(response.status)
                length = response.getheader("Content-Length") or str(len(data))
                for name, value in response.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def hold(self) -> None:
                way.is_held.set()
                way._release.wait()
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @contextlib.contextmanager
    def holding(self, part: str, *, arrives: bool) -> Iterator[None]:
        """Within the block the first write of a key with `part` is held; `arrives`: it is written, unlike its reply."""
        self._release.clear()
        self.is_held.clear()
        self._arrives, self._part = arrives, part
        try:
            yield
        finally:
            self._part = ""
            self._release.set()

    def _take(self, path: str) -> bool:
        """Once: is this the write?"""
        if not self._part or self._part not in path:
            return False
        self._part = ""
        return True

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def s3_environment(slow_way: SlowWay) -> dict[str, str]:
    """Of nodes and drivers alike, as an instance profile would be."""
    return {
        "AWS_ENDPOINT_URL": slow_way.endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@pytest.fixture(scope="session")
def slow_way() -> Iterator[SlowWay]:
    """A moto server of our own, stopped by its process id, and the way to it."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", HOST, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "moto_server listens")
        way = SlowWay(f"{HOST}:{port}")
        yield way
        way.stop()
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="session")
def cluster(s3_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two raylets of one CPU each; this process takes the environment of a person who submits."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    environment = (
        kept
        | s3_environment
        | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # a job's `python` is the one that a shell finds
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
    )
    logs = tmp_path_factory.mktemp("raylets")
    gcs, dashboard = free_port(), free_port()
    head = ["--head", f"--port={gcs}", f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}"]
    folders = [tempfile.mkdtemp(prefix="mh-") for _ in range(2)]  # sockets lie below: their paths must be short
    nodes = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (s3_environment | {"RAY_AUTH_MODE": "disabled"}).items():
            patch.setenv(name, value)
        bucket = "e2e"
        boto3.client("s3").create_bucket(Bucket=bucket)
        try:
            for role, folder in zip((head, [f"--address={HOST}:{gcs}"]), folders, strict=True):
                with Path(logs, Path(folder).name).open("w") as log:
                    command = [str(BIN / "ray"), "start", *role, "--block", f"--temp-dir={folder}", "--num-cpus=1"]
                    command += [f"--node-ip-address={HOST}", f"--dashboard-agent-listen-port={free_port()}"]
                    nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))
                wait_until(lambda: _listens(gcs), "the head listens")
            wait_until(lambda: _num_nodes(dashboard) == 2, "two nodes are alive", timeout_s=240)
            yield Cluster(f"http://{HOST}:{dashboard}", bucket)
        finally:
            for node in reversed(nodes):
                below = _descendants(node.pid)
                node.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.wait(timeout=2)
                for pid in (node.pid, *below):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                node.wait()
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


SILENCE_S, LIMIT_S = 300.0, 1800.0


@pytest.fixture(scope="session")
def wait_while_moving() -> Callable[..., None]:
    """wait_while_moving(condition, progress, what): until the condition holds, however slow the machine is.

    Fails once `progress()` has been the same for `silence_s`, or after `limit_s` in all. What is asked may not answer.
    """

    def wait(
        condition: Callable[[], Any],
        progress: Callable[[], Hashable],
        what: str,
        silence_s: float = SILENCE_S,
        limit_s: float = LIMIT_S,
    ) -> None:
        start_s = moved_s = time.monotonic()
        last: Hashable = None
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
                if (present := progress()) != last:
                    last, moved_s = present, time.monotonic()
            now_s = time.monotonic()
            assert now_s - moved_s < silence_s, f"nothing has moved for {silence_s:g} s ({last}): {what}"
            assert now_s - start_s < limit_s, f"in vain for {limit_s:g} s ({last}): {what}"
            time.sleep(0.1)

    return wait


def wait_until(condition, what: str, timeout_s: float = 120) -> None:  # type: ignore[no-untyped-def]
    """Polls; what it waits for may not answer yet."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"in vain for {timeout_s:g} s: {what}")


def _listens(port: int) -> bool:
    with socket.create_connection((HOST, port), timeout=1):
        return True


def _num_nodes(dashboard: int) -> int:
    import json

    with urllib.request.urlopen(f"http://{HOST}:{dashboard}/api/jobs/", timeout=5):
        pass  # it answers to less before its job agent is there
    with urllib.request.urlopen(f"http://{HOST}:{dashboard}/nodes?view=summary", timeout=5) as reply:
        summary = json.loads(reply.read())["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in summary)


def _descendants(root: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    descendants, level = [], {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        descendants += sorted(level)
    return descendants
