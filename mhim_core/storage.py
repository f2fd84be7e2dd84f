"""All stored data pass through here: a small protocol, and its implementation on a local file system.

Every output of the system goes through a `Storage` (features, manifests, runs, reports), because a job's own disk is
gone when the job is. Keys are relative, `/`-separated, and never leave the root.
"""

import contextlib
import ctypes
import errno
import io
import itertools
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mhim_core.errors import ConfigError, NotFoundError, StorageError
from mhim_core.temporaries import LEFT_BEHIND_S, PREFIX, find_dead, find_temporaries, new_temporary, sweep, sync_folder

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*(/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*")


class Entry(NamedTuple):
    """One listed object."""

    key: str
    num_bytes: int
    modified_s: float
    """The store's own Last-Modified, seconds since the epoch."""


class Storage(Protocol):
    """Get, put, put-if-absent, list, delete. Implementations are picklable and open connections lazily.

    Raises `NotFoundError` (get of a missing key), `StorageError` (unreachable, denied), `ConfigError` (a bad key).
    """

    uri: str
    """Where it lies, for messages: an absolute folder or `s3://bucket/prefix`."""

    def get(self, key: str) -> bytes:
        """The whole content. Raises NotFoundError for a missing key."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write atomically, replacing what was there."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write atomically only if the key is free. False: it was taken, and nothing was changed."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object below the folder `prefix` ("" for all), sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Remove the key; no error if it is not there."""
        ...

    def locate(self, key: str) -> str:
        """The key's full address, for messages."""
        ...


def check_key(key: str) -> str:
    """The key itself, or ConfigError if it could leave the root or confuse a file system."""
    if len(key) > 900 or not _KEY.fullmatch(key):
        raise ConfigError(f"storage key {key!r} is not a plain relative path of letters, digits and ._=+-")
    return key


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file to read. Raises OSError, also for a pipe, a socket or a device: its bytes may never come, or never end."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - it is the caller's
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
    """A whole file, of `max_bytes` at most where that is given. Raises OSError, as `open_file` and for a larger one."""
    with open_file(path) as file:
        if max_bytes is None:
            return file.read()
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return data


def _open_at_once(path: str, flags: int) -> int:
    """A pipe is opened even if it has no writer."""
    return os.open(path, flags | os.O_NONBLOCK)


class LocalStorage:
    """A folder as an object store: writes are temp file + fsync + rename (for put_if_absent: without replacing) + fsync
    of the folder, so that what was written is there after a power cut.

    `root` is made on the first write. Safe for several processes of several hosts on one POSIX file system.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self.uri = str(self.root)
        self._swept: set[Path] = set()

    def get(self, key: str) -> bytes:
        path = self.root / check_key(key)
        try:
            return read_file(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFoundError(f"{path} does not exist") from None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def put(self, key: str, data: bytes) -> None:
        path = self.root / check_key(key)
        self._write(path, data, lambda temporary: os.replace(temporary, path))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.root / check_key(key)
        try:
            self._write(path, data, lambda temporary: _publish_if_absent(temporary, path))
        except FileExistsError:
            return False
        return True

    def _write(self, path: Path, data: bytes, publish: Callable[[str], None]) -> None:
        temporary = None
        try:
            self._check_links(path.parent)
            self._make_folder(path.parent)
            descriptor, temporary = new_temporary(path.parent)
            with os.fdopen(descriptor, "wb") as file:  # closed last: its lock says that the writer lives
                self._sweep_once(path.parent, os.fstat(descriptor).st_mtime)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                publish(temporary)
            sync_folder(path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        new = list(itertools.takewhile(lambda place: not place.exists(), (folder, *folder.parents)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # only a taken key may look like one
            raise StorageError(f"cannot write below {folder}: a file is in the way") from None
        for place in new:
            sync_folder(place.parent)

    def _check_links(self, folder: Path) -> None:
        """Raises StorageError for a folder below the root that another user has replaced by a link to somewhere else.

        As it is now: who can write to a folder can still replace it between this look and the write.
        This user, root and the owner of the storage may: a store's features may lie on another disk.
        """
        links = [place for place in (folder, *folder.parents) if self.root in place.parents and place.is_symlink()]
        for link in links:
            if _owner(link) not in (0, os.geteuid(), self.root.stat().st_uid):
                raise StorageError(
                    f"cannot write below {link}: it is a link to {os.readlink(link)} that another user (id "
                    f"{_owner(link)}) has put there; remove it, or have the owner of {self.root} make it"
                )

    def _sweep_once(self, folder: Path, now_s: float) -> None:
        """What killed writers left in a folder goes with the first write to it."""
        if folder not in self._swept:
            self._swept.add(folder)
            sweep(folder, now_s)

    def leftovers(self) -> list[str]:
        """Paths, relative to the root, of every writer's temporary file, the writer alive or killed."""
        return sorted(path.relative_to(self.root).as_posix() for path in find_temporaries(self.root))

    def dead_leftovers(self, now_s: float, min_age_s: float) -> list[Entry]:
        """Those whose writer was killed, no younger than this by the file system's clock."""
        entries = []
        for path in find_dead(self.root, now_s, min_age_s):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                entries.append(Entry(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime))
        return sorted(entries)

    def prune(self, prefix: str) -> None:
        """Remove the empty folders at and below this one: their names may say what must not be known any more."""
        for folder, _, _ in os.walk(self.root / check_key(prefix), topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)

    def sweep(self, prefix: str, min_age_s: float) -> int:
        """Remove what killed writers left at and below the folder, no younger than this; how many files."""
        base = self.root / check_key(prefix) if prefix else self.root
        self._check_links(base)
        folders = {path.parent for path in find_temporaries(base)}
        if not folders:
            return 0
        try:
            with tempfile.NamedTemporaryFile(prefix=PREFIX, dir=base) as file:
                now_s = os.fstat(file.fileno()).st_mtime
        except OSError as error:
            raise StorageError(f"cannot write {base}: {error.strerror}") from error
        return sum(sweep(folder, now_s, min_age_s) for folder in folders)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_swept": set()}

    def list(self, prefix: str) -> Iterator[Entry]:
        base = self.root / check_key(prefix) if prefix else self.root
        entries = []
        for folder, names in _walk(base):
            for name in names:
                if name.startswith("."):
                    continue
                path = Path(folder, name)
                status = _status(path)
                if status is not None:
                    entries.append(Entry(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime))
        return iter(sorted(entries))

    def delete(self, key: str) -> None:
        path = self.root / check_key(key)
        self._check_links(path.parent)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"cannot delete {path}: {error.strerror}") from error

    def locate(self, key: str) -> str:
        return str(self.root / key)


