"""`mhim schedule`: words are checked when they are added; what is printed for other machinery is what it takes."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands import read_flow, read_words
from flows.config.schedules import ScheduleAddConfig, Target
from flows.scheduling.allowed import AllowList
from flows.scheduling.records import SILENT_S, Book, Schedule, Slot
from flows.scheduling.service import Service
from mhim_core.errors import IntegrityError, StorageError
from mhim_core.storage import LocalStorage

SUNDAYS = "cron=0 2 * * 0"
EMBED = ("embed", "cohort=s3://bucket/a 100%.csv", "store=s3://bucket/features")
DEPLOY = Path(__file__).parents[2] / "deploy/kubernetes"
Mhim = Callable[..., Any]


@pytest.fixture
def registry(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "registry")


@pytest.fixture
def add(mhim: Mhim, registry: LocalStorage) -> Mhim:
    return lambda *words: mhim("schedule", "add", *words, f"registry={registry.uri}")


@pytest.fixture
def retrain(mhim: Mhim, registry: LocalStorage) -> tuple[str, ...]:
    """The words of deploy/kubernetes."""
    registry.uri = "s3://bucket/registry"
    words = ("name=lung", "cohort=s3://bucket/cohort.csv", "store=s3://bucket/features")
    return ("retrain", *words, SUNDAYS, "image=registry.example/mhim:0.1.0")


def test_a_schedule_is_a_file_that_keeps_its_flows_words(add: Mhim, registry: LocalStorage) -> None:
    ended = add(*EMBED, SUNDAYS, "timezone=Europe/Berlin")
    assert ended.code == 0, ended
    (planned,) = Book(registry).planned()
    schedule = planned.schedule
    assert schedule.words == ("cohort=s3://bucket/a 100%.csv", "store=s3://bucket/features")
    assert (schedule.flow, schedule.cron, schedule.timezone) == ("embed", "0 2 * * 0", "Europe/Berlin")
    assert schedule.folder == str(Path.cwd())
    assert f"{schedule.id}: mhim embed 'cohort=s3://bucket/a 100%.csv'" in ended.out
    assert f"mhim schedule serve registry={registry.uri}" in ended.out


def test_the_same_schedule_twice_is_one_in_whatever_order_its_words_come(add: Mhim, registry: LocalStorage) -> None:
    first = add(*EMBED, SUNDAYS)
    again = add(SUNDAYS, "embed", *reversed(EMBED[1:]))
    assert (first.code, again.code) == (0, 0)
    assert "is there already" in again.out
    assert len(Book(registry).planned()) == 1
    assert add(*EMBED, "cron=0 3 * * 0").code == 0
    assert len(Book(registry).planned()) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("embed", "cohort=a.csv", SUNDAYS), "embed needs store="),
        (("embed", "cohort=a.csv", "store=f", "epochs=3", SUNDAYS), "embed has no key 'epochs'"),
        (("embed", "cohort=a.csv", "store=f", "tile_px=x", SUNDAYS), "tile_px='x'"),
        (("embed", "cohort=a.csv", "store=f", "cron=0 2 * *"), "cron='0 2 * *' needs five fields"),
        (("embed", "cohort=a.csv", "store=f", SUNDAYS, "timezone=Mars"), "timezone='Mars'"),
        (("embed", "cohort=a.csv", "store=f"), "schedule add needs cron="),
        (("trian", SUNDAYS), "'trian' is no flow"),
        (("schedule", SUNDAYS), "'schedule' is no flow"),
        (("embed", "cohort=a.csv", "store=f", SUNDAYS, "target=kubernetes", "image=i"), "cohort=a.csv is relative"),
        ((*EMBED, SUNDAYS, "target=kuberay"), "target=kuberay needs image="),
    ],
)
def test_what_could_not_run_is_refused_now_and_leaves_nothing(
    add: Mhim, registry: LocalStorage, words: tuple[str, ...], reason: str
) -> None:
    ended = add(*words)
    assert ended.code == 2
    assert reason in ended.err
    assert not registry.root.exists()


def test_a_flow_is_told_the_registry_where_it_has_one(add: Mhim, registry: LocalStorage) -> None:
    assert add("predict", "model=lung@champion", "cohort=a.csv", "store=f", "out=o", SUNDAYS).code == 0
    assert f"registry={registry.uri}" in Book(registry).planned()[0].schedule.words


def test_ls_shows_when_and_how_it_went(add: Mhim, mhim: Mhim, registry: LocalStorage) -> None:
    add(*EMBED, SUNDAYS)
    add("evaluate", "run=r", SUNDAYS)
    book = Book(registry)
    first, second = (planned.schedule for planned in book.planned())
    assert mhim("schedule", "ls", f"registry={registry.uri}").out.count("never ran") == 2
    slot = Slot.of("20261129T020000Z")
    for schedule in (first, second):
        book.claim(schedule, slot, "somebody")
    book.end(first, slot, 4, 1.0, b"")
    out = mhim("schedule", "ls", f"registry={registry.uri}").out
    assert f"{first.id}  0 2 * * 0 UTC, next " in out
    (ended, _) = book.planned()
    when = f"{datetime.fromtimestamp(ended.ended_s, UTC):%Y-%m-%d %H:%M} UTC"
    assert abs(ended.ended_s - time.time()) < 60
    assert f"last run 20261129T020000Z: ended {when}, exit code 4: too many slides failed" in out
    assert "last run 20261129T020000Z: running" in out
    book.stop(second, slot, b"")
    assert re.search(
        r"was stopped \S+ \S+ UTC; goes on when served", mhim("schedule", "ls", f"registry={registry.uri}").out
    )


def test_ls_needs_no_more_than_to_read(
    add: Mhim, mhim: Mhim, registry: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(*EMBED, SUNDAYS)
    add("evaluate", "run=r", SUNDAYS)
    book = Book(registry)
    running, dead = (planned.schedule for planned in book.planned())
    for schedule in (running, dead):
        book.claim(schedule, Slot.of("20261129T020000Z"), "somebody")
    long_ago_s = time.time() - 2 * SILENT_S
    os.utime(registry.root / f"schedules/{dead.id}/runs/20261129T020000Z.json", (long_ago_s, long_ago_s))

    def deny(*_: object) -> None:
        raise StorageError("access denied")

    for name in ("put", "put_if_absent", "delete"):
        monkeypatch.setattr(LocalStorage, name, deny)
    ended = mhim("schedule", "ls", f"registry={registry.uri}")
    assert ended.code == 0, ended
    assert "cannot be written from here" in ended.out
    of_running, of_dead = ended.out.split(f"{dead.id}  ")
    assert "last run 20261129T020000Z: running" in of_running
    assert re.search(r"last run \w+: ended without a word, last heard of \S+ \S+ UTC; goes on when served", of_dead)


def test_ls_of_a_registry_that_does_not_answer_says_so(
    refused: Mhim, registry: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("no route to the store")

    for name in ("put", "list"):
        monkeypatch.setattr(LocalStorage, name, fail)
    assert refused("schedule", "ls", f"registry={registry.uri}", code=6) == "no route to the store"


def test_rm_keeps_what_ran(add: Mhim, mhim: Mhim, refused: Mhim, registry: LocalStorage) -> None:
    add("evaluate", "run=r", SUNDAYS)
    (planned,) = Book(registry).planned()
    schedule = planned.schedule
    Book(registry).claim(schedule, Slot.of("20261129T020000Z"), "somebody")
    assert mhim("schedule", "rm", schedule.id, f"registry={registry.uri}").code == 0
    assert Book(registry).planned() == []
    assert [entry.key for entry in registry.list(f"schedules/{schedule.id}")]
    assert f"no schedule '{schedule.id}'; it has none" in refused(
        "schedule", "rm", schedule.id, f"registry={registry.uri}"
    )


def test_run_now_ends_with_the_flows_exit_code_and_counts_as_its_last_run(
    add: Mhim, mhim: Mhim, registry: LocalStorage
) -> None:
    add("evaluate", "run=/nowhere", SUNDAYS)
    (planned,) = Book(registry).planned()
    ended = mhim("schedule", "run-now", planned.schedule.id, f"registry={registry.uri}")
    assert ended.code == 2
    assert "ended with exit code 2" in ended.out
    (after,) = Book(registry).planned()
    assert after.is_over
    assert after.last is not None
    assert Book(registry).exit_code(planned.schedule, after.last) == 2


def test_a_run_now_that_a_person_interrupts_is_over_and_no_service_goes_on_with_it(
    add: Mhim, mhim: Mhim, registry: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(schedule: Schedule, log: Path, beat: Callable[[], None]) -> int:
        log.write_text("as far as it came\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.schedule.launch_process", interrupted)
    add("evaluate", "run=/nowhere", SUNDAYS)
    (planned,) = Book(registry).planned()
    ended = mhim("schedule", "run-now", planned.schedule.id, f"registry={registry.uri}")
    assert ended.code == 130
    assert "stopped after" in ended.out
    (after,) = Book(registry).planned()
    assert after.last is not None
    assert Book(registry).exit_code(planned.schedule, after.last) == 130
    assert registry.get(f"schedules/{planned.schedule.id}/logs/{after.last.run}.log") == b"as far as it came\n"
    assert not Service(Book(registry), lambda: datetime.now(UTC), AllowList(), pytest.fail).look()
    assert "exit code 130" in mhim("schedule", "ls", f"registry={registry.uri}").out


def test_run_now_is_refused_while_a_run_goes_on(add: Mhim, mhim: Mhim, refused: Mhim, registry: LocalStorage) -> None:
    add("evaluate", "run=/nowhere", SUNDAYS)
    (planned,) = Book(registry).planned()
    Book(registry).claim(planned.schedule, Slot.of("20261129T020000Z"), "somebody")
    words = ("schedule", "run-now", planned.schedule.id, f"registry={registry.uri}")
    assert "is going on" in refused(*words, code=5)
    assert mhim(*words, "--force").code == 2


def test_a_schedule_reads_back_as_it_was_written_and_a_foreign_one_is_refused() -> None:
    schedule = Schedule(flow="embed", words=("a=b",), cron="0 2 * * 0", timezone="UTC", folder="/tmp")
    assert Schedule.from_bytes(schedule.to_bytes(), "here") == schedule
    for change in ({"schema": 9}, {"extra": 1}, {"cron": "never"}):
        raw = json.loads(schedule.to_bytes()) | change
        with pytest.raises(IntegrityError, match=r"^here[ :]"):
            Schedule.from_bytes(json.dumps(raw).encode(), "here")


def test_a_crontab_line_runs_this_python_in_this_folder_with_its_percent_signs(
    add: Mhim, registry: LocalStorage
) -> None:
    out = add(*EMBED, SUNDAYS, "target=crontab").out
    *comments, line = out.splitlines()
    assert all(comment.startswith("# ") for comment in comments)
    assert not registry.root.exists(), "nothing is kept"
    schedule, command = line[: len("0 2 * * 0")], line[len("0 2 * * 0 ") :]
    assert schedule == "0 2 * * 0"
    assert "%" not in command.replace(r"\%", "")
    words = shlex.split(command.replace(r"\%", "%"))  # what cron hands to sh
    assert words[:3] == ["cd", str(Path.cwd()), "&&"]
    assert words[3:8] == [sys.executable, "-P", "-m", "flows.cli", "embed"]
    assert {"cohort=s3://bucket/a 100%.csv", "partial_ok=true"} <= set(words)


def test_the_command_of_a_crontab_line_can_be_run(add: Mhim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "it's 5 % off").mkdir()
    monkeypatch.chdir(folder)
    line = add("evaluate", "run=/no where", SUNDAYS, "target=crontab").out.splitlines()[-1]
    command = line[len("0 2 * * 0 ") :].replace(r"\%", "%")
    process = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("mhim: run=/no where holds no run")


def test_an_exit_code_of_one_of_its_own_is_kept(add: Mhim) -> None:
    assert "partial_ok=false" in add(*EMBED, "partial_ok=false", SUNDAYS, "target=crontab").out
    assert "partial_ok" not in add("evaluate", "run=r", SUNDAYS, "target=crontab").out


def test_a_cron_job_is_what_kubernetes_takes_and_what_deploy_shows(add: Mhim, retrain: tuple[str, ...]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    out = add(*retrain, "timezone=Etc/UTC", "target=kubernetes").out
    document = yaml.safe_load(out)
    validate.validate(document, validate.latest_version(), strict=True)
    shown = yaml.safe_load((DEPLOY / "cronjob.yaml").read_text())
    (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (shown_container,) = shown["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["ray_address=http://mhim-head-svc:8265", "--wait"]
    assert "partial_ok=true" in container["args"]
    for container_shown in (container, shown_container):
        container_shown["args"] = set(container_shown["args"])
    shown["metadata"]["name"] = document["metadata"]["name"]
    assert document == shown


def test_a_ray_cron_job_says_its_feature_gate_and_is_what_deploy_shows(add: Mhim, retrain: tuple[str, ...]) -> None:
    out = add(*retrain, "target=kuberay").out
    assert "alpha" in out.splitlines()[0]
    assert "feature gate RayCronJob" in out.splitlines()[0]
    document = yaml.safe_load(out)
    shown = yaml.safe_load((DEPLOY / "raycronjob.yaml").read_text())
    words = [shlex.split(cron_job["spec"]["jobTemplate"].pop("entrypoint")) for cron_job in (document, shown)]
    assert words[0][:6] == words[1][:6] == ["env", "MHIM_IN_JOB=1", "python", "-m", "flows.cli", "retrain"]
    assert set(words[0]) == set(words[1])
    assert document["spec"].pop("timeZone") == "UTC"
    shown["metadata"]["name"] = document["metadata"]["name"]
    assert document == shown


def test_words_reach_the_pod_as_they_were_typed(add: Mhim) -> None:
    typed = "cohort=s3://bucket/it's a 100%.csv"
    words = ("embed", typed, "store=s3://bucket/features", SUNDAYS, "image=registry.example/mhim:1")
    document = yaml.safe_load(add(*words, "target=kubernetes", "submit_to=http://head:8265").out)
    (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["mhim", "submit", "embed"]
    assert {typed, "ray_address=http://head:8265"} <= set(container["args"])
    assert [variable["name"] for variable in container["env"] if "value" in variable] == ["RAY_AUTH_MODE"], (
        "the token is a secret"
    )
    job = yaml.safe_load(add(*words, "target=kuberay").out)["spec"]["jobTemplate"]
    assert {typed, "partial_ok=true", "ray_address=auto"} <= set(shlex.split(job["entrypoint"]))


@pytest.mark.parametrize("typed", ["--partial-ok", "partial_ok=true", "--partial_ok"])
@pytest.mark.parametrize("target", ["local", "crontab", "kubernetes", "kuberay"])
def test_a_flag_of_the_flow_is_the_word_that_it_stands_for(
    add: Mhim, registry: LocalStorage, typed: str, target: str
) -> None:
    ended = add(*EMBED, typed, SUNDAYS, f"target={target}", "image=registry.example/mhim:1")
    assert ended.code == 0, ended
    output = ended.out if target != "local" else " ".join(Book(registry).planned()[0].schedule.words)
    assert output.count("partial_ok=true") == 1
    assert "--partial" not in output


def test_a_flag_and_its_word_together_are_given_twice(refused: Mhim, registry: LocalStorage) -> None:
    words = ("schedule", "add", *EMBED, SUNDAYS, "--partial-ok", "partial_ok=false", f"registry={registry.uri}")
    assert "key 'partial_ok' is given twice" in refused(*words)


def test_a_flag_and_its_word_are_one_schedule(add: Mhim, registry: LocalStorage) -> None:
    assert add(*EMBED, SUNDAYS, "--partial-ok").code == add(*EMBED, SUNDAYS, "partial_ok=true").code == 0
    assert len(Book(registry).planned()) == 1


@pytest.mark.parametrize("more", [(), ("--partial-ok",), ("partial_ok=false", "tile_px=128")], ids=str)
def test_what_a_pod_is_told_is_read_there_as_it_was_here(add: Mhim, more: tuple[str, ...]) -> None:
    out = add(*EMBED, *more, SUNDAYS, "target=kubernetes", "image=i", "submit_to=http://head:8265").out
    (container,) = yaml.safe_load(out)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    submit = read_words("submit", [*container["command"][2:], *container["args"]])
    assert (submit.flow, submit.cluster.ray_address, submit.wait) == ("embed", "http://head:8265", True)
    assert read_flow("embed", submit.overrides).failures.partial_ok == ("partial_ok=false" not in more)


@pytest.mark.parametrize(
    ("target", "address", "where"),
    [
        ("kubernetes", "auto", "that submit_to= names"),
        ("kubernetes", "local", "that submit_to= names"),
        ("kubernetes", "head:6379", "that submit_to= names"),
        ("kuberay", "local", "that is made for it"),
        ("kuberay", "head:6379", "that is made for it"),
    ],
)
def test_an_address_of_ray_is_refused_where_the_target_has_one(
    refused: Mhim, registry: LocalStorage, target: str, address: str, where: str
) -> None:
    words = (*EMBED, SUNDAYS, "image=i", f"target={target}", f"ray_address={address}", f"registry={registry.uri}")
    message = refused("schedule", "add", *words)
    assert message.startswith(f"leave ray_address={address} out: with target={target} ")
    assert where in message


def test_an_address_of_ray_is_the_flow_s_own_where_the_target_has_none(add: Mhim, registry: LocalStorage) -> None:
    assert add(*EMBED, SUNDAYS, "ray_address=head:6379").code == 0
    assert "ray_address=head:6379" in Book(registry).planned()[0].schedule.words
    assert "ray_address=head:6379" in add(*EMBED, SUNDAYS, "ray_address=head:6379", "target=crontab").out
    assert add(*EMBED, SUNDAYS, "ray_address=auto", "target=kuberay", "image=i").out.count("ray_address=auto") == 1


def test_a_flow_without_ray_is_given_no_address_of_it(add: Mhim) -> None:
    document = yaml.safe_load(add("evaluate", "run=s3://bucket/run", SUNDAYS, "target=kuberay", "image=i").out)
    words = shlex.split(document["spec"]["jobTemplate"]["entrypoint"])
    assert words[2:] == ["python", "-m", "flows.cli", "evaluate", "run=s3://bucket/run"]


def test_every_target_is_one_of_four() -> None:
    assert [target.value for target in Target] == ["local", "crontab", "kubernetes", "kuberay"]
    assert ScheduleAddConfig(flow="x", cron="x", registry="x").target is Target.local
