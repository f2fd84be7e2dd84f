"""`mhim submit` and `mhim jobs` before a cluster that is made up: what is sent, what is refused, what is said."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.dashboard import UnreachableError
from cluster.jobs import Job, Submitted
from flows.config.files import AS_TYPED
from flows.submission.words import JobWords
from flows.submit import entrypoint
from mhim_core.errors import ConfigError

SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary-key-id",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-key",
    "AWS_SESSION_TOKEN": "canary-session",
    "RAY_AUTH_TOKEN": "canary-ray-token",
    "HF_TOKEN": "canary-hub-token",
    "MLFLOW_TRACKING_PASSWORD": "canary-password",
    "SOME_VARIABLE": "canary-of-nobody",
}


class FakeServer:
    """Takes what is submitted, as `JobServer` would."""

    address = "http://127.0.0.1:8265"
    attached = False
    ended = Job("embed-1", "SUCCEEDED", 0, 0.0, 1.0, "")

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Mapping[str, Any]]] = []
        self.folder: dict[str, bytes] = {}

    def submit(self, stem: str, line: str, runtime_env: Mapping[str, Any]) -> Submitted:
        self.sent.append((stem, line, runtime_env))
        folder = Path(runtime_env.get("working_dir", "/no/such"))
        self.folder = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return Submitted(f"{stem}-1", self.attached)

    def follow(self, job_id: str, write: Callable[[str], object]) -> Job:
        write("a line of the job\n")
        return self.ended._replace(job_id=job_id)

    def jobs(self) -> list[Job]:
        return [self.ended, Job("train-2", "RUNNING", None, 5.0, None, "")]

    def job(self, job_id: str) -> Job:
        return self.ended

    def log(self, job_id: str) -> str:
        return "the log\n"

    def stop(self, job_id: str) -> bool:
        return job_id == "train-2"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    made = FakeServer()
    for module in ("flows.submit", "flows.jobs"):
        monkeypatch.setattr(f"{module}.JobServer", lambda *_, **__: made)
    return made


@pytest.fixture
def table(write_table: Callable[..., Path]) -> Path:
    return write_table([{"slide_id": "a", "path": "a.svs", "patient_id": "p", "label": "x"}])


def test_without_wait_the_job_is_named_with_the_way_to_follow_it(
    mhim: Callable[..., Any], server: FakeServer, table: Path
) -> None:
    ended = mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f")
    assert ended.code == 0, ended
    stem = server.sent[0][0]
    assert f"{stem}-1 is submitted at {server.address}" in ended.out
    assert f"mhim jobs logs {stem}-1 --follow ray_address={server.address}" in ended.out


@pytest.mark.parametrize("code", [0, 2, 3, 5, 130, 137])
def test_with_wait_the_log_is_shown_and_the_flow_s_exit_code_is_ours(
    mhim: Callable[..., Any], server: FakeServer, table: Path, code: int
) -> None:
    server.ended = server.ended._replace(exit_code=code)
    ended = mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f", "--wait")
    assert ended.code == code
    assert "a line of the job" in ended.out


def test_an_attempt_that_goes_on_is_said_to(mhim: Callable[..., Any], server: FakeServer, table: Path) -> None:
    server.attached = True
    assert "-1 goes on at" in mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f").out


@pytest.mark.parametrize(
    "value",
    ["/data/a b.csv", "/data/it's.csv", "/data/$(touch x).csv", "/data/`x`;&|<>*?.csv", "/data/hôpital.csv", '/"'],
)
def test_a_shell_hands_on_every_word_as_it_is(value: str) -> None:
    words, typed = (f"cohort={value}", "tile_px=128"), {"cohort": ("inputs/cohort-0/x.csv", value)}
    line = entrypoint("embed", JobWords(words, {}, "embed-0", (), {}))
    assert shlex.split(line) == ["exec", "env", "MHIM_IN_JOB=1", "python", "-m", "flows.cli", "embed", *words]
    line = entrypoint("embed", JobWords(words, {}, "embed-0", (), typed))
    name, _, document = shlex.split(line)[3].partition("=")
    assert (name, json.loads(document)) == (AS_TYPED, {"cohort": ["inputs/cohort-0/x.csv", value]})
    assert shlex.split(line)[4:] == ["python", "-m", "flows.cli", "embed", *words]


def test_no_secret_of_the_environment_travels(
    mhim: Callable[..., Any], server: FakeServer, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    ended = mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f", "--wait")
    ((_, line, runtime_env),) = server.sent
    assert set(runtime_env) == {"working_dir"}
    for text in (line, json.dumps(dict(runtime_env)), ended.out, ended.err, *server.folder):
        assert "canary" not in text
    assert not [
        name for name, data in server.folder.items() if b"canary" in data and not name.startswith("flows/config/")
    ]


def test_an_image_brings_its_own_code(mhim: Callable[..., Any], server: FakeServer, table: Path) -> None:
    ended = mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f", "image=registry.example/mhim:0.1.0")
    assert ended.code == 0
    ((_, line, runtime_env),) = server.sent
    assert runtime_env == {"image_uri": "registry.example/mhim:0.1.0"}
    assert f"cohort={table}" in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("trian", "cohort=x"), "'trian' is no flow"),
        (("submit", "embed"), "'submit' is no flow"),
        (("embed", "cohort=x", "store=/s", "bogus=1"), "embed has no key 'bogus'"),
        (("embed", "cohort=x"), "embed needs store="),
        (("embed", "cohort=x", "store=/s", "tile_px=few"), "tile_px='few' is not a whole number"),
        (("embed", "cohort=/no/such.csv", "store=/s"), "cohort=/no/such.csv: there is no such file"),
        (
            ("embed", "cohort=x", "store=/s", "ray_address=ray://head:10001"),
            "is not the address of a cluster's dashboard",
        ),
        (("embed", "cohort=x", "store=/s", "ray_address=http://me:secret@head:8265"), "it holds no password"),
        (("embed", "cohort=x", "store=/s", "image=a;b"), "is not the name of an image"),
        ((), "submit needs flow="),
    ],
)
def test_what_the_flow_would_refuse_is_refused_here(
    refused: Callable[..., str], server: FakeServer, words: tuple[str, ...], reason: str
) -> None:
    assert reason in refused("submit", *words)
    assert not server.sent


def test_a_cluster_that_is_not_there_is_told(refused: Callable[..., str], table: Path) -> None:
    message = refused("submit", "embed", f"cohort={table}", "store=/s", "ray_address=http://127.0.0.1:9")
    assert "no Ray dashboard answers at ray_address=http://127.0.0.1:9" in message


def test_an_interrupt_while_following_says_that_the_job_goes_on(
    mhim: Callable[..., Any], server: FakeServer, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "follow", interrupt)
    ended = mhim("submit", "embed", f"cohort={table}", "store=s3://bucket/f", "--wait")
    assert ended.code == 130
    assert "the job goes on without you; mhim jobs stop embed-" in ended.out


@pytest.mark.parametrize("words", [("submit", "--wait"), ("jobs", "logs", "embed-1", "--follow")], ids=" ".join)
def test_a_cluster_that_is_lost_while_following_is_one_sentence_and_no_bug(
    refused: Callable[..., str],
    server: FakeServer,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    def lose(*_: object) -> None:
        raise UnreachableError("the Ray cluster does not answer; mhim jobs logs attaches again")

    monkeypatch.setattr(server, "follow", lose)
    if words[0] == "submit":
        words = (*words, "embed", f"cohort={table}", "store=s3://bucket/f")
    assert refused(*words, code=6) == "the Ray cluster does not answer; mhim jobs logs attaches again"


def test_jobs_are_listed_with_state_exit_code_and_time(mhim: Callable[..., Any], server: FakeServer) -> None:
    first, second = mhim("jobs", "ls").out.splitlines()
    assert first.split()[:4] == ["embed-1", "SUCCEEDED", "exit", "0"]
    assert first.endswith("1 s")
    assert second.split()[:2] == ["train-2", "RUNNING"]
    assert "exit" not in second


def test_a_job_s_log_is_shown_or_followed_to_its_exit_code(mhim: Callable[..., Any], server: FakeServer) -> None:
    assert mhim("jobs", "logs", "train-2") == (0, "the log\n", "")
    server.ended = server.ended._replace(
        exit_code=None, status="FAILED", message="\nruntime_env setup failed: no space\n"
    )
    followed = mhim("jobs", "logs", "train-2", "--follow")
    assert followed.code == 1
    assert followed.out.endswith("train-2: FAILED: runtime_env setup failed: no space\n")


def test_a_job_is_stopped_and_one_that_is_over_is_said_to_be(mhim: Callable[..., Any], server: FakeServer) -> None:
    assert "train-2 is being stopped; what it committed is kept" in mhim("jobs", "stop", "train-2").out
    assert re.fullmatch(r"embed-1 .*SUCCEEDED\n", mhim("jobs", "stop", "embed-1").out)


@pytest.mark.parametrize("job", ["a b", "-x", "a/b", "a\n"])
def test_what_can_be_no_job_s_id_is_refused(job: str) -> None:
    from flows.config.jobs import JobKeys

    with pytest.raises(ConfigError, match="is no job's id"):
        JobKeys(job=job)
