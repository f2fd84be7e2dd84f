"""What a Ray of one's own needs of its machine: a folder for its sockets and a token, which containers and batch
systems may lack; and how much memory there is.
"""

import contextlib
import os
import resource
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mhim_core.errors import ConfigError

_MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (`sun_path` of unix(7), less its end)."""
_BELOW_TEMPORARY = len("/ray/session_2026-01-31_23-59-59_999999_9999999/sockets/plasma_store.99")
"""What Ray puts below its temporary folder, at its longest."""
_MIN_THREADS = 200
"""Threads of Ray's own processes and one worker, about; where they cannot be had they abort without a word."""
_MIN_FILES = 1024
_SHARED_MEMORY = "/dev/shm"
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")


@contextmanager
def ray_folder() -> Iterator[str | None]:
    """A temporary folder short enough for Ray's sockets, gone after the block; None: Ray's own choice is.

    Where RAY_TMPDIR or TMPDIR is too long, it is a link to it, so that Ray's files lie where they were asked for.
    Raises ConfigError (2) where no short folder can be written.
    """
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    is_usable = _is_writable(asked)
    if is_usable and len(os.fsencode(asked)) + _BELOW_TEMPORARY <= _MAX_SOCKET_PATH:
        yield None
        return
    place = _make_short_folder()
    if place is None:
        fault = "is too long for Ray's sockets" if is_usable else "cannot be written"
        raise ConfigError(f"the temporary folder {asked} {fault}; set RAY_TMPDIR to a short folder, such as /tmp")
    try:
        folder = place / "t"
        if is_usable:
            folder.symlink_to(Path(asked).absolute())
        else:
            folder.mkdir()
        yield str(folder)
    finally:
        if (place / "t").is_symlink():
            (place / "t").unlink()
        shutil.rmtree(place, ignore_errors=True)


def check_threads(num_threads: int = _MIN_THREADS) -> None:
    """Raises ConfigError (2) where this user or container may not start as many threads more."""
    done = threading.Event()
    threads = []
    try:
        for _ in range(num_threads):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        limit = limit_in_the_way(error) or "raise that limit (ulimit -u, or the container's pids limit)"
        raise ConfigError(
            f"only {len(threads)} more processes or threads may be started here, Ray needs about {num_threads}: {limit}"
        ) from None
    finally:
        done.set()
        for thread in threads:
            thread.join()


def object_store_folder() -> str | None:
    """Where Ray keeps its object store if it cannot use shared memory; None: it can."""
    return None if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else tempfile.gettempdir()


def limit_in_the_way(error: Exception) -> str | None:
    """What of this machine has most likely kept Ray from starting, with the setting that helps; None: nothing known."""
    num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files != resource.RLIM_INFINITY and num_files < _MIN_FILES:
        return f"only {num_files} files may be open: raise that limit (ulimit -n {4 * _MIN_FILES})"
    num_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if num_bytes != resource.RLIM_INFINITY:
        return (
            f"a process may take only {num_bytes / 2**30:.1f} GiB of addresses: lift that limit (ulimit -v unlimited)"
        )
    if isinstance(error, ValueError) and "object store" in str(error):
        return "the machine, or the container's limit, leaves it too little memory: give it more"
    return None


def _is_writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _make_short_folder() -> Path | None:
    for folder in _SHORT_FOLDERS:
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="mhim-", dir=folder))
    return None


def ensure_token() -> None:
    """A token of this process's own where Ray could not keep one in the home folder: it has none, or is not writable.

    Ray starts with a token by default and writes it to ~/.ray. What the environment says of tokens is left alone.
    """
    says_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    is_off = os.environ.get("RAY_AUTH_MODE") == "disabled"
    if not says_token and not is_off and not _home_keeps_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)


def _home_keeps_token() -> bool:
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / "auth_token"
        return os.access(token, os.R_OK) if token.exists() else os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # RuntimeError: no HOME, and a user that the machine does not know
        return False


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""A container's, by version 2 and 1 of control groups."""


def memory_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            amounts.append(int(Path(path).read_text()))
    return min(amounts)
