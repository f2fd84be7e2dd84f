"""Requests to S3 that a slide costs, with cohort, slides, store and run there: they are paid and waited for."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.storage import open_storage, shared_client

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("embed_here", "train_here")]

AT_MOST = {
    "embed": {"HEAD": 2, "GET": 4, "PUT": 2},
    "embed again": {"HEAD": 1},
    "train": {"GET": 1},
    "evaluate": {"GET": 1, "PUT": 1},
}
"""A slide that lies in a folder of its own; those of one folder are seen by listing it, without the driver's HEAD."""

TRAINING = ("method=plain", "folds=2", "epochs=1", "embed_dim=16", "local_cpus=2")
SIZES = (8, 12)
"""Of two cohorts: their difference leaves out what a command asks however few its slides are."""


class CountingProxy:
    """Forwards to an S3 server, and counts by kind."""

    def __init__(self, target: str) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        proxy, address = self, target.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy.count("LIST" if "list-type=2" in self.path else self.command)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection(address)
                upstream.request(self.command, self.path, body, dict(self.headers))
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
                self.send_response_only(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", response.getheader("Content-Length") or str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = forward

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1

    def take(self) -> Counter[str]:
        """Requests by kind since this was last asked."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(s3_server: str, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingProxy]:
    """The way to the server; the environment points at it."""
    counting = CountingProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", counting.endpoint)
    shared_client.cache_clear()
    yield counting
    shared_client.cache_clear()
    counting.stop()


@pytest.fixture
def walk(
    proxy: CountingProxy, bucket: str, painted: Any, mhim: Callable[..., Any]
) -> Callable[[int], dict[str, Counter[str]]]:
    """walk(num_slides) → requests by command and kind."""
    slides = open_storage(f"s3://{bucket}/slides")
    for path in painted.cohort.parent.glob("*.tiff"):
        slides.put(f"{path.stem}/{path.name}", path.read_bytes())

    def run(num_slides: int) -> dict[str, Counter[str]]:
        table = "".join(painted.cohort.read_text().splitlines(keepends=True)[: 1 + num_slides])
        slides.put(f"{num_slides}.csv", re.sub(r"(s\d+)\.tiff", r"\1/\1.tiff", table).encode())
        words = (f"cohort=s3://{bucket}/slides/{num_slides}.csv", f"store=s3://{bucket}/{num_slides}/store")
        place = f"s3://{bucket}/{num_slides}/run"
        commands = {
            "embed": ("embed", *words, "encoder=hed-texture"),
            "embed again": ("embed", *words, "encoder=hed-texture"),
            "train": ("train", *words, f"out={place}", *TRAINING),
            "evaluate": ("evaluate", f"run={place}", "bootstrap_replicates=20"),
        }
        counts = {}
        for name, command in commands.items():
            proxy.take()
            ended = mhim(*command)
            assert ended.code == 0, (command, ended)
            counts[name] = proxy.take()
        return counts

    return run


def test_a_slide_costs_no_more_requests_than_it_needs(walk: Callable[[int], dict[str, Counter[str]]]) -> None:
    few, many = (walk(size) for size in SIZES)
    num_slides = SIZES[1] - SIZES[0]
    a_slide = {
        command: {kind: (counts[kind] - few[command][kind]) / num_slides for kind in sorted(counts)}
        for command, counts in many.items()
    }
    print(a_slide)
    assert few["embed"]["PUT"] >= 2 * SIZES[0], "all of it was counted"
    for command, at_most in AT_MOST.items():
        excess = {kind: number for kind, number in a_slide[command].items() if number > at_most.get(kind, 0)}
        assert not excess, (command, excess)
