"""The folder for a user's own files on this machine: tracebacks, logs of runs in progress, and what may run here."""

import errno
import os
import stat
import tempfile
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def state_folder() -> Path:
    """By the XDG rules, or in the temporary folder for a user without a home; it need not exist yet."""
    chosen = os.environ.get("XDG_STATE_HOME")
    if chosen:
        return Path(chosen, "mhim")
    try:
        return Path.home() / ".local/state/mhim"
    except RuntimeError:  # no HOME, and a user that the machine does not know: a container's
        return Path(tempfile.gettempdir(), f"mhim-state-{os.getuid()}")


def private_folder(*names: str) -> Path:
    """The state folder, or a folder below it, made if need be; no other user can read or change it (0700).

    Raises OSError if it cannot be made, PermissionError if it belongs to another user: in the temporary folder anyone
    could have made it first.
    """
    folder = state_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for part in (folder, *(folder.joinpath(*names[: depth + 1]) for depth in range(len(names)))):
        part.mkdir(mode=0o700, exist_ok=True)
        if {part.lstat().st_uid, part.stat().st_uid} != {os.geteuid()}:
            raise PermissionError(errno.EPERM, "belongs to another user", str(part))
        if not part.is_symlink() and part.stat().st_mode & _OTHERS:
            part.chmod(0o700)
    return folder.joinpath(*names)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a file that no other user can read (0600). Raises OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o600)
    return descriptor
