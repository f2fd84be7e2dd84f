"""Jobs on a real Ray with its dashboard, on this machine: attempts, exit codes, places out of reach, secrets."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary-key-id",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-key",
    "HF_TOKEN": "canary-hub-token",
    "MLFLOW_TRACKING_PASSWORD": "canary-password",
}
"""Of the person who submits; the cluster has none of them."""


class Head(NamedTuple):
    """A cluster's dashboard, and where its node keeps what jobs send."""

    address: str
    folder: Path


@pytest.fixture(scope="module")
def head(
    tmp_path_factory: pytest.TempPathFactory,
    descendants_of: Callable[[int], dict[int, str]],
    free_port: Callable[[], int],
) -> Iterator[Head]:
    """One node of two CPUs with a dashboard, ended by its own process ids."""
    folder = Path(tempfile.mkdtemp(prefix="mh-"))  # sockets lie below: their paths must be short
    log = tmp_path_factory.mktemp("head") / "log"
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    environment |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # a job's `python` is the one that a shell finds
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", f"--temp-dir={folder}"]
    command += [f"--dashboard-host={HOST}", f"--dashboard-port={port}", "--include-dashboard=true"]
    command += ["--num-cpus=2", f"--node-ip-address={HOST}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # its default may be another Ray's on this machine
    with log.open("w") as file:
        node = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=folder)
    try:
        wait_for_dashboard(f"http://{HOST}:{port}", log)
        yield Head(f"http://{HOST}:{port}", folder)
    finally:
        below = descendants_of(node.pid)
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(timeout=2)
        for pid in (node.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_dashboard(address: str, log: Path) -> None:
    """Until it lists jobs: it answers to less before its job agent is there."""
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def two_slides(painted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose slides are named relative to it."""
    folder = tmp_path_factory.mktemp("two")
    with (folder / "two.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "path", "patient_id", "label"])
        for number, label in enumerate(("normal", "tumour")):
            name = f"s{number:02d}"
            writer.writerow(
                [name, os.path.relpath(painted.cohort.parent / f"{name}.tiff", folder), f"p{number}", label]
            )
    return folder / "two.csv"


@pytest.fixture(scope="module")
def run(head: Head, run_mhim: Callable[..., Any]) -> Callable[..., Any]:
    """run("submit", "embed", …) → how it ended, in an environment full of secrets that the cluster has none of."""

    def call(*words: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (SECRETS | {"RAY_AUTH_MODE": "disabled"}).items():
                patch.setenv(name, value)
            return run_mhim(*words, f"ray_address={head.address}")

    return call


def id_of(ended: Any) -> str:
    match = re.search(r"^(\S+) (?:is submitted|goes on) at ", ended.out, re.MULTILINE)
    assert match, ended
    return match[1]


class Embedded(NamedTuple):
    """One command submitted three times: twice at once, and when it was over."""

    store: Path
    first: Any
    second: Any
    third: Any


@pytest.fixture(scope="module")
def embedded(run: Callable[..., Any], two_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    folder = tmp_path_factory.mktemp("jobs")
    words = ("submit", "embed", f"cohort={two_slides}", "encoder=hed-texture", "store=store")
    with contextlib.chdir(folder):
        first = run(*words)
        return Embedded(folder / "store", first, run(*words, "--wait"), run(*words, "--wait"))


def test_a_flow_runs_as_a_job_with_its_table_and_relative_places(
    embedded: Embedded, features_of: Callable[[Path], dict[str, str]], clean_features: dict[str, str]
) -> None:
    assert embedded.second.code == 0, embedded.second
    assert "2 slides: 2 ok" in embedded.second.out
    made = features_of(embedded.store)
    assert len(made) == 2
    assert made.items() <= clean_features.items()


def test_the_same_submitted_while_it_runs_is_attached_to(embedded: Embedded) -> None:
    assert embedded.first.code == 0
    assert "is submitted at" in embedded.first.out
    assert "goes on at" in embedded.second.out
    assert id_of(embedded.first) == id_of(embedded.second)
    assert re.fullmatch(r"embed-[0-9a-f]{12}-1", id_of(embedded.first))


def test_after_it_is_over_the_next_attempt_starts_and_finds_everything_done(embedded: Embedded) -> None:
    assert embedded.third.code == 0, embedded.third
    assert id_of(embedded.third) == id_of(embedded.first).removesuffix("1") + "2"
    assert "2 skipped" in embedded.third.out


@pytest.mark.fault(39)
def test_no_secret_of_who_submits_is_anywhere_on_the_cluster(
    embedded: Embedded, head: Head, run: Callable[..., Any]
) -> None:
    job_id = id_of(embedded.first)
    with urllib.request.urlopen(f"{head.address}/api/jobs/{job_id}", timeout=30) as reply:
        details = reply.read().decode()
    assert set(json.loads(details)["runtime_env"]) <= {"working_dir", "_ray_commit"}
    for text in (details, run("jobs", "logs", job_id).out, *(ended.out + ended.err for ended in embedded[1:])):
        assert "canary" not in text
    kept = [path for path in head.folder.rglob("*") if path.is_file()]
    assert any(path.name == "two.csv" for path in kept), "what the job was sent lies here"
    for path in kept:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            assert not [name for name, secret in SECRETS.items() if secret.encode() in data], path


def test_jobs_are_listed(embedded: Embedded, run: Callable[..., Any]) -> None:
    line = next(listed for listed in run("jobs", "ls").out.splitlines() if listed.startswith(id_of(embedded.first)))
    assert line.split()[1:4] == ["SUCCEEDED", "exit", "0"]


@pytest.mark.thorough
@pytest.mark.usefixtures("embedded")
def test_a_place_that_no_node_reaches_ends_the_job_with_2_and_its_name(
    run: Callable[..., Any], two_slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ended = run("submit", "embed", f"cohort={two_slides}", "encoder=hed-texture", f"store={tmp_path}/file/s", "--wait")
    assert ended.code == 2, ended
    assert f"store={tmp_path}/file/s" in ended.out


@pytest.mark.thorough
@pytest.mark.usefixtures("embedded")
def test_slides_that_no_node_sees_end_the_job_with_2_and_the_node(
    run: Callable[..., Any], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    table = write_table([{"slide_id": "a", "path": "nowhere/a.svs", "patient_id": "p", "label": "x"}])
    ended = run("submit", "embed", f"cohort={table}", "encoder=hed-texture", f"store={tmp_path}/s", "--wait")
    assert ended.code == 2, ended
    assert re.search(
        rf"mhim: node \S+ \(\w{{6}}\): slides of {re.escape(str(tmp_path))}/nowhere are not there", ended.out
    )


@pytest.mark.thorough
def test_a_stopped_job_ends_who_waits_for_it_with_130_and_no_id_is_used_twice(
    run: Callable[..., Any], head: Head, two_slides: Path, tmp_path: Path
) -> None:
    words = ("submit", "check", f"cohort={two_slides}", "tile_px=128")
    command = [str(BIN / "mhim"), *words, f"ray_address={head.address}", "--wait"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert waiting.stdout is not None
    with waiting, waiting.stdout:
        job_id = waiting.stdout.readline().split()[0]
        assert "is being stopped" in run("jobs", "stop", job_id).out
        assert waiting.wait(timeout=120) == 130
    again = run("jobs", "stop", job_id).out
    assert again.startswith(job_id)
    assert "STOPPED" in again
    again = run(*words, "--wait")
    assert again.code == 0, again
    assert id_of(again) == f"{job_id[:-1]}2"
