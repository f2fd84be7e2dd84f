"""The `.tmp-*` files of local writers: locked while their writer lives, so that a dead one's can be told and removed.

A folder that is as short-lived as its process holds such a file, and is dead once all of them are. A lock (flock) goes
with its process, however that ends. Where a file system has none, or keeps them on each host, age alone decides; ages
are by the file system's own clock, since hosts' clocks differ by days.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PREFIX = ".tmp-"
LEFT_BEHIND_S = 3600.0
"""From this age on a file without a lock is taken for left behind: a writer has all its bytes before it begins."""
_WITHOUT_LOCKS_S = 86_400.0
_JUST_MADE_S = 5.0
"""Between its making and its lock a file looks like a dead one's."""
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


def find_dead(folder: Path, now_s: float, min_age_s: float) -> Iterator[Path]:
    """The files at and below the folder that `sweep` would remove."""
    for path in find_temporaries(folder):
        with contextlib.suppress(OSError), _claimed(path, now_s, min_age_s) as is_dead:
            if is_dead:
                yield path


def _remove_if_dead(path: Path, now_s: float, min_age_s: float) -> bool:
    with contextlib.suppress(OSError), _claimed(path, now_s, min_age_s) as is_dead:
        if is_dead:
            path.unlink()
        return is_dead
    return False


@contextmanager
def _claimed(path: Path, now_s: float, min_age_s: float) -> Iterator[bool]:
    """Whether the file's writer is dead; if so, it is locked against others for as long as the block runs.

    Raises OSError where it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)  # NFS locks only what is open for writing
    try:
        age_s = now_s - os.fstat(descriptor).st_mtime
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            min_age_s = max(min_age_s, _WITHOUT_LOCKS_S)
        yield age_s >= min_age_s
    finally:
        os.close(descriptor)


def new_owned_folder(root: Path, prefix: str) -> Temporary:
    """A new folder `prefix…` and the lock inside it, whose closing gives it up. Raises OSError."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        with contextlib.suppress(FileNotFoundError):  # swept between its making and its lock
            return new_temporary(folder)


def sweep_folders(root: Path, prefix: str, min_age_s: float = _JUST_MADE_S) -> list[Path]:
    """Remove the folders `prefix…` in `root` whose owners are all dead; those that are left, their owners alive."""
    alive = []
    with contextlib.suppress(OSError):
        folders = [Path(entry.path) for entry in os.scandir(root) if entry.name.startswith(prefix) and _is_own(entry)]
        now_s = _clock_s(root) if folders else 0.0
        for folder in folders:
            if _has_owner(folder, now_s, min_age_s):
                alive.append(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return alive


def _is_own(entry: "os.DirEntry[str]") -> bool:
    """A folder, no link, of this user: a temporary folder is shared with people whose locks cannot be seen."""
    with contextlib.suppress(OSError):
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    return False


def _clock_s(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _has_owner(folder: Path, now_s: float, min_age_s: float) -> bool:
    try:
        locks = [path for path in folder.iterdir() if path.name.startswith(PREFIX)]
        if not locks:  # its owner has not locked it yet, or was killed before
            return now_s - folder.stat().st_mtime < _WITHOUT_LOCKS_S
        for path in locks:
            with _claimed(path, now_s, min_age_s) as is_dead:
                if not is_dead:
                    return True
    except OSError:  # gone by itself, or not to be looked into
        return folder.exists()
    return False


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
