"""Attempts, attaching and following, against a cluster that is made up; the real one is in tests/flows."""

from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import requests.exceptions

from cluster.dashboard import Dashboard, UnreachableError
from cluster.jobs import Job, JobServer, Submitted
from mhim_core.errors import ConfigError, ConflictError


class FakeClient:
    """What Ray's client answers. `logs`: one list of chunks per connection, an exception breaks it off."""

    def __init__(self) -> None:
        self.details: dict[str, SimpleNamespace] = {}
        self.taken: list[str] = []
        self.logs: list[Sequence[str | Exception]] = []
        self.whole = ""
        self.silent = 0

    def add(self, job_id: str, status: str = "RUNNING", exit_code: int | None = None) -> None:
        self.details[job_id] = SimpleNamespace(
            submission_id=job_id,
            status=status,
            driver_exit_code=exit_code,
            start_time=1000 * len(self.details),
            end_time=None,
            message=None,
        )

    def list_jobs(self) -> list[SimpleNamespace]:
        return [*self.details.values(), SimpleNamespace(submission_id=None)]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if self.silent:
            self.silent -= 1
            raise requests.exceptions.ConnectionError("gone")
        if job_id not in self.details:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.details[job_id]

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        if submission_id in self.taken:
            self.add(submission_id)
            raise RuntimeError(
                f"Request failed with status code 500: Traceback …\nValueError: Job with submission_id "
                f"{submission_id} already exists. Please use a different submission_id."
            )
        self.add(submission_id)
        return submission_id

    def get_job_logs(self, job_id: str) -> str:
        return self.whole

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for chunk in self.logs.pop(0):
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    monkeypatch.setattr("cluster.dashboard.answers_without_token", lambda address: True)
    monkeypatch.setattr("cluster.dashboard._connect", lambda address: made)
    monkeypatch.setattr("cluster.jobs._PAUSE_S", 0.0)
    return made


@pytest.fixture
def server(client: FakeClient) -> JobServer:
    return JobServer("http://127.0.0.1:8265/")


def test_the_first_attempt_has_number_one_and_the_next_follows_the_highest_that_is_over(
    client: FakeClient, server: JobServer
) -> None:
    submit: Callable[[], Submitted] = lambda: server.submit("embed-ab12", "true", {})  # noqa: E731
    assert submit() == ("embed-ab12-1", False)
    for number, ended in enumerate(["SUCCEEDED", "FAILED", "STOPPED"] * 4, start=1):
        client.details[f"embed-ab12-{number}"].status = ended
        assert submit() == (f"embed-ab12-{number + 1}", False)


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_what_is_pending_or_running_is_attached_to(client: FakeClient, server: JobServer, status: str) -> None:
    client.add("embed-ab12-1", "FAILED")
    client.add("embed-ab12-2", status)
    assert server.submit("embed-ab12", "true", {}) == ("embed-ab12-2", True)


def test_an_id_that_someone_took_a_moment_ago_is_attached_to(client: FakeClient, server: JobServer) -> None:
    client.taken = ["embed-ab12-1"]
    assert server.submit("embed-ab12", "true", {}) == ("embed-ab12-1", True)


def test_others_that_always_come_first_end_in_a_conflict(
    client: FakeClient, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.taken = ["embed-ab12-1"]
    monkeypatch.setattr(client, "add", lambda *_: None)  # taken, and listed never
    with pytest.raises(ConflictError, match="embed-ab12"):
        server.submit("embed-ab12", "true", {})


def test_other_jobs_are_no_attempts_of_this_one(client: FakeClient, server: JobServer) -> None:
    for other in ("embed-ab12-x-7", "embed-ab123-8", "embed-ab12-09", "embed-ab12", "raysubmit_1"):
        client.add(other)
    assert server.submit("embed-ab12", "true", {}) == ("embed-ab12-1", False)


@pytest.mark.parametrize(
    ("status", "exit_code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 137, 137),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_a_job_s_exit_code_is_its_command_s_or_says_how_it_was_lost(
    status: str, exit_code: int | None, expected: int
) -> None:
    assert Job("a-1", status, exit_code, 0.0, 1.0, "").command_exit_code == expected


def test_a_followed_log_goes_on_where_its_connection_broke_off(client: FakeClient, server: JobServer) -> None:
    client.add("a-1")
    client.logs = [
        ["one\n", "tw", ConnectionResetError()],
        [RuntimeError("closed with code 1006")],
        ["one\ntw", "o\nthree\n"],
    ]
    client.whole = "one\ntwo\nthree\nfour\n"
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if "three" in text:
            client.details["a-1"].status, client.details["a-1"].driver_exit_code = "FAILED", 4

    assert server.follow("a-1", write).command_exit_code == 4
    assert "".join(written) == client.whole


def test_a_cluster_that_answers_again_in_time_is_followed_on(client: FakeClient, server: JobServer) -> None:
    client.add("a-1", "SUCCEEDED", 0)
    client.logs = [["x"], ["x"], ["x"]]
    client.whole, client.silent = "x", 2
    written: list[str] = []
    assert server.follow("a-1", written.append).status == "SUCCEEDED"
    assert written == ["x"]


def test_a_cluster_that_stays_silent_is_given_up_and_the_sentence_says_what_to_do(
    client: FakeClient, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.jobs.SILENCE_LIMIT_S", -1.0)
    client.logs, client.silent = [[]], 1
    with pytest.raises(UnreachableError) as caught:
        server.follow("a-1", print)
    assert str(caught.value) == (
        f"silent for -1 s now: the Ray cluster at ray_address={server.address} does not answer (gone); job a-1 goes on "
        f"without this command; mhim jobs logs a-1 --follow ray_address={server.address} attaches again"
    )


def test_a_connection_that_brings_nothing_is_made_anew(
    client: FakeClient, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.add("a-1", "SUCCEEDED", 0)
    client.logs = [["x", TimeoutError()]]
    client.whole = "xy"
    written: list[str] = []
    server.follow("a-1", written.append)
    assert "".join(written) == "xy"


def test_jobs_are_listed_oldest_first_and_drivers_that_nobody_submitted_are_not(
    client: FakeClient, server: JobServer
) -> None:
    client.add("b-1")
    client.add("a-1", "SUCCEEDED", 0)
    assert [job.job_id for job in server.jobs()] == ["b-1", "a-1"]
    assert [job.is_over for job in server.jobs()] == [False, True]


def test_an_unknown_job_is_refused_by_name(server: JobServer) -> None:
    with pytest.raises(ConfigError, match=r"knows no job embed-0-1; list them: mhim jobs ls"):
        server.job("embed-0-1")


def test_what_the_server_says_of_a_refused_job_is_its_last_line(client: FakeClient, server: JobServer) -> None:
    def refuse() -> None:
        raise RuntimeError("Request failed with status code 413: too large\n\nworking_dir is over 100 MiB\n")

    with pytest.raises(ConfigError, match=r"refuses: working_dir is over 100 MiB$"):
        Dashboard("http://127.0.0.1:8265").request(refuse)
