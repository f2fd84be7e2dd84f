"""Machines as containers and batch systems make them: no home folder, and temporary folders with long names."""

import os
import tempfile
from pathlib import Path

import pytest

from cluster import machine
from cluster.machine import ensure_token, ray_folder
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


def test_a_long_temporary_folder_is_reached_by_a_short_name_while_the_session_lasts(long_folder: Path) -> None:
    (long_folder / "file").touch()
    with ray_folder() as folder:
        assert folder is not None
        assert len(f"{folder}/{SOCKET}") <= 107
        assert Path(folder, "file").exists()
    assert not Path(folder).parent.exists()
    assert (long_folder / "file").exists()


def test_where_no_short_folder_can_be_written_the_key_is_named(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.machine._SHORT_FOLDERS", (str(long_folder / "absent"),))
    with pytest.raises(ConfigError, match="RAY_TMPDIR"), ray_folder():
        pass


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


def test_a_home_that_cannot_be_written_gets_a_token_in_the_environment(no_tokens: pytest.MonkeyPatch) -> None:
    no_tokens.setenv("HOME", "/proc")
    ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 32


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
