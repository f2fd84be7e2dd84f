"""Remote slides kept on a node's disk for whoever reads them next: bounded in size, the least recently used go first.

`mhim-slide-cache/` in the staging folder holds a folder for each slide that is whole, and beside it a lock (flock),
held shared by those who read the slide, alone by who fetches or removes it. So readers of one slide wait for one
download, what is read is never removed, and a lock goes with its process, however that ends. A download lies in a
folder of its own (`slides/staging.py`) until it is whole, and is swept where its process died. `books.lock` is held
while somebody looks for room, never during a download.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mhim_core.errors import NotFoundError, SlideError
from mhim_core.slides.ranged_file import NO_ROOM
from mhim_core.slides.staging import CACHE, PREFIX, SPARE_BYTES, num_bytes_of, num_promised, sweep_staged
from mhim_core.temporaries import new_owned_folder
from mhim_core.types import FailureReason

_GONE = "gone-"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class SlideCache:
    """The cache of a staging folder; every process of the node may have its own object."""

    def __init__(self, staging_dir: str | Path | None, max_bytes: int) -> None:
        """Raises SlideError(NO_SPACE) where the folder cannot be made, or is somebody else's."""
        self.max_bytes = max_bytes
        self._staging_dir = Path(staging_dir or tempfile.gettempdir())
        self._root = self._staging_dir / CACHE
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self._root.lstat()
        except OSError as error:
            raise self._unusable(error.strerror or type(error).__name__) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise self._unusable("it is another user's")

    @contextmanager
    def held(self, key: str, num_bytes: int, fill: Callable[[Path], None]) -> Iterator[Path | None]:
        """The folder of the slide `key`, which `fill(folder)` writes where it is not there yet, all of `num_bytes`.

        It is not removed while the block runs. None where it cannot be kept: it is too large, there is no room beside
        those in use, or the file system has no locks. Raises SlideError(NOT_FOUND, NO_SPACE), and what `fill` does.
        """
        try:
            lock = self._lock_of(key, num_bytes, fill)
        except OSError as error:
            if error.errno not in (*_NO_LOCKS, *NO_ROOM):
                raise self._unusable(error.strerror or type(error).__name__) from error
            lock = None
        if lock is None:
            yield None
            return
        try:
            yield self._root / key
        finally:
            with contextlib.suppress(OSError):
                os.utime(self._root / key)
            os.close(lock)

    def make_room(self, num_bytes: int, max_bytes: int | None = None) -> bool:
        """Remove what was not used for longest until the disk, and `max_bytes` of the cache, hold so much more.

        False: what is left is in use. Raises OSError.
        """
        copies = sweep_staged(self._staging_dir)
        coming = sum(int(folder.name.split("-")[3]) for folder in copies if folder.parent == self._root)
        slides = self._slides()
        sizes = {slide.folder: slide.num_bytes for slide in slides}
        for folder in [*(slide.folder for slide in slides), None]:
            promised = sum(map(num_promised, copies))
            has_disk = shutil.disk_usage(self._root).free - promised >= num_bytes + SPARE_BYTES
            has_share = max_bytes is None or sum(sizes.values()) + coming + num_bytes <= max_bytes
            if has_disk and has_share:
                return True
            if folder is not None and self._remove_if_unused(folder.name):
                del sizes[folder]
        return False

    def _slides(self) -> "list[_Kept]":
        """The one that was not used for longest first."""
        slides = []
        for path in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):  # somebody is removing it
                if path.is_dir() and not path.name.startswith((PREFIX, _GONE)):
                    slides.append(_Kept(path.stat().st_mtime_ns, path, num_bytes_of(path)))
        return sorted(slides)

    def _lock_of(self, key: str, num_bytes: int, fill: Callable[[Path], None]) -> int | None:
        """The shared lock of the slide, which is there; None where it cannot be kept. Raises OSError, SlideError."""
        folder, path = self._root / key, self._root / f"{key}.lock"
        while True:
            lock = _locked(path, fcntl.LOCK_SH)
            if _is_whole(folder, num_bytes):
                os.utime(folder)
                return lock
            os.close(lock)
            lock = _locked(path, fcntl.LOCK_EX)  # waits for who fetches it
            try:
                if not _is_whole(folder, num_bytes) and not self._fetch(folder, num_bytes, fill):
                    path.unlink()
                    return None
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(lock)

    def _fetch(self, folder: Path, num_bytes: int, fill: Callable[[Path], None]) -> bool:
        """False where there is no room."""
        self._take_away(folder)  # not as it was fetched: somebody has been there
        books = _locked(self._root / "books.lock", fcntl.LOCK_EX)
        try:
            for gone in self._root.glob(f"{_GONE}*"):
                shutil.rmtree(gone, ignore_errors=True)
            if num_bytes > self.max_bytes:
                self.make_room(num_bytes)
                return False
            if not self.make_room(num_bytes, self.max_bytes):
                return False
            owned = new_owned_folder(self._root, f"{PREFIX}{os.getpid()}-{num_bytes}-")
        finally:
            os.close(books)
        try:
            files = Path(owned.path).with_name("files")
            files.mkdir()
            fill(files)
            _sync(files)
            files.rename(folder)
        except NotFoundError as error:
            message = "the slide's object does not exist; check the cohort's path"
            raise SlideError(FailureReason.NOT_FOUND, message) from error
        except SlideError as error:
            if error.reason is FailureReason.NO_SPACE:
                return False
            raise
        finally:
            shutil.rmtree(Path(owned.path).parent, ignore_errors=True)
            os.close(owned.descriptor)
        return True

    def _remove_if_unused(self, key: str) -> bool:
        path = self._root / f"{key}.lock"
        try:
            lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            self._take_away(self._root / key)
            path.unlink()
        finally:
            os.close(lock)
        return True

    def _take_away(self, folder: Path) -> None:
        """At once out of sight, then off the disk: killed in between, it is not taken for a whole slide."""
        gone = self._root / f"{_GONE}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _unusable(self, why: str) -> SlideError:
        message = f"the slide cache {self._root} cannot be used: {why}; set staging_dir= to a folder of yours"
        return SlideError(FailureReason.NO_SPACE, message)


class _Kept(NamedTuple):
    """A slide that is whole."""

    used_ns: int
    folder: Path
    num_bytes: int


def is_cache_made(staging_dir: str | Path | None) -> bool:
    """Whether anything was ever kept there."""
    return (Path(staging_dir or tempfile.gettempdir()) / CACHE).is_dir()


def _locked(path: Path, kind: int) -> int:
    """A descriptor of the lock that lies there now, and not of one that was removed meanwhile. Raises OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_whole(folder: Path, num_bytes: int) -> bool:
    return folder.is_dir() and num_bytes_of(folder) == num_bytes


def _sync(folder: Path) -> None:
    """Before its name says that it is whole: a power cut must not leave holes under it."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
