"""Who is let in at a dashboard, and what is said of an address where there is none."""

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from cluster.dashboard import Dashboard, UnreachableError, answers_without_token
from cluster.session import is_loopback
from mhim_core.errors import ConfigError
from mhim_core.types import ExitCode

HOST = "127.0.0.1"
TOKEN = "canary-of-a-token"
Serve = Callable[["Reply"], str]
pytestmark = pytest.mark.filterwarnings("ignore:::ray")


class Reply(NamedTuple):
    status: int
    body: bytes
    seen: list[tuple[str, str | None]]
    """Path and Authorization header of every request."""
    location: str = "/login"
    post_status: int = 404


@pytest.fixture
def reply() -> Reply:
    return Reply(200, json.dumps({"ray_version": "2.60.0", "version": "4"}).encode(), [])


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """serve(reply) → the address of a server that gives it to every request."""
    servers = []

    def start(reply: Reply) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(reply.status)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(reply.post_status)

            def answer(self, status: int) -> None:
                reply.seen.append((self.path, self.headers.get("Authorization")))
                self.send_response(status)
                self.send_header("Location", reply.location)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return f"http://{HOST}:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address is another machine's."""
    monkeypatch.setattr("cluster.dashboard.is_loopback", lambda host: False)


def test_an_open_dashboard_of_this_machine_is_taken(serve: Serve, reply: Reply) -> None:
    address = serve(reply)
    assert Dashboard(f"{address}/").address == address


@pytest.mark.usefixtures("elsewhere")
def test_an_open_dashboard_elsewhere_is_refused_unless_that_is_allowed(serve: Serve, reply: Reply) -> None:
    address = serve(reply)
    with pytest.raises(ConfigError, match=r"takes jobs from anyone .* RAY_AUTH_MODE=token.* allow_insecure=true$"):
        Dashboard(address)
    assert Dashboard(address, allow_insecure=True).address == address


@pytest.mark.usefixtures("elsewhere")
def test_whether_a_dashboard_is_open_is_asked_without_a_token_whatever_this_environment_says(
    serve: Serve, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="takes jobs from anyone"):
        Dashboard(serve(reply))
    assert reply.seen == [("/api/version", None)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_dashboard_that_wants_a_token_is_guarded(serve: Serve, reply: Reply, status: int) -> None:
    assert not answers_without_token(serve(reply._replace(status=status)))


@pytest.mark.parametrize("allow_insecure", [True, False])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_address_that_sends_on_is_refused_with_the_one_to_give_instead(
    serve: Serve, reply: Reply, status: int, allow_insecure: bool
) -> None:
    behind = serve(reply)
    address = serve(reply._replace(status=status, location=f"{behind}/api/version", seen=[]))
    with pytest.raises(ConfigError) as caught:
        Dashboard(address, allow_insecure=allow_insecure)
    expected = f"ray_address={address} sends on to {behind}/api/version; give ray_address={behind} if you trust it"
    assert str(caught.value) == expected
    assert reply.seen == [], "nobody went there"


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("/login", "{address}/login"),
        ("https://me:secret@sso.example.org/in?state=canary#x", "https://sso.example.org/in"),
        ("https://sso.example.org/\x1b[2J", "https://sso.example.org/%1B[2J"),
        ("http://[", "another address"),
        ("", "{address}/api/version"),
    ],
)
def test_a_login_page_is_no_address_to_give_and_its_secrets_stay_untold(
    serve: Serve, reply: Reply, location: str, place: str
) -> None:
    address = serve(reply._replace(status=302, location=location))
    with pytest.raises(ConfigError) as caught:
        answers_without_token(address)
    assert f" sends on to {place.format(address=address)}, a login page perhaps; give the address" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_job_that_is_sent_on_goes_nowhere(serve: Serve, reply: Reply, status: int) -> None:
    behind = serve(reply._replace(seen=(seen := [])))
    dashboard = Dashboard(serve(reply._replace(post_status=status, location=f"{behind}/api/jobs/")))
    with pytest.raises(ConfigError, match=rf"sends on to {behind}/api/jobs/; give ray_address={behind} "):
        dashboard.request(lambda: dashboard.client.submit_job(entrypoint="true", submission_id="a-1"))
    assert seen == []


def test_a_dashboard_that_is_lost_is_one_sentence_with_the_way_back(
    serve: Serve, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard(serve(reply))
    with socket.socket() as free:
        free.bind((HOST, 0))
        monkeypatch.setattr(dashboard.client, "_address", f"http://{HOST}:{free.getsockname()[1]}")
    with pytest.raises(UnreachableError) as caught:
        dashboard.request(lambda: dashboard.client.get_job_info("a-1"), "a-1")
    assert str(caught.value) == (
        f"the Ray cluster at ray_address={dashboard.address} does not answer (Connection refused); job a-1 goes on "
        f"without this command; mhim jobs logs a-1 --follow ray_address={dashboard.address} attaches again"
    )
    assert caught.value.exit_code is ExitCode.STORAGE, "retried as a store that is away"
    with pytest.raises(UnreachableError, match=r"\(Connection refused\); what was submitted goes on .* the same again"):
        dashboard.request(dashboard.client.list_jobs)


def test_the_way_back_to_a_dashboard_that_is_open_to_all_allows_it_again(
    serve: Serve, reply: Reply, elsewhere: None
) -> None:
    dashboard = Dashboard(serve(reply), allow_insecure=True)

    def fail() -> None:
        raise RuntimeError("Request failed with status code 503: starting up")

    with pytest.raises(UnreachableError, match=r"starting up; .* ray_address=\S+ allow_insecure=true attaches"):
        dashboard.request(fail, "a-1")


@pytest.mark.usefixtures("elsewhere")
def test_a_guarded_dashboard_that_refuses_this_environment_is_told_with_what_to_set(serve: Serve, reply: Reply) -> None:
    with pytest.raises(ConfigError, match=r"wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"):
        Dashboard(serve(reply._replace(status=401, body=b"Unauthorized")))


def test_ray_s_own_variables_lead_nowhere_else(serve: Serve, reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    other = reply._replace(seen=[])
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, serve(other))
    dashboard = Dashboard(serve(reply))
    assert dashboard.client._address == dashboard.address
    assert other.seen == []
    assert len(reply.seen) > 1


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (500, b"{}"), (200, b"<html>"), (200, b"[]"), (200, b'{"status": "ok"}')]
)
def test_something_else_that_answers_is_no_dashboard(serve: Serve, reply: Reply, status: int, body: bytes) -> None:
    with pytest.raises(ConfigError, match=r"is no Ray dashboard; the dashboard's port is often 8265"):
        answers_without_token(serve(reply._replace(status=status, body=body)))


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        address = f"http://{HOST}:{free.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"no Ray dashboard answers at ray_address={address} .*refused"):
        answers_without_token(address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("head", False),
        ("", False),
    ],
)
def test_a_loopback_address_is_one_that_nobody_else_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
