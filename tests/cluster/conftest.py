"""A proxy before the S3 server of the tests that misbehaves on request."""

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

HOST = "127.0.0.1"


class FaultyProxy:
    """Forwards to an endpoint. Each entry of `faults` spoils one request, in order:

    an int: that status instead of forwarding; "reset": the connection is dropped instead; "lost": forwarded, but the
    reply never comes; "ok": forwarded. `drops_conditions`: as a store that knows no conditional requests.
    `after_get(number)` is called with the number of objects, or parts of them, that were read.
    """

    def __init__(self, target: str) -> None:
        self.faults: list[int | str] = []
        self.always: int | None = None
        self.drops_conditions = False
        self.num_requests = 0
        self.num_gets = self.num_bytes = 0
        """Of objects and parts of them that were read."""
        self.after_get: Callable[[int], None] = lambda _: None
        self._lock = threading.Lock()
        proxy, target_address = self, target.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.next_fault()
                if isinstance(fault, int):
                    self.reply(fault, {}, error_body(fault))
                    return
                if fault == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection(target_address)
                headers = dict(self.headers)
                if proxy.drops_conditions:
                    headers = {
                        name: value for name, value in headers.items() if name not in ("If-None-Match", "If-Match")
                    }
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
                if self.command == "GET" and "list-type" not in self.path:
                    proxy.count(len(data))
                if fault == "lost":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.reply(response.status, dict(response.getheaders()), data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length", str(len(data)))
                dropped = {"content-length", "transfer-encoding", "connection"}
                for name, value in headers.items():
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def next_fault(self) -> int | str:
        with self._lock:
            self.num_requests += 1
            if self.always is not None:
                return self.always
            return self.faults.pop(0) if self.faults else "ok"

    def count(self, num_bytes: int) -> None:
        with self._lock:
            self.num_gets += 1
            self.num_bytes += num_bytes
        self.after_get(self.num_gets)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def error_body(status: int) -> bytes:
    codes = {403: "AccessDenied", 503: "SlowDown", 409: "ConditionalRequestConflict", 412: "PreconditionFailed"}
    code = codes.get(status, "Error")
    message = os.environ["AWS_SECRET_ACCESS_KEY"]  # which must not come back in an error of ours
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.fixture
def proxy(s3_server: str, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A misbehaving way to the server; the environment points at it."""
    made = FaultyProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.stop()
