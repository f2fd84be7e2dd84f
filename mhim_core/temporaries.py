"""The `.tmp-*` files of local writers: locked while their writer lives, so that a dead one's can be told and removed.

A lock (flock) goes with its process, however that ends. Where a file system has none, or keeps them on each host, age
alone decides; ages are by the file system's own clock, since hosts' clocks differ by days.
"""

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PREFIX = ".tmp-"
LEFT_BEHIND_S = 3600.0
"""From this age on a file without a lock is taken for left behind: a writer has all its bytes before it begins."""
_WITHOUT_LOCKS_S = 86_400.0
_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)
"""What fsync(2) says of a folder on file systems that cannot: some FUSE and SMB mounts."""


class Temporary(NamedTuple):
    """A new file, open for writing."""

    descriptor: int
    path: str


def new_temporary(folder: Path) -> Temporary:
    """A locked file in the folder; closing it gives up the lock. Raises OSError."""
    while True:
        path = str(folder / f"{PREFIX}{uuid.uuid4().hex}")
        # not mkstemp's 0600: whom a folder is shared with is for the user's umask, and default ACLs, to say
        temporary = Temporary(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path)
        with contextlib.suppress(OSError):  # no locks here: age protects it
            fcntl.flock(temporary.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(temporary.path):
            return temporary
        os.close(temporary.descriptor)  # swept between its making and its lock


def find_temporaries(folder: Path) -> Iterator[Path]:
    """Every temporary file at and below the folder, its writer alive or not."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.startswith(PREFIX))


def sweep(folder: Path, now_s: float, min_age_s: float = LEFT_BEHIND_S) -> int:
    """Remove what dead writers left in this very folder; how many files. One that cannot be removed does no harm."""
    num_removed = 0
    with contextlib.suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(PREFIX)]:
            num_removed += _remove_if_dead(path, now_s, min_age_s)
    return num_removed


def _remove_if_dead(path: Path, now_s: float, min_age_s: float) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)  # NFS locks only what is open for writing
    except OSError:
        return False
    try:
        age_s = now_s - os.fstat(descriptor).st_mtime
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # its writer lives
        except OSError:
            min_age_s = max(min_age_s, _WITHOUT_LOCKS_S)
        if age_s < min_age_s:
            return False
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make names in the folder survive a power cut. Raises OSError, except where folders cannot be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder that may be written and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(descriptor)
