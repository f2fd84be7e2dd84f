"""kill -9 in the middle, and the same command again: nothing is lost, nothing is done twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.types import ExitCode

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
START_S = 120
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def start(*words: str) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, Ray and all."""
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def run(*words: str) -> None:
    process = start(*words)
    assert process.wait(timeout=200) == ExitCode.OK


def kill_when(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """SIGKILL to the driver alone, as an out-of-memory killer would; what could still commit must end by itself."""
    end_s = time.monotonic() + START_S
    while not condition():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < end_s
        time.sleep(0.05)
    members = session_members(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end_s = time.monotonic() + 60
    while any(is_running(pid) for pid, name in members.items() if not name.startswith(RAY_AGENTS)):
        assert time.monotonic() < end_s, "processes of the killed command are still there"
        time.sleep(0.2)
    for pid in members:  # Ray's agents wait a minute for a head that is gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session_members(session: int) -> dict[int, str]:
    listed = subprocess.run(["ps", "-s", str(session), "-o", "pid=,args="], capture_output=True, text=True, check=True)
    return {int(line.split()[0]): line.split(maxsplit=1)[1] for line in listed.stdout.splitlines()}


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def commits(store: Path) -> list[Path]:
    return sorted((store / "commits").rglob("*.json")) if store.exists() else []


def newest_summary(store: Path) -> dict[str, Any]:
    newest = max((store / "reports").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    summary: dict[str, Any] = json.loads((newest / "summary.json").read_text())
    return summary


def test_a_killed_embedding_goes_on_with_what_is_not_committed(
    painted: Any, features_of: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    words = ["embed", f"cohort={painted.cohort}", "encoder=hed-texture", "slides_per_call=1"]
    kill_when(start(*words, f"store={killed}"), lambda: len(commits(killed)) >= 3)
    before = {path: path.stat().st_mtime_ns for path in commits(killed)}
    assert 3 <= len(before) < 12, "it was to be killed half way"
    run(*words, f"store={killed}")
    counts = newest_summary(killed)["counts"]
    assert counts["skipped"] == len(before)
    assert counts["ok"] == 12 - len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run(*words, f"store={clean}")
    assert features_of(killed) == features_of(clean)
    assert len(commits(killed)) == 12


def test_a_killed_training_goes_on_and_ends_with_the_models_of_an_uninterrupted_one(
    painted: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run("embed", f"cohort={painted.cohort}", f"store={store}", "encoder=hed-texture")
    words = ["train", f"cohort={painted.cohort}", f"store={store}", "folds=2", "epochs=40", "embed_dim=32"]
    words += ["checkpoint_every=1"]
    killed, clean = tmp_path / "killed", tmp_path / "clean"

    def in_the_second_fit() -> bool:
        return any((killed / "fits/fold-0/mhim/attempts").rglob("epoch-*"))

    kill_when(start(*words, f"out={killed}"), in_the_second_fit)
    assert (killed / "fits/fold-0/plain/result.json").exists()
    assert not (killed / "fits/fold-1/mhim/result.json").exists()
    run(*words, f"out={killed}")
    run(*words, f"out={clean}")
    results = sorted(path.relative_to(clean) for path in clean.rglob("result.json"))
    assert len(results) == 4
    for name in results:
        assert (killed / name).read_bytes() == (clean / name).read_bytes()
