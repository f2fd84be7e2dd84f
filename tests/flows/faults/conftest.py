"""Processes ended by a signal at the worst time."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Descendants = Callable[[int], dict[int, str]]
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They wait a minute for a head that is gone; all else must end with its driver, or it could still commit."""


def wait_until(condition: Callable[[], Any], limit_s: float = 300.0) -> Any:
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s:g} s")


def assert_ended_well(driver: subprocess.Popen[bytes], sent_s: float, output: str) -> None:
    """The driver was told to stop at `sent_s` and did so within the 30 s that Kubernetes gives, in a sentence."""
    assert driver.returncode == 143, output
    assert time.monotonic() - sent_s < 30
    assert output.splitlines()[-1].startswith(
        "mhim: ended by SIGTERM; what was committed is kept; run the same command"
    )
    assert "Traceback" not in output
    assert "***" not in output, "the abort trace of Ray's core"


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def waiting() -> Callable[..., Any]:
    """`wait_until`, for tests."""
    return wait_until


@pytest.fixture
def killed_when(tmp_path: Path, descendants_of: Descendants) -> Callable[..., None]:
    """killed_when(condition, "embed", …): that command in a process of its own, whose driver is killed.

    `and_all_below`: as if the machine went down; else what its driver left must end by itself. `kind`: SIGTERM, after
    which the driver must end by itself, in order.
    """

    def run(
        condition: Callable[[], Any],
        *words: str,
        and_all_below: bool = False,
        kind: signal.Signals = signal.SIGKILL,
    ) -> None:
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
        with (tmp_path / "output").open("w+") as output:
            driver = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words], stdout=output, stderr=output, env=environment
            )
            below: dict[int, str] = {}
            try:
                wait_until(lambda: condition() or driver.poll() is not None)
                below = descendants_of(driver.pid)
                assert driver.poll() is None, (tmp_path / "output").read_text()
            finally:
                for pid in (driver.pid, *(below if and_all_below else ())):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, kind)
                sent_s = time.monotonic()
                driver.wait()
                if kind is signal.SIGTERM:
                    assert_ended_well(driver, sent_s, (tmp_path / "output").read_text())
                working = [pid for pid, title in below.items() if not title.startswith(RAY_AGENTS)]
                wait_until(lambda: not any(is_running(pid) for pid in working), limit_s=200)
                for pid in below:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    return run


@pytest.fixture
def killing(descendants_of: Descendants) -> Callable[..., Any]:
    """`with killing(name, condition)`: the first process of our own Ray whose title holds `name`, when it holds."""

    @contextlib.contextmanager
    def kill_one(name: str, condition: Callable[[], Any]) -> Iterator[list[int]]:
        killed: list[int] = []

        def work() -> None:
            wait_until(condition)
            pids = wait_until(lambda: [pid for pid, title in descendants_of(os.getpid()).items() if name in title])
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield killed
        finally:
            thread.join()

    return kill_one


@pytest.fixture
def embedding(painted: Any, tmp_path: Path) -> tuple[str, ...]:
    return ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={tmp_path / 'store'}", "local_cpus=2")
