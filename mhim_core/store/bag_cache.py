"""Decoded bags on a node's own disk, read by mapping, for all workers, fits and commands of a user there.

A file is a page of canonical JSON (layout, the feature file's sha256, shape, the array's own sha256), then the float16
array, aligned and not compressed. Its name is the sha256 of the feature file, so what a manifest changes has another
name and what it keeps is found again. It becomes visible by a rename, and every process compares both digests when it
first opens it: what is damaged is decoded anew.

Locks (flock) go with their process, however that ends. Every process that uses the folder holds a file in it
(`mhim_core.temporaries`) that lists its bags: those are never removed to make room. `books` holds the folder's size.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.temporaries import PREFIX, Temporary, new_temporary, sweep, sweep_folders

LAYOUT = 1
"""Of the files; raised when they change, for every layout has folders of its own."""
_TEMPORARY = "mhim-bags-"
"""Folders that are removed by the last process that uses them."""
_LASTING = "mhim-bag-cache-"
"""Folders that stay."""
_NEW = "new"
"""The subfolder of files that are being written."""
_PAGE = 4096
_SPARE_BYTES = 2**30
"""Room left for everyone else on the disk."""
_ONE_IN = 64
"""Of the bags that nobody uses, whenever one has to go: to look through the folder takes longer the more there are, and
that often would take longer than to read the bags from the store."""
_JUST_MADE_S = 5.0
_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14."""
_HEX = frozenset("0123456789abcdef")


class BagFile(NamedTuple):
    """A bag as it is stored here: float16 (N, D), or what is kept beside it: int32 (N, W)."""

    sha256: str
    """Of the feature file in the store."""
    shape: tuple[int, int]
    beside: str = ""
    """The name of what is kept beside the features (`mhim_core.bags.Beside`); empty: the features."""

    @property
    def dtype(self) -> type[np.generic]:
        return np.int32 if self.beside else np.float16

    @property
    def num_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.shape[0] * self.shape[1]

    @property
    def name(self) -> str:
        """Of the file here."""
        return sha256(f"{self.beside} {self.sha256}".encode()) if self.beside else self.sha256


