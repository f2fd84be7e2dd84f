"""Machines as containers and batch systems make them: no home folder, and temporary folders with long names."""

import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from cluster import machine
from cluster.machine import check_threads, ensure_token, limit_in_the_way, object_store_folder, ray_folder
from cluster.session import kept_alive, ray_session
from mhim_core.errors import ConfigError

SOCKET = "session_2026-11-28_02-09-04_608457_4194304/sockets/plasma_store"


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The TMPDIR of a batch job."""
    folder = tmp_path / f"slurm_jobdir_1355700_{'x' * 90}"
    folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_ray_keeps_a_short_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with ray_folder() as folder:
        assert folder is None


@pytest.mark.fault(46)
def test_a_long_temporary_folder_is_reached_by_a_short_name_while_the_session_lasts(long_folder: Path) -> None:
    (long_folder / "file").touch()
    with ray_folder() as folder:
        assert folder is not None
        assert len(f"{folder}/{SOCKET}") <= 107
        assert Path(folder, "file").exists()
    assert not Path(folder).parent.exists()
    assert (long_folder / "file").exists()


@pytest.mark.fault(46)
def test_where_no_short_folder_can_be_written_the_key_is_named(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.machine._SHORT_FOLDERS", (str(long_folder / "absent"),))
    with pytest.raises(ConfigError, match="RAY_TMPDIR"), ray_folder():
        pass


@pytest.mark.fault(46)
def test_a_temporary_folder_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file/below"))
    with ray_folder() as folder:
        assert folder is not None
        assert os.access(folder, os.W_OK)


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken away after the test
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.fault(46)
def test_a_home_that_cannot_be_written_gets_a_token_in_the_environment(no_tokens: pytest.MonkeyPatch) -> None:
    no_tokens.setenv("HOME", "/proc")
    ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 32


@pytest.mark.fault(46)
def test_a_user_without_a_home_gets_a_token_in_the_environment(no_tokens: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    no_tokens.setattr("pathlib.Path.home", no_home)
    ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 32


def test_a_home_that_can_be_written_keeps_ray_s_own_token(no_tokens: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_tokens.setenv("HOME", str(tmp_path))
    ensure_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/some/file")])
def test_what_the_environment_says_of_tokens_is_left_alone(
    no_tokens: pytest.MonkeyPatch, name: str, value: str
) -> None:
    no_tokens.setenv("HOME", "/proc")
    no_tokens.setenv(name, value)
    ensure_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_ray_starts_below_a_long_temporary_folder(long_folder: Path) -> None:
    import ray

    assert not tempfile.gettempdir().startswith(str(long_folder))
    with kept_alive(), ray_session("local", local_cpus=1):
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        assert list(long_folder.glob("session_*"))


def test_a_container_s_limit_is_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, none = tmp_path / "limit", tmp_path / "none"
    limit.write_text("1000000\n")
    none.write_text("max\n")
    monkeypatch.setattr(machine, "_LIMITS", (str(none), str(tmp_path / "absent")))
    physical = machine.memory_bytes()
    assert physical > 10**8
    monkeypatch.setattr(machine, "_LIMITS", (str(none), str(limit)))
    assert machine.memory_bytes() == 10**6


NO_THREADS = """
import os, resource
import cluster.machine
if os.geteuid() == 0:  # root has no such limit
    os.setgroups([]); os.setgid(54321); os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
cluster.machine.check_threads()
"""


@pytest.mark.fault(46)
def test_a_limit_of_processes_that_would_abort_ray_is_named() -> None:
    ended = subprocess.run([sys.executable, "-c", NO_THREADS], capture_output=True, text=True)
    assert "ConfigError: only " in ended.stderr
    assert "ulimit -u" in ended.stderr


def test_threads_that_may_be_started_are_gone_again() -> None:
    before = threading.active_count()
    check_threads()
    assert threading.active_count() == before


@pytest.mark.fault(46)
def test_without_shared_memory_the_object_store_lies_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert object_store_folder() is None
    monkeypatch.setattr("cluster.machine._SHARED_MEMORY", str(tmp_path / "absent"))
    assert object_store_folder() == tempfile.gettempdir()


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    ("kind", "limit", "setting"),
    [(resource.RLIMIT_NOFILE, 40, "ulimit -n"), (resource.RLIMIT_AS, 2**31, "ulimit -v"), (None, 0, None)],
)
def test_the_limit_that_keeps_ray_from_starting_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, kind: int | None, limit: int, setting: str | None
) -> None:
    limits = {kind: limit}
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr("resource.getrlimit", lambda asked: (limits[asked],) * 2 if asked in limits else no_limit)
    sentence = limit_in_the_way(Exception("The current node timed out during startup"))
    assert (sentence is None) == (setting is None)
    assert setting is None or setting in (sentence or "")


def test_too_little_memory_for_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda asked: (resource.RLIM_INFINITY,) * 2)
    error = ValueError("Attempting to cap object store memory usage at 230212 bytes, but the minimum allowed is 7")
    assert "memory" in (limit_in_the_way(error) or "")
