"""A remote slide on the local disk for as long as it is read: space checked before, size after, removed always."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mhim_core.errors import NotFoundError, SlideError
from mhim_core.types import FailureReason

_SPARE_BYTES = 256 * 1024**2
"""Room left for everyone else on the disk."""
_MULTI_FILE_SUFFIXES = frozenset({".mrxs", ".vms", ".vmu"})


@contextmanager
def staged(
    uri: str, download: Callable[[str, Path], None], root: str | Path | None = None, num_bytes: int | None = None
) -> Iterator[Path]:
    """The slide as a local file: a local path as it is, an `s3://` object as a temporary copy under `root`.

    `download(uri, path)` writes the object; `num_bytes` is its size where known; `root` None is the system's temporary
    folder. The copy keeps the file's suffix and goes at exit, on errors too. Raises SlideError: NO_SPACE, NOT_FOUND,
    STORAGE (the copy is not as long as the object), OPEN (a format of several files); errors of `download` pass.
    """
    if "://" not in uri:
        yield Path(uri)
        return
    suffix = PurePosixPath(uri).suffix
    if suffix.lower() in _MULTI_FILE_SUFFIXES:
        raise SlideError(
            FailureReason.OPEN, f"a {suffix} slide is several files and cannot be staged; use a mounted folder"
        )
    if root is not None:
        Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mhim-staged-", dir=root) as folder:
        path = Path(folder, f"slide{suffix}")
        _check_space(Path(folder), num_bytes)
        _fetch(uri, path, download, num_bytes)
        yield path


def _check_space(folder: Path, num_bytes: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes is not None and num_bytes + _SPARE_BYTES > free:
        raise SlideError(
            FailureReason.NO_SPACE,
            f"the slide has {num_bytes / 1e9:.2f} GB and the staging disk {free / 1e9:.2f} GB free "
            f"({_SPARE_BYTES / 1e9:.2f} GB are kept spare); free space or set another staging folder",
        )


def _fetch(uri: str, path: Path, download: Callable[[str, Path], None], num_bytes: int | None) -> None:
    try:
        download(uri, path)
    except NotFoundError as error:
        raise SlideError(
            FailureReason.NOT_FOUND, "the slide's object does not exist; check the cohort's path"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SlideError(FailureReason.NO_SPACE, "the staging disk filled up while the slide was copied") from error
        raise
    num_staged = path.stat().st_size if path.exists() else 0
    if num_bytes is not None and num_staged != num_bytes:
        raise SlideError(
            FailureReason.STORAGE, f"the staged copy has {num_staged:,} bytes and the object {num_bytes:,}; run again"
        )