class BagCache:
    """What one process sees of it; safe for threads. No failure of the disk is one of training.

    `root` "" is the system's temporary folder. `files` are the bags that this process may ask for. At most `max_bytes`
    lie in the folder: to make room, what no living process uses is removed, the least recently used first. What is in
    use stays, since of bags read in turns, epoch by epoch, the oldest would always be the next one needed.
    `lasting`: the folder stays for later commands; otherwise the last process that uses it removes it. `warn` is told
    of damaged files, and once where nothing can be kept (any more).
    """

    def __init__(
        self,
        root: str,
        files: Iterable[BagFile],
        max_bytes: int,
        warn: Callable[[str], None],
        *,
        lasting: bool = False,
    ) -> None:
        self._root = Path(root or tempfile.gettempdir())
        self._lasting = lasting
        self._folder = self._root / f"{_LASTING if lasting else _TEMPORARY}{LAYOUT}-{os.geteuid()}"
        self._wanted = frozenset(bag.name for bag in files) if max_bytes > 0 else frozenset()
        self._max_bytes = max_bytes
        self._warn = warn
        self._is_writing = True
        self.num_written_bytes = 0
        """By this process."""
        self._verified: dict[str, tuple[int, int]] = {}
        self._membership: Temporary | None = None
        sweep_folders(self._root, _TEMPORARY)  # what killed processes left
        if not self._wanted:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._membership = self._join()
        except OSError as error:
            self._stop(f"{self._root} cannot be written: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the bags of this process; a folder that is not lasting goes with the last one."""
        if self._membership is None:
            return
        if self._lasting:
            with contextlib.suppress(OSError):
                os.unlink(self._membership.path)
        os.close(self._membership.descriptor)
        self._membership = None
        if not self._lasting:
            sweep_folders(self._root, self._folder.name, min_age_s=0.0)

    def keeps(self, bag: BagFile) -> bool:
        """Whether this process has found it here, or put it here."""
        return bag.name in self._verified

    def read(self, bag: BagFile, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The bag from here, else from `decode`, which is then called once for all processes that ask.

        Changes to the array are the caller's own. Raises what `decode` raises.
        """
        if self._membership is None or bag.name not in self._wanted:
            return decode()
        features = self._mapped(bag)
        if features is not None:
            return features
        if not self._is_writing:
            return decode()
        with self._turn(bag):
            features = self._mapped(bag)
            if features is None:
                features = decode()
                self._write(bag, features)
        return features

    @contextmanager
    def _turn(self, bag: BagFile) -> Iterator[None]:
        """While another process or thread reads this bag from the store, wait: it will be here then."""
        try:
            # 256 locks for all bags: that two bags share one only costs a wait
            descriptor = _locked(self._folder / f"turn-{bag.name[:2]}")
        except OSError:
            yield
            return
        try:
            yield
        finally:
            os.close(descriptor)

    def _mapped(self, bag: BagFile) -> np.ndarray | None:
        """None where it is not there (any more), since what is not as it was written is removed."""
        path = self._folder / bag.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            pages = _map(descriptor) if status.st_size == _PAGE + bag.num_bytes else None
            if pages is not None:
                with contextlib.suppress(OSError):  # older kernels
                    pages.madvise(_POPULATE_READ)  # now, in the thread that reads ahead, and not in the step
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)
        version = status.st_ino, status.st_mtime_ns
        if pages is not None and self._verified.get(bag.name) != version:
            if pages[:_PAGE] == _header(bag, _digest(memoryview(pages)[_PAGE:])):
                self._verified[bag.name] = version
            else:
                pages = None
        if pages is None:
            self._remove_damaged(path)
            return None
        return np.frombuffer(pages, bag.dtype, offset=_PAGE).reshape(bag.shape)

    def _remove_damaged(self, path: Path) -> None:
        with contextlib.suppress(OSError), self._books() as books:
            num_bytes = path.lstat().st_size
            path.unlink()
            books.num_bytes -= num_bytes
            self._warn(f"{path} was damaged on this node's disk: its bag is read from the store again")

    def _write(self, bag: BagFile, features: np.ndarray) -> None:
        try:
            temporary = self._reserved(bag)
            if temporary is None:
                return
            try:
                array = np.ascontiguousarray(features, bag.dtype)
                with os.fdopen(temporary.descriptor, "r+b") as file:
                    file.write(_header(bag, _digest(array.data)))
                    file.write(array.data)
                    file.flush()
                    written = np.frombuffer(_map(file.fileno()), np.uint16, offset=_PAGE)
                    if not np.array_equal(written, array.reshape(-1).view(np.uint16)):
                        raise OSError(None, "what was written is not what is there")
                    status = os.fstat(file.fileno())
                    os.rename(temporary.path, self._folder / bag.name)
                self._verified[bag.name] = status.st_ino, status.st_mtime_ns
                self.num_written_bytes += _PAGE + bag.num_bytes
            except BaseException:
                with contextlib.suppress(OSError), self._books() as books:
                    os.unlink(temporary.path)
                    books.num_bytes -= _PAGE + bag.num_bytes
                raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._stop(f"{self._folder} cannot be written: {reason}")

    def _reserved(self, bag: BagFile) -> Temporary | None:
        """A file of the bag's size, which others count from now on; None: there is no room. Raises OSError."""
        num_bytes = _PAGE + bag.num_bytes
        if num_bytes > self._max_bytes:
            return None
        with self._books() as books:
            if finding := self._without_room(num_bytes, books):
                self._stop(finding)
                return None
            temporary = new_temporary(self._folder / _NEW)
            os.ftruncate(temporary.descriptor, num_bytes)
            books.num_bytes += num_bytes
            return temporary

    def _without_room(self, num_bytes: int, books: "_Books") -> str:
        """Remove what nobody uses until there is room for so much; what is in the way if there is none, else ""."""
        finding = self._lacking(num_bytes, books)
        if not finding:
            return ""
        unused = self._unused()
        num_ahead = len(unused) // _ONE_IN
        while unused and (finding or num_ahead):
            num_ahead -= not finding
            path = unused.pop()
            with contextlib.suppress(FileNotFoundError):
                size = path.lstat().st_size
                path.unlink()
                books.num_bytes -= size
            finding = finding and self._lacking(num_bytes, books)
        return finding

    def _lacking(self, num_bytes: int, books: "_Books") -> str:
        """Why there is no room for so much; else ""."""
        if books.num_bytes + num_bytes > self._max_bytes:
            return f"bags in use take {self._max_bytes / 2**30:.3g} GiB of {self._folder}, its limit"
        if shutil.disk_usage(self._folder).free < num_bytes + _SPARE_BYTES:
            return f"{self._folder} is full ({_SPARE_BYTES / 1e9:.1f} GB are kept spare)"
        return ""

    def _unused(self) -> list[Path]:
        """Bags that no living process uses, the least recently used last. The books are held."""
        sweep(self._folder, time.time(), _JUST_MADE_S)
        used: set[str] = set()
        for member in self._folder.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                used.update(member.read_text().split())
        found = [(path.lstat().st_atime_ns, path) for path in self._bags() if path.name not in used]
        return [path for _, path in sorted(found, reverse=True)]

    def _bags(self) -> Iterator[Path]:
        for entry in os.scandir(self._folder):
            if len(entry.name) == 64 and _HEX.issuperset(entry.name):
                yield Path(entry.path)

    def _join(self) -> Temporary:
        """This process's file, which lists its bags; the size of what is there is taken anew. Raises OSError."""
        while True:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            status = self._folder.lstat()
            if status.st_uid != os.geteuid() or self._folder.is_symlink():
                raise PermissionError(None, f"{self._folder} is another user's")
            with contextlib.suppress(FileNotFoundError):  # swept between its making and its lock
                membership = new_temporary(self._folder)
                with self._books() as books:
                    Path(membership.path).write_text("\n".join(sorted(self._wanted)))
                    books.num_bytes = self._take_stock()
                if os.path.exists(membership.path):
                    return membership
                os.close(membership.descriptor)

    def _take_stock(self) -> int:
        """Bytes in the folder; marks what this process will use as used now, and removes what killed writers left."""
        new, now_ns, total = self._folder / _NEW, time.time_ns(), 0
        new.mkdir(mode=0o700, exist_ok=True)
        sweep(self._folder, time.time(), _JUST_MADE_S)
        sweep(new, time.time(), 0.0)  # made and locked while the books are held, as they are now
        for path in self._bags():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                total += status.st_size
                if path.name in self._wanted:
                    os.utime(path, ns=(now_ns, status.st_mtime_ns))
        return total + sum(path.lstat().st_size for path in new.iterdir())

    @contextmanager
    def _books(self) -> Iterator["_Books"]:
        """The folder's size, for this process alone, written down at the end. Raises OSError."""
        descriptor = _locked(self._folder / "books")
        try:
            text = os.pread(descriptor, 32, 0)
            books = _Books(int(text) if text.strip().isdigit() else 0)
            yield books
            os.pwrite(descriptor, f"{max(0, books.num_bytes):<32d}".encode(), 0)
        finally:
            os.close(descriptor)

    def _stop(self, finding: str) -> None:
        if self._is_writing:
            self._is_writing = False
            self._warn(f"bags are not kept on this node's disk any more, but read from the store: {finding}")


class _Books:
    """The bytes of all bags of a folder, those being written included."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


def kept_bags(root: str, digests: Collection[str], besides: Collection[str] = ()) -> list[Path]:
    """Copies below `root` ("": the system's temporary folder) of the bags whose feature files have these sha256, and of
    what is kept beside them under these names."""
    folders = Path(root or tempfile.gettempdir()).glob("mhim-bag*-*")
    names = [BagFile(digest, (0, 0), beside).name for digest in digests for beside in ("", *besides)]
    return sorted(path for folder in folders for name in names if (path := folder / name).is_file())


def _header(bag: BagFile, array_sha256: str) -> bytes:
    facts = {"layout": LAYOUT, "dtype": np.dtype(bag.dtype).name, "shape": bag.shape, "of": bag.sha256}
    facts |= {"array": array_sha256} | ({"beside": bag.beside} if bag.beside else {})
    return canonical_json(facts).ljust(_PAGE, b"\n")


def _digest(array: memoryview) -> str:
    return hashlib.sha256(array).hexdigest()


def _map(descriptor: int) -> mmap.mmap:
    """The whole file, changes to which are the caller's own. Raises OSError, ValueError."""
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _locked(path: Path) -> int:
    """The open file, locked for this descriptor alone where the file system has locks. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
