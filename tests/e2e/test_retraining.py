"""The life of a model on a cluster: a first champion, a growing cohort, challengers judged, drivers killed, a rollback.

Everything is submitted as a job to two raylets with S3 beside them. The outcomes are forced by configuration alone.
"""

import csv
import io
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import numpy as np
import pytest

from cluster.storage import open_storage
from flows.cli import main
from flows.engine.records import FlowPlace, State, list_flows
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.registry.promotions import champion, history
from mhim_core.storage import Storage
from mhim_core.store.manifest import read_manifest

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]

NUM_SLIDES, NUM_FIRST = 74, 32
PATIENT_NAME = "Canary Surname-Givenname"
NAME = "tumour"
TRAINING = ("embed_dim=16", "folds=2", "epochs=8", "learning_rate=2e-3", "holdout_fraction=0.3", "max_heatmaps=2")
PROMOTES = ("gate_delta=1", "gate_brier_epsilon=1")
KEEPS = ("gate_delta=0", "gate_brier_epsilon=0", "epochs=1")


class Ended(NamedTuple):
    code: int
    out: str


class Place(NamedTuple):
    """What the whole life happens in."""

    dashboard: str
    bucket: str
    folder: Path
    printed: list[str]
    """Everything that any command or job has printed."""

    def cohort(self, num: int) -> Path:
        """The table of the first `num` slides, with a column that nothing may repeat."""
        path = self.folder / f"first{num}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["slide_id", "path", "patient_id", "label", "patient_name"])
            for index in range(num):
                label = ("normal", "tumour")[index % 2]
                writer.writerow([f"s{index:02d}", f"s{index:02d}.tiff", f"mrn-{7000 + index}", label, PATIENT_NAME])
        return path

    def mhim(self, *words: str) -> Ended:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            code = main(words)
        self.printed.append(out.getvalue())
        return Ended(code, out.getvalue())

    def words(self, flow: str, num: int, *more: str) -> tuple[str, ...]:
        registry = f"registry=s3://{self.bucket}/registry"
        common = (flow, f"cohort={self.cohort(num)}", f"store=s3://{self.bucket}/features", registry, f"name={NAME}")
        return (*common, f"out=s3://{self.bucket}/runs", "cache_gib=0.1", *more)

    def submit(self, flow: str, num: int, *more: str, wait: bool = True) -> Ended:
        flags = ("--wait",) if wait else ()
        return self.mhim("submit", *self.words(flow, num, *more), f"ray_address={self.dashboard}", *flags)

    @property
    def registry(self) -> Storage:
        return open_storage(f"s3://{self.bucket}/registry")


