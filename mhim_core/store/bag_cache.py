"""Decoded bags on a node's own disk: raw arrays, read by mapping, for the workers of one run while they live.

An array is named by its feature file's sha256 and compared with what was decoded when it is written. The folder is
locked by every process that uses it (`mhim_core.temporaries`): the last one removes it, and the next run on the node
removes what killed ones leave.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from mhim_core.fingerprint import sha256
from mhim_core.temporaries import new_temporary, sweep_folders

_PREFIX = "mhim-bags-"
_SPARE_BYTES = 2**30
"""Room left for everyone else on the disk."""
_FULL = "full"
"""A file of this name tells the other workers of the node that one of them has said so."""


class BagFile(NamedTuple):
    """A bag as it is stored here: float16 (N, D)."""

    sha256: str
    """Of the feature file in the store."""
    shape: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return 2 * self.shape[0] * self.shape[1]


class BagCache:
    """What one process sees of it; safe for threads. No failure of the disk is one of training.

    `run` names the run, so that its workers on a node share what they read; `root` "" is the system's temporary
    folder. Of `files` those are kept that fit into `max_bytes`, from the first on: what is read in turns, epoch by
    epoch, a cache that drops the oldest would always have just dropped. `warn` is told once, where nothing can be
    kept (any more).
    """

    def __init__(
        self, root: str, run: str, files: Iterable[BagFile], max_bytes: int, warn: Callable[[str], None]
    ) -> None:
        self._root = Path(root or tempfile.gettempdir())
        self._folder = self._root / f"{_PREFIX}{sha256(f'{os.geteuid()} {run}'.encode())[:16]}"
        self._kept = _fitting(files, max_bytes)
        self._warn = warn
        self._is_writing = True
        self._lock: int | None = None
        if not self._kept:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            sweep_folders(self._root, _PREFIX)
            self._lock = _join(self._folder)
        except OSError as error:
            self._stop(f"{self._root} cannot be written: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder, unless another process uses it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            sweep_folders(self._root, self._folder.name, min_age_s=0.0)

    def read(self, bag: BagFile, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The bag from here, else from `decode`, which is then called once for all processes that ask.

        Changes to the array are the caller's own. Raises what `decode` raises.
        """
        if self._lock is None or bag.sha256 not in self._kept:
            return decode()
        features = self._mapped(bag)
        if features is not None:
            return features
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
            descriptor = os.open(self._folder / f"{bag.sha256}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield
            return
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _mapped(self, bag: BagFile) -> np.ndarray | None:
        path = self._folder / bag.sha256
        try:
            if path.stat().st_size == bag.num_bytes:
                return np.asarray(np.memmap(path, np.float16, mode="c", shape=bag.shape))
        except (OSError, ValueError):
            pass
        return None

    def _write(self, bag: BagFile, features: np.ndarray) -> None:
        if not self._is_writing:
            return
        try:
            if shutil.disk_usage(self._folder).free < bag.num_bytes + _SPARE_BYTES:
                self._stop(f"{self._folder} is full ({_SPARE_BYTES / 1e9:.1f} GB are kept spare)")
                return
            temporary = new_temporary(self._folder)
            try:
                with os.fdopen(temporary.descriptor, "wb") as file:
                    file.write(np.ascontiguousarray(features, np.float16).data)
                    file.flush()
                    written = np.memmap(temporary.path, np.uint16, mode="r", shape=bag.shape)
                    if not np.array_equal(written, features.view(np.uint16)):
                        raise OSError(None, "what was written is not what is there")
                    os.rename(temporary.path, self._folder / bag.sha256)
            finally:
                Path(temporary.path).unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._stop(f"{self._folder} cannot be written: {reason}")

    def _stop(self, finding: str) -> None:
        self._is_writing = False
        if not self._is_said():
            self._warn(f"bags are not kept on this node's disk any more, but read from the store: {finding}")

    def _is_said(self) -> bool:
        """Whether another worker of this node has said so already; from now on one has."""
        if self._lock is None:  # no folder to leave word in
            return False
        try:
            os.close(os.open(self._folder / _FULL, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return True
        except OSError:
            return False
        return False


def kept_bags(root: str, digests: Collection[str]) -> list[Path]:
    """Copies below `root` ("": the system's temporary folder) of the bags whose feature files have these sha256."""
    folders = Path(root or tempfile.gettempdir()).glob(f"{_PREFIX}*")
    return sorted(path for folder in folders for digest in digests if (path := folder / digest).is_file())


def _fitting(files: Iterable[BagFile], max_bytes: int) -> frozenset[str]:
    kept: set[str] = set()
    for bag in files:
        max_bytes -= bag.num_bytes if bag.sha256 not in kept else 0
        if max_bytes < 0:
            break
        kept.add(bag.sha256)
    return frozenset(kept)


def _join(folder: Path) -> int:
    """The lock of this process in the folder, made where it is not there. Raises OSError."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.geteuid() or folder.is_symlink():
            raise PermissionError(None, f"{folder} is another user's")
        with contextlib.suppress(FileNotFoundError):  # swept between its making and its lock
            return new_temporary(folder).descriptor