def _walk(base: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below a place, linked ones as well, each once, with the names of its files.

    A folder that is missing, is a file or goes meanwhile, has none. Raises StorageError for one that cannot be listed:
    it must not look empty.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error

    seen = set()
    for folder, folders, names in os.walk(base, onerror=refuse, followlinks=True):
        status = _status(Path(folder))
        identity = None if status is None else (status.st_dev, status.st_ino)
        if identity in seen:  # a link to where the walk has been, perhaps above itself
            folders.clear()
            continue
        seen.add(identity)
        yield folder, names


def _status(path: Path) -> os.stat_result | None:
    """None for what is gone. Raises StorageError for what cannot be looked at, a link to nothing among them."""
    try:
        return path.stat()
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise StorageError(f"{path} is a link to {os.readlink(path)}, which is not there") from None
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror}") from error


def leftovers(storage: Storage) -> list[str]:
    """Temporary files of local writers; an object store has none."""
    return storage.leftovers() if isinstance(storage, LocalStorage) else []


def dead_leftovers(storage: Storage, now_s: float, min_age_s: float) -> list[Entry]:
    """What `sweep_leftovers` of the whole storage would remove, `now_s` being the time by the storage's clock."""
    return storage.dead_leftovers(now_s, min_age_s) if isinstance(storage, LocalStorage) else []


def prune(storage: Storage, prefix: str) -> None:
    """Remove the empty folders at and below this one; an object store has none."""
    if isinstance(storage, LocalStorage):
        storage.prune(prefix)


def clock_s(storage: Storage) -> float:
    """The time by the storage's own clock, seconds since the epoch: that of an object written now and removed again.

    Raises StorageError.
    """
    key = f"probe/{uuid.uuid4().hex}"
    try:
        storage.put(key, b"")
        return next(entry.modified_s for entry in storage.list("probe") if entry.key == key)
    finally:
        storage.delete(key)


def sweep_leftovers(storage: Storage, prefix: str = "", min_age_s: float = LEFT_BEHIND_S) -> int:
    """Remove what killed writers left below `prefix`, never a live writer's; how many files. Raises StorageError."""
    return storage.sweep(prefix, min_age_s) if isinstance(storage, LocalStorage) else 0


def _owner(path: Path) -> int:
    """The user id of a file, or of a link itself."""
    return path.lstat().st_uid


_WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
"""What link(2) says on a file system that has no hard links: exFAT, some network and FUSE file systems."""
_RENAME_NOREPLACE = 1
"""Of renameat2(2)."""
_AT_FDCWD = -100


def _publish_if_absent(temporary: str, path: Path) -> None:
    """Give the file its name unless that is taken (FileExistsError). Raises OSError; StorageError where nothing can.

    Atomic either way; a plain rename would overwrite silently.
    """
    try:
        os.link(temporary, path)  # on NFS too
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        _rename_if_absent(temporary, path)


def _rename_if_absent(temporary: str, path: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if rename is not None:
        names = os.fsencode(temporary), os.fsencode(path)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise StorageError(
            f"cannot write {path}: its file system has neither hard links nor renaming without replacing, so two "
            "commands at once could overwrite each other's work unnoticed; choose a folder on another one (ext4, XFS, "
            "NFS, SMB) or an s3:// address"
        )
    raise OSError(code, os.strerror(code), str(path))