@pytest.fixture(scope="module")
def place(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("slides")
    for index in range(NUM_SLIDES):
        rng = np.random.default_rng(index)
        pixels = np.full((1000, 1200, 3), 243, np.uint8)
        colour = np.array([205, 130, 175]) if index % 2 == 0 else np.array([175, 105, 168])
        pixels[150:850, 150:1050] = np.clip(colour + rng.integers(-45, 45, (700, 900, 1)), 0, 255)
        write_pyramid(folder / f"s{index:02d}.tiff", pixels, mpp=(0.5, 0.5))
    return Place(cluster.dashboard, cluster.bucket, folder, [])


@pytest.fixture(scope="module")
def first(place: Place) -> Ended:
    return place.submit("pipeline", NUM_FIRST, "encoder=hed-texture", *TRAINING, "gate_floor=0.6")


@pytest.fixture(scope="module")
def grown(place: Place, first: Ended) -> Ended:
    assert first.code == 0, first.out
    return place.submit("retrain", NUM_FIRST + 5, *PROMOTES)


@pytest.fixture(scope="module")
def kept(place: Place, grown: Ended) -> Ended:
    assert grown.code == 0, grown.out
    return place.submit("retrain", NUM_FIRST + 8, *KEEPS)


def test_the_pipeline_makes_the_first_champion(place: Place, first: Ended) -> None:
    assert first.code == 0, first.out
    present = champion(place.registry, NAME)
    assert present is not None
    assert (present.number, present.base) == (1, 0)
    assert num_embedded(place) == NUM_FIRST


def test_a_retraining_embeds_only_what_is_new_and_promotes(place: Place, grown: Ended) -> None:
    assert grown.code == 0, grown.out
    assert newest_flow(place).done_steps()["embed"].output.cost.num_slides == 5
    assert num_embedded(place) == NUM_FIRST + 5
    records = history(place.registry, NAME)
    assert [record.number for record in records] == [1, 2]
    assert records[1].version != records[0].version


def test_submitted_again_there_is_nothing_to_do(place: Place, grown: Ended) -> None:
    again = place.submit("retrain", NUM_FIRST + 5, *PROMOTES)
    assert again.code == 0, again.out
    assert "nothing to do" in again.out or "nothing new" in again.out
    assert len(history(place.registry, NAME)) == 2


def test_a_challenger_that_is_worse_leaves_the_champion(place: Place, kept: Ended) -> None:
    assert kept.code == 0, kept.out
    assert len(history(place.registry, NAME)) == 2
    judged = newest_flow(place).done_steps()["judge"].output.identity
    assert judged["promote"] is False


def test_killed_at_every_step_it_completes_with_one_promotion(
    place: Place, kept: Ended, slow_way: Any, wait_while_moving: Callable[..., None]
) -> None:
    """Just after each step's start record, and again half way; a step of a moment just before its done record."""
    seconds = {name: done.seconds for name, done in flow_of_second_champion(place).done_steps().items()}
    num = NUM_FIRST + 12
    before = {flow.fingerprint for flow in list_flows(place.registry, "retrain", NAME)}
    killed: list[str] = []

    def wait_for(condition: Callable[[], Any], job: str, what: str) -> None:
        def holds() -> bool:
            if condition():
                return True
            assert not is_over(place, job), f"the job is over: {what}"
            return False

        wait_while_moving(holds, partial(progress_of, place, job), what)

    def wait_for_end(job: str) -> None:
        wait_while_moving(partial(is_over, place, job), partial(progress_of, place, job), f"{job} does not end")

    for step in seconds:
        with slow_way.holding(f"/attempts/{step}/", arrives=True):
            job = submitted(place, num)
            wait_for(slow_way.is_held.is_set, job, f"{step} does not start")
            killed += [f"{step} at its start"] if kill_driver(place, job) else []
        wait_for_end(job)
        if seconds[step] > 2:
            number = num_attempts(place, before, step)
            job = submitted(place, num)
            more = partial(lambda than, name: num_attempts(place, before, name) != than, number, step)
            wait_for(more, job, f"{step} does not start")
            time.sleep(seconds[step] / 2)
            killed += [f"{step} after {seconds[step] / 2:.1f} s"] if kill_driver(place, job) else []
        else:
            with slow_way.holding(f"/done/{step}-", arrives=False):
                job = submitted(place, num)
                wait_for(slow_way.is_held.is_set, job, f"{step} does not end")
                killed += [f"{step} before its done record"] if kill_driver(place, job) else []
        wait_for_end(job)
    print(f"killed {len(killed)} times: {', '.join(killed)}")
    assert len(killed) == 2 * len(seconds)
    ended = place.submit("retrain", num, *PROMOTES)
    assert ended.code == 0, ended.out
    (flow,) = (listed for listed in list_flows(place.registry, "retrain", NAME) if listed.fingerprint not in before)
    assert all(step.state in (State.done, State.not_needed) for step in flow.states()), flow.states()
    assert [promotion.number for promotion in history(place.registry, NAME)] == [1, 2, 3]
    assert num_embedded(place) == num
    shown = place.mhim("flow", "status", NAME, f"registry=s3://{place.bucket}/registry")
    assert shown.code == 0, shown.out
    assert "promote" in shown.out


def test_a_rollback_is_a_new_record_of_an_old_champion(place: Place, kept: Ended) -> None:
    records = history(place.registry, NAME)
    to = records[0].version
    ended = place.mhim("model", "rollback", NAME, f"to={to}", f"registry=s3://{place.bucket}/registry")
    assert ended.code == 0, ended.out
    present = champion(place.registry, NAME)
    assert present is not None
    assert (present.version, present.number) == (to, records[-1].number + 1)


def test_no_secret_and_no_patient_s_name_is_in_any_output(place: Place, kept: Ended) -> None:
    from_environment = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert from_environment.startswith("canary")
    logs = "".join(job_logs(place))
    printed = "\n".join(place.printed) + logs
    objects = dict(bucket_objects(place.bucket))
    assert len(objects) > 100
    for canary in (from_environment, PATIENT_NAME):
        assert canary not in printed
        assert [key for key, data in objects.items() if canary.encode() in data] == []
    registry = {key: data for key, data in objects.items() if key.startswith("registry/")}
    named = [key for key, data in registry.items() if b"mrn-70" in data]
    assert all(key.startswith("registry/holdouts/") for key in named), named
    assert "mrn-70" not in printed


def num_embedded(place: Place) -> int:
    store = open_storage(f"s3://{place.bucket}/features")
    (feature_set,) = {entry.key.split("/")[1] for entry in store.list("manifests")}
    return len(read_manifest(store, feature_set).entries)


def newest_flow(place: Place) -> FlowPlace:
    return next(list_flows(place.registry, "retrain", NAME))


def flow_of_second_champion(place: Place) -> FlowPlace:
    """The retraining that went through every step, undisturbed."""
    return next(flow for flow in list_flows(place.registry, "retrain", NAME) if "promote" in flow.done_steps())


def submitted(place: Place, num: int) -> str:
    ended = place.submit("retrain", num, *PROMOTES, wait=False)
    assert ended.code == 0, ended.out
    match = re.search(r"^(\S+) (?:is submitted|goes on) at ", ended.out, re.MULTILINE)
    assert match, ended.out
    return match[1]


def job_info(place: Place, job: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{place.dashboard}/api/jobs/{job}", timeout=30) as reply:
        info: dict[str, Any] = json.loads(reply.read())
    return info


def is_over(place: Place, job: str) -> bool:
    return job_info(place, job)["status"] in ("SUCCEEDED", "FAILED", "STOPPED")


def num_attempts(place: Place, before: set[str], step: str) -> int:
    """Of the step, in the retrainings that were not there before."""
    flows = (flow for flow in list_flows(place.registry, "retrain", NAME) if flow.fingerprint not in before)
    return sum(1 for flow in flows for _ in place.registry.list(f"{flow.folder}/attempts/{step}"))


def kill_driver(place: Place, job: str) -> bool:
    """kill -9 of the process that Ray's job info names; False if it was over."""
    for _ in range(100):
        if is_over(place, job):
            return False
        pid = (job_info(place, job).get("driver_info") or {}).get("pid")
        if pid:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True
        time.sleep(0.1)
    raise AssertionError(f"Ray names no driver of {job}")


def progress_of(place: Place, job: str) -> tuple[str, int]:
    """What changes while a job gets on: its state, and how much it has written."""
    with urllib.request.urlopen(f"{place.dashboard}/api/jobs/{job}/logs", timeout=30) as reply:
        return job_info(place, job)["status"], len(json.loads(reply.read())["logs"])


def job_logs(place: Place) -> Iterator[str]:
    with urllib.request.urlopen(f"{place.dashboard}/api/jobs/", timeout=30) as reply:
        jobs: Sequence[dict[str, Any]] = json.loads(reply.read())
    for job in jobs:
        if job.get("submission_id"):
            yield place.mhim("jobs", "logs", job["submission_id"], f"ray_address={place.dashboard}").out


def bucket_objects(bucket: str) -> Iterator[tuple[str, bytes]]:
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            yield entry["Key"], client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
